"""The connections that pass a front: their last bytes arrive, and none is left when it ends (V16)."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cellward.runtime.clock import SystemClock
from hub.front.front import Front
from hub.front.inside import Inside
from hub.front.limits import LINK
from hub.front.lobby import Guest
from hub.front.through import Through

NOBODY = {"silent": 0, "opening": 0, "known": 0}


class Behind:
    """A server on a Unix socket that a test plays by hand."""

    def __init__(self, path: Path, linger: float) -> None:
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.setblocking(False)  # noqa: FBT003 - the name of the standard library
        self.listening.bind(str(path))
        self.listening.listen()
        self.through = Through(str(path), linger)
        self.front = Front("127.0.0.1", 0, LINK, SystemClock(), self.through)

    async def connected(self) -> tuple[socket.socket, socket.socket]:
        """A connection through the front: the peer's end and the server's, a request and an answer already passed."""
        loop = asyncio.get_running_loop()
        peer = await speaking(self.front, b"request")
        server, _ = await loop.sock_accept(self.listening)
        server.setblocking(False)  # noqa: FBT003 - the name of the standard library
        assert await loop.sock_recv(server, 100) == b"request"
        server.send(b"answer")
        assert await loop.sock_recv(peer, 100) == b"answer"
        return peer, server


@pytest.fixture
async def behind(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Behind]:
    """A front with a server behind it; a test may say how long a last end has."""
    made = Behind(tmp_path / "server", getattr(request, "param", 600.0))
    made.front.start()
    yield made
    await made.front.close()
    await made.front.end(0.0)
    made.listening.close()


async def speaking(front: Front, said: bytes) -> socket.socket:
    """A peer that has connected and said something."""
    peer = socket.socket()
    peer.setblocking(False)  # noqa: FBT003 - the name of the standard library
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", front.port))
    peer.send(said)
    return peer


def descriptors() -> int:
    """How many this process has open; what earlier tests left to the collector is none of ours."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(done: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.005)


async def heard(peer: socket.socket) -> bytes:
    """Everything that comes until the end."""
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        while piece := await loop.sock_recv(peer, 65536):
            found += piece
    return found


def accepted() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection: the peer's, and the one that a front has accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        connection, _ = listening.accept()
    for each in (peer, connection):
        each.setblocking(False)  # noqa: FBT003 - the name of the standard library
    return peer, connection


async def test_two_listeners_have_guests_of_one_number_at_one_address(tmp_path: Path) -> None:
    """Two hubs of one machine, or two listeners of one: two connections of a client may come from one port."""
    loop, port = asyncio.get_running_loop(), 0
    behinds = [Behind(tmp_path / name, 600.0) for name in ("link", "enrolment")]
    ends: list[socket.socket] = []
    for behind in behinds:
        behind.front.start()
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer.setblocking(False)  # noqa: FBT003 - the name of the standard library
        peer.bind(("127.0.0.1", port))
        await loop.sock_connect(peer, ("127.0.0.1", behind.front.port))
        port = peer.getsockname()[1]
        peer.send(b"request")
        async with asyncio.timeout(30):
            server, _ = await loop.sock_accept(behind.listening)
            server.setblocking(False)  # noqa: FBT003 - the name of the standard library
            assert await loop.sock_recv(server, 100) == b"request"
        ends += [peer, server]
    for end in ends:
        end.close()
    for behind in behinds:
        await behind.front.close()
        await behind.front.end(0.0)
        behind.listening.close()


async def test_the_last_answer_arrives_although_the_peer_spoke_meanwhile(behind: Behind) -> None:
    """A server answers and closes while more of the peer is under way, as gRPC does when it goes away."""
    peer, server = await behind.connected()
    # All of it happens before the front has its turn, which then meets a server that takes nothing more.
    peer.send(b"more")
    server.send(b"the last answer")
    server.close()
    assert await heard(peer) == b"the last answer"
    peer.close()


async def test_everything_arrives_in_order_whoever_is_slower(behind: Behind) -> None:
    """Both ways at once, more than the sockets keep, read in small pieces; and the end of it comes after all of it."""
    loop, peer_and_server = asyncio.get_running_loop(), await behind.connected()
    sent = [random.Random(number).randbytes(4 << 20) for number in range(2)]

    async def read(connection: socket.socket, pause: float) -> bytes:
        found = bytearray()
        while len(found) < 4 << 20:
            found += await loop.sock_recv(connection, 50_000)
            await asyncio.sleep(pause)
        return bytes(found)

    async with asyncio.timeout(60):
        got = await asyncio.gather(
            read(peer_and_server[1], 0.001),
            read(peer_and_server[0], 0.0),
            *(loop.sock_sendall(end, data) for end, data in zip(peer_and_server, sent, strict=True)),
        )
    assert got[0] == sent[0]
    assert got[1] == sent[1]
    flood = bytes(1 << 20)
    sending = asyncio.ensure_future(loop.sock_sendall(peer_and_server[1], flood))
    found = await loop.sock_recv(peer_and_server[0], 10)
    await sending
    peer_and_server[1].close()
    assert len(found + await heard(peer_and_server[0])) == len(flood)
    peer_and_server[0].close()


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
    assert behind.front.lobby.counts() == NOBODY


async def test_v16_live_connections_are_cut_when_a_front_ends(behind: Behind) -> None:
    """V16: neither a server that closes nothing nor one that takes nothing keeps an end of it open."""
    before = descriptors()
    pairs = [await behind.connected() for _ in range(3)]
    # The last server reads nothing more, so the front reads nothing more of its peer, nor sees an end of it.
    flooding = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(pairs[2][0], bytes(64 << 20)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flooding, 0.3)
    await behind.front.close()
    await behind.front.end(0.0)
    assert descriptors() == before - 1 + 6
    assert behind.front.lobby.counts() == NOBODY
    for each in (each for pair in pairs for each in pair):
        each.close()


async def test_v16_an_end_that_lingers_is_cut_when_a_front_ends(behind: Behind) -> None:
    """V16: a peer that has gone leaves the server's end open for a while, which is no part of what is counted."""
    before = descriptors()
    peer, server = await behind.connected()
    peer.close()
    await until(lambda: behind.front.lobby.counts() == NOBODY)
    await behind.front.close()
    await behind.front.end(0.0)
    assert descriptors() == before - 1 + 1
    server.close()


async def test_v16_a_cancelled_end_leaves_nothing_either(behind: Behind) -> None:
    """V16: a hub that is cancelled while it waits for its peers closes their connections."""
    before = descriptors()
    peer, server = await behind.connected()
    await behind.front.close()
    ending = asyncio.ensure_future(behind.front.end(600.0))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert descriptors() == before - 1 + 2
    assert behind.front.lobby.counts() == NOBODY
    peer.close()
    server.close()


@pytest.mark.parametrize("behind", [0.05], indirect=True)
@pytest.mark.parametrize("first", ["peer", "server"])
async def test_the_end_that_is_left_is_closed_in_time(behind: Behind, first: str) -> None:
    """Whichever side goes first, the other one does not keep a connection by not going."""
    before = descriptors()
    peer, server = await behind.connected()
    gone, left = (peer, server) if first == "peer" else (server, peer)
    gone.close()
    await until(lambda: descriptors() == before + 1)
    assert behind.front.lobby.counts() == NOBODY
    left.close()


@pytest.mark.parametrize("turns", range(8))
async def test_v16_cancelled_while_it_connects_leaves_neither_end_open(behind: Behind, turns: int) -> None:
    """V16: at whichever turn of the loop; both sides see the end, and nobody is told that a guest has gone."""
    peer, connection = accepted()
    before, gone = descriptors(), []
    taking = asyncio.ensure_future(
        behind.through.take(connection, Guest(1, "127.0.0.1", 0.0, peer="ipv4:127.0.0.1:1"), lambda: gone.append(1))
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    if taking.cancel():
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert not gone
    else:
        # It had connected by then: the longest way there is has been walked.
        assert turns > 0
        await behind.through.end()
        assert gone == [1]
    connection.close()
    assert descriptors() == before - 1
    assert await heard(peer) == b""
    peer.close()


async def test_v16_a_connection_that_is_dead_by_then_leaves_no_end_open(behind: Behind) -> None:
    """V16: the server's end is connected when it turns out that there is nothing to connect it with."""
    peer, connection = accepted()
    before, gone = descriptors(), []
    connection.close()
    with pytest.raises(OSError, match=r"."):
        await behind.through.take(
            connection, Guest(1, "127.0.0.1", 0.0, peer="ipv4:127.0.0.1:1"), lambda: gone.append(1)
        )
    server, _ = await asyncio.get_running_loop().sock_accept(behind.listening)
    assert descriptors() == before - 1 + 1
    assert server.recv(1) == b""
    assert not gone
    server.close()
    peer.close()


async def test_v16_a_peer_that_resets_before_it_is_connected_is_gone(behind: Behind) -> None:
    """V16: the server behind hears the end of it, and the place of the guest is free."""
    before = descriptors()
    peer = await speaking(behind.front, b"request")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    server, _ = await asyncio.get_running_loop().sock_accept(behind.listening)
    server.setblocking(False)  # noqa: FBT003 - the name of the standard library
    await heard(server)
    server.close()
    await until(lambda: descriptors() == before)
    assert behind.front.lobby.counts() == NOBODY


async def test_a_server_that_is_not_there_costs_the_connection(tmp_path: Path) -> None:
    """Nobody listens behind: the peer is let go and nothing stays open."""
    before = descriptors()
    front = Front("127.0.0.1", 0, LINK, SystemClock(), Through(str(tmp_path / "nobody")))
    front.start()
    peer = await speaking(front, b"request")
    with pytest.raises(ConnectionResetError):
        await heard(peer)
    assert front.lobby.counts() == NOBODY
    peer.close()
    await front.close()
    await front.end(0.0)
    assert descriptors() == before


class Never:
    """Takes a connection over and never comes to an end with it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Never return."""
        del connection, guest, gone
        self.begun.set()
        await asyncio.Event().wait()

    def cut(self, guest: Guest) -> None:
        """Nothing was taken."""

    async def end(self) -> None:
        """Nothing was taken."""


@pytest.mark.parametrize("begun", [True, False])
async def test_v16_a_connection_that_is_being_handed_on_is_closed(begun: bool) -> None:
    """V16: whether the task that hands it on has had its first step or not."""
    before, never = descriptors(), Never()
    front = Front("127.0.0.1", 0, LINK, SystemClock(), never)
    front.start()
    peer = await speaking(front, b"request")
    if begun:
        await never.begun.wait()
    else:
        await until(lambda: front.lobby.counts()["silent"] == 1)
        [guest] = front._sockets
        front._spoke(guest)
        for task in front._tasks:
            task.cancel()
    await front.close()
    await front.end(0.0)
    assert never.begun.is_set() is begun
    assert front.lobby.counts() == NOBODY
    peer.close()
    assert descriptors() == before


class Deaf(asyncio.Protocol):
    """A protocol of this process that lets a connection stay half open for ever."""

    def eof_received(self) -> bool:
        """Stay."""
        return True


async def test_v16_a_protocol_that_does_not_close_is_cut_off() -> None:
    """V16: the connections of a server in this process end with the front as well."""
    before = descriptors()
    front = Front("127.0.0.1", 0, LINK, SystemClock(), Inside(Deaf, None))
    front.start()
    peer = await speaking(front, b"request")
    await until(lambda: front.lobby.counts()["opening"] == 1)
    await front.close()
    await front.end(0.0)
    peer.close()
    assert descriptors() == before
    assert front.lobby.counts() == NOBODY


class Full(asyncio.Protocol):
    """A protocol of this process that reads nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read nothing."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()


async def test_v4_a_connection_that_nobody_reads_is_cut_as_well() -> None:
    """V4: who does not read, and so sees no end, loses a forgotten owner's connection all the same."""
    before = descriptors()
    front = Front("127.0.0.1", 0, LINK, SystemClock(), Inside(Full, None))
    front.start()
    peer = await speaking(front, b"request")
    host, port = peer.getsockname()
    await until(lambda: front.lobby.counts()["opening"] == 1)
    front.known(f"ipv4:{host}:{port}", "ada")
    front.forget("ada")
    # What listens, and the peer's own end.
    await until(lambda: descriptors() == before + 2)
    assert front.lobby.counts() == NOBODY
    peer.close()
    await front.close()
    await front.end(0.0)
