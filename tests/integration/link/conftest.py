"""A hub on loopback, quick to look again; a module with other limits in mind makes its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cellward.runtime.clock import SystemClock
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.streams import LIMITS


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback."""
    async with FakeLinkHub(SystemClock(), LIMITS).running() as hub:
        yield hub
