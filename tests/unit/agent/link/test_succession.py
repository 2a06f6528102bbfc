"""How fast one session follows the other, whatever a hub says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, cast

import pytest

from agent.link import succession
from agent.link.channels import ChannelHolder
from agent.link.session import DrainRequest, Session
from agent.link.succession import FREE, Succession
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry


class Drained:
    """A session that the hub drains at once, to come back without any delay."""

    def __init__(self) -> None:
        self.welcomed = asyncio.Event()

    async def run(self) -> DrainRequest:
        """End well."""
        await asyncio.sleep(0)
        return DrainRequest(0.0, 0.0)


class Channels:
    """One channel that is always there."""

    def __init__(self) -> None:
        self.channel = object()
        self.changed = asyncio.Event()


async def test_v16_a_hub_that_drains_at_once_again_and_again_is_not_followed_at_full_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """V16: each session costs the agent a handshake, a look at the API server and a read of all its floors."""

    async def yes(*_: object) -> bool:
        return True

    monkeypatch.setattr(succession, "connected", yes)
    made: list[Drained] = []

    def make(_: Any) -> Session:
        made.append(Drained())
        return cast("Session", made[-1])

    succeeding = Succession(
        cast("ChannelHolder", Channels()), make, HealthRegistry(), SystemClock(), FullJitter(), random.Random(1)
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.8):
            await succeeding.run()
    assert len(made) == FREE + 1
