"""What tests of the Sync stream begin with: an agent that joined, its stream, and its Hello."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cellward.wire.codec import DesiredItem, item_from_wire
from cellward.wire.v1 import link_pb2
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import BareAgent, BareStream, stream
from tests.fakes.ports import FakeLinkHub

LIMITS = SyncLimits(recheck=0.1, heartbeat=5.0, linger=0.3)


def item(cell: str, digit: str = "1", **more: Any) -> DesiredItem:
    """An item of the shop."""
    return DesiredItem(0, "shop", cell, "dev", "sha256:" + digit * 64, ("sha256:" + "e" * 64,), **more)


async def joined(here: FakeLinkHub, name: str = "eu-1") -> BareAgent:
    """An agent that joined."""
    agent = BareAgent(name)
    await agent.join(here, await here.invite(name))
    return agent


@asynccontextmanager
async def opened(here: FakeLinkHub, agent: BareAgent, stream_id: str = "s-1") -> AsyncIterator[BareStream]:
    """A fresh stream on a channel of its own, before Hello."""
    async with agent.channel(here) as channel, stream(channel, stream_id) as link:
        yield link


async def welcomed(
    link: BareStream, agent: BareAgent, **hello: Any
) -> tuple[link_pb2.Welcome, list[DesiredItem], link_pb2.RevisionMark]:
    """Say Hello; returns the Welcome, the items that followed, and the mark."""
    await link.send(hello=agent.hello(**hello))
    welcome = (await link.receive("welcome")).welcome
    items: list[DesiredItem] = []
    while True:
        frame = await link.receive()
        if frame.WhichOneof("body") == "revision_mark":
            return welcome, items, frame.revision_mark
        items.append(item_from_wire(frame.desired_item))
