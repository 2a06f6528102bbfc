"""Presence of streams: in the order of what happened, whoever is cancelled, and although the store was away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from cellward.runtime.clock import SystemClock
from hub.store.errors import UNAVAILABLE
from hub.store.links import PresenceRow
from hub.sync.links import Links
from tests.fakes.links import MemoryLinks
from tests.fakes.ports import FakeChanges
from tests.fakes.refusals import refused


class SlowLinks(MemoryLinks):
    """Begins to write nothing before ``gate`` is set; ``away`` lets it fail."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.gate = asyncio.Event()
        self.away = False

    async def opened(self, rows: Sequence[PresenceRow]) -> None:
        """Wait, and note streams."""
        await self.gate.wait()
        await super().opened(rows)

    async def closed(self, streams: Sequence[tuple[str, str]]) -> None:
        """Forget streams, or fail."""
        if self.away:
            raise UNAVAILABLE("the store is away")
        await super().closed(streams)


def links(store: MemoryLinks) -> Links:
    """The streams of one process."""
    return Links(store, FakeChanges(), "this", SystemClock())


async def test_the_end_of_a_stream_never_overtakes_its_beginning() -> None:
    """A call that is cancelled while its stream is being noted leaves none behind."""
    store = SlowLinks()
    here = links(store)
    other = asyncio.ensure_future(here.opened("us-1", "s-0", "boot"))
    await asyncio.sleep(0)
    opening = asyncio.ensure_future(here.opened("eu-1", "s-1", "boot"))
    await asyncio.sleep(0)
    opening.cancel()
    with suppress(asyncio.CancelledError):
        await opening
    closing = asyncio.ensure_future(here.closed("eu-1", "s-1"))
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(other, closing)
    assert set(store.streams) == {"us-1"}


async def test_an_end_that_the_store_did_not_take_is_written_with_the_next_news() -> None:
    """And a newer stream of the same cluster stays."""
    store = SlowLinks()
    store.gate.set()
    here = links(store)
    for name in ("eu-1", "us-1"):
        await here.opened(name, "s-1", "boot")
    store.away = True
    for name in ("eu-1", "us-1"):
        with refused("store/unavailable"):
            await here.closed(name, "s-1")
    store.away = False
    await here.opened("eu-1", "s-2", "boot")
    assert {name: row.stream for name, row in store.streams.items()} == {"eu-1": "s-2"}
