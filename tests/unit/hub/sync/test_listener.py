"""A listener that is stopped lets go of its connections, however its own end goes (V16)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from cellward.runtime.clock import SystemClock
from hub.front.front import Front
from hub.front.inside import Inside
from hub.front.limits import LINK
from hub.sync.servers import Listener


class Stuck:
    """A server that does not come to its end."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()

    async def stop(self, *, grace: float) -> None:
        """Never return."""
        del grace
        self.stopping.set()
        await asyncio.Event().wait()


async def test_v16_a_listener_whose_stop_is_cancelled_lets_go_of_its_connections(tmp_path: Path) -> None:
    """V16: a loop that ends cancels whoever still waits for the server behind; the peer sees the end all the same."""
    stuck, lost = Stuck(), asyncio.Event()
    front = Front("127.0.0.1", 0, LINK, SystemClock(), Inside(lambda: Told(lost), None))
    listener = Listener(cast("Any", stuck), "127.0.0.1", front, tmp_path / "place")
    front.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"request")
    async with asyncio.timeout(30):
        while not front.lobby.counts()["opening"]:
            await asyncio.sleep(0.005)
    stopping = asyncio.ensure_future(listener.stop(600.0))
    await stuck.stopping.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert lost.is_set()
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


class Told(asyncio.Protocol):
    """A protocol that says when its connection is lost."""

    def __init__(self, lost: asyncio.Event) -> None:
        self._lost = lost

    def connection_lost(self, exc: Exception | None) -> None:
        """Say it."""
        del exc
        self._lost.set()
