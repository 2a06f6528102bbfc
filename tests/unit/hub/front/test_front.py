"""The connections that pass a front: their last bytes arrive, and none is left when it ends (V16)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cellward.runtime.clock import SystemClock
from hub.front.front import Front, Through
from hub.front.limits import LINK


class Behind:
    """A server on a Unix socket that a test plays by hand."""

    def __init__(self, path: Path) -> None:
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.setblocking(False)  # noqa: FBT003 - the name of the standard library
        self.listening.bind(str(path))
        self.listening.listen()
        self.front = Front("127.0.0.1", 0, LINK, SystemClock(), Through(str(path)))

    async def connected(self) -> tuple[socket.socket, socket.socket]:
        """A connection through the front: the peer's end and the server's, a request and an answer already passed."""
        loop = asyncio.get_running_loop()
        peer = socket.socket()
        peer.setblocking(False)  # noqa: FBT003 - the name of the standard library
        await loop.sock_connect(peer, ("127.0.0.1", self.front.port))
        peer.send(b"request")
        server, _ = await loop.sock_accept(self.listening)
        server.setblocking(False)  # noqa: FBT003 - the name of the standard library
        assert await loop.sock_recv(server, 100) == b"request"
        server.send(b"answer")
        assert await loop.sock_recv(peer, 100) == b"answer"
        return peer, server


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    """A front with a server behind it."""
    made = Behind(tmp_path / "server")
    made.front.start()
    yield made
    await made.front.close()
    await made.front.end(0.0)
    made.listening.close()


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def heard(peer: socket.socket) -> bytes:
    """Everything that comes until the end."""
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(5.0):
        while piece := await loop.sock_recv(peer, 65536):
            found += piece
    return found


async def test_the_last_answer_arrives_although_the_peer_spoke_meanwhile(behind: Behind) -> None:
    """A server answers and closes while more of the peer is under way, as gRPC does when it goes away."""
    peer, server = await behind.connected()
    # All of it happens before the front has its turn, which then meets a server that takes nothing more.
    peer.send(b"more")
    server.send(b"the last answer")
    server.close()
    assert await heard(peer) == b"the last answer"
    peer.close()


async def test_v16_no_connection_is_left_when_a_front_ends(behind: Behind) -> None:
    """V16: whoever does not take the end of it is let go; neither a descriptor nor a transport stays behind."""
    before = descriptors()
    pairs = [await behind.connected() for _ in range(3)]
    await behind.front.close()
    for _, server in pairs:
        server.close()
    pairs[1][0].send(b"whoever reads this has gone")
    await behind.front.end(0.1)
    assert [await heard(peer) for peer, _ in pairs] == [b"", b"", b""]
    for peer, _ in pairs:
        peer.close()
    # What listened is closed as well.
    assert descriptors() == before - 1
    assert behind.front.lobby.counts() == {"silent": 0, "opening": 0, "known": 0}
