"""A listening socket whose connections are counted before anybody behind it spends anything on them.

A connection costs one descriptor and a small object until its first byte; only then it is handed on: to a protocol in
this process (``Inside``), or through a Unix socket that nobody else may open to a server that takes no accepted sockets
(``Through``: gRPC). The name of our end of that socket says who is at the other one (``authority.limits.peer_of``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Protocol

import structlog

from cellward.runtime.clock import Clock
from cellward.runtime.tasks import heard
from hub.authority.limits import address_of
from hub.front.limits import FrontLimits
from hub.front.lobby import Guest, Lobby

#: Begins the name of our end of a Unix socket.
PREFIX = "cellward/"
#: Seconds between two looks for who is overdue, and after an accept that failed for want of descriptors.
_LOOK, _PAUSE = 0.25, 0.05
#: Connections accepted in one go.
_AT_ONCE = 64
#: Seconds a peer has to take the last bytes of a connection that ended behind.
_LINGER = 10.0
#: Seconds peers have to take the last bytes of a server that has stopped, and then to notice that they are let go.
_PATIENCE, _FAREWELL = 1.0, 1.0
#: Bytes read at once of what is left in a connection, and how often: more than a socket keeps.
_PIECE, _PIECES = 262144, 16
_log = structlog.get_logger()


class HandOn(Protocol):
    """Where a connection goes once it speaks."""

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over; ``gone`` is called once when it has ended, or nothing when this raises."""
        ...


class Front:
    """One listener; bound when made, accepting once ``start`` was called."""

    def __init__(self, host: str, port: int, limits: FrontLimits, clock: Clock, hand_on: HandOn) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server(
            (host, port), family=family, backlog=1024, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
        self._listening.setblocking(False)  # noqa: FBT003 - the name of the standard library
        self.port: int = self._listening.getsockname()[1]
        self.lobby = Lobby(limits, clock)
        self._hand_on = hand_on
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: dict[Guest, socket.socket] = {}
        self._peers: dict[str, int] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self) -> None:
        """Begin to accept."""
        self._listen()
        self._run(self._watch(), "front-watch")

    async def close(self) -> None:
        """Accept no more, and let go of whoever has not spoken yet; the others are for the server behind."""
        if self._pause is not None:
            self._pause.cancel()
        tasks = [task for task in self._tasks if task.get_name() == "front-watch"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        for guest in [guest for guest in self._sockets if guest.state == "silent"]:
            self._cut(guest)

    async def end(self, patience: float = _PATIENCE) -> None:
        """Let go of whoever is left ``patience`` seconds after the server behind has stopped; call ``close`` first.

        Nothing of a connection is left in this process then: no descriptor, and nothing that the loop still watches.
        """
        await self._gone_within(patience)
        for connection in self._sockets.values():
            # Whoever has it by now reads the end of it and lets go.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        await self._gone_within(_FAREWELL)

    def abandon(self) -> None:
        """Give the address back before anything was accepted."""
        self._listening.close()

    def known(self, peer: str) -> None:
        """Hear from the server behind that a peer has proven who it is; by gRPC's text, or ``text_of`` its address."""
        number = self._peers.get(peer) or guest_of(peer)
        if number is not None:
            self.lobby.known(number)

    def _accept(self) -> None:
        """Take whoever waits, some at a time: others have their turn in between."""
        for _ in range(_AT_ONCE):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # Out of descriptors, or a connection that went at once: whoever waits in the backlog is next.
                _log.warning("accept-failed", error=type(error).__name__, number=error.errno)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listening)
                self._pause = loop.call_later(_PAUSE, self._listen)
                return
            self._arrived(connection, peer)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _arrived(self, connection: socket.socket, peer: tuple[object, ...]) -> None:
        text = text_of(peer)
        guest, cut = self.lobby.admit(address_of(text))
        for other in cut:
            self._cut(other)
        if guest is None:
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003 - the name of the standard library
        guest.peer = text
        self._sockets[guest] = connection
        self._empty.clear()
        self._peers[text] = guest.number
        asyncio.get_running_loop().add_reader(connection, self._spoke, guest)

    def _spoke(self, guest: Guest) -> None:
        connection = self._sockets[guest]
        asyncio.get_running_loop().remove_reader(connection)
        self.lobby.spoke(guest)
        self._run(self._hand(guest, connection), "front-hand-on")

    async def _hand(self, guest: Guest, connection: socket.socket) -> None:
        try:
            await self._hand_on.take(connection, guest, lambda: self._gone(guest))
        except Exception as error:  # noqa: BLE001 - a stranger's handshake that fails is nobody's mistake
            _log.debug("connection-ended-early", error=type(error).__name__)
            self._gone(guest)
            connection.close()

    def _gone(self, guest: Guest) -> None:
        self._forget(guest)
        self.lobby.left(guest)

    def _forget(self, guest: Guest) -> socket.socket | None:
        self._peers.pop(guest.peer, None)
        connection = self._sockets.pop(guest, None)
        if not self._sockets:
            self._empty.set()
        return connection

    async def _gone_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    def _cut(self, guest: Guest) -> None:
        connection = self._forget(guest)
        if connection is None:
            return
        if guest.state == "silent":
            asyncio.get_running_loop().remove_reader(connection)
            connection.close()
            return
        # Whoever has it by now reads the end of it and lets go.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for guest in self.lobby.overdue():
                self._cut(guest)

    def _run(self, work: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(heard)


class Inside:
    """Hands a connection to a protocol of this process, in TLS where there is a context."""

    def __init__(
        self, factory: Callable[[], asyncio.Protocol], context: SSLContext | None, handshake: float = 5.0
    ) -> None:
        self._factory = factory
        self._context = context
        self._handshake = handshake

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over."""
        del guest
        timeout = self._handshake if self._context is not None else None
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: _Watched(self._factory(), gone), connection, ssl=self._context, ssl_handshake_timeout=timeout
        )


class _Watched(asyncio.Protocol):
    """Passes everything on, and says when the connection is gone."""

    def __init__(self, inner: asyncio.Protocol, gone: Callable[[], None]) -> None:
        self._inner = inner
        self._gone = gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, and say it."""
        self._gone()
        self._inner.connection_lost(exc)


class Through:
    """Hands a connection on through a Unix socket at ``path``, in a directory that this user alone may enter."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over."""
        loop = asyncio.get_running_loop()
        ours = socket.socket(socket.AF_UNIX)
        try:
            ours.setblocking(False)  # noqa: FBT003 - the name of the standard library
            ours.bind(f"\0{PREFIX}{guest.number}/{guest.peer}".encode())
            await loop.sock_connect(ours, self._path)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outer, inner = _Pipe(gone), _Pipe(None)
            outer.other, inner.other = inner, outer
            await loop.create_unix_connection(lambda: inner, sock=ours)
        except BaseException:
            ours.close()
            raise
        await loop.connect_accepted_socket(lambda: outer, connection)


class _Pipe(asyncio.Protocol):
    """One end: what it reads the other one writes, and no faster than that one can."""

    __slots__ = ("_gone", "_transport", "other")

    def __init__(self, gone: Callable[[], None] | None) -> None:
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self.other: _Pipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, once the other end is there to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        other = self.other._transport if self.other is not None else None  # noqa: SLF001 - the other half of this
        if other is None:
            transport.pause_reading()
        else:
            other.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None and self.other._transport is not None:  # noqa: SLF001 - the other half of this
            self.other._transport.write(data)  # noqa: SLF001 - the other half of this

    def pause_writing(self) -> None:
        """What comes in here is not taken there: read no more for now."""
        other = self.other._transport if self.other is not None else None  # noqa: SLF001 - the other half of this
        if other is not None and not other.is_closing():
            other.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        other = self.other._transport if self.other is not None else None  # noqa: SLF001 - the other half of this
        if other is not None and not other.is_closing():
            other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the other end that nothing more comes, and wait for its own end; nobody makes that last.

        It is not closed at once: what it had sent meanwhile would reset the connection under the last answer.
        """
        if exc is not None:
            self._rest()
        other, self.other = self.other, None
        transport = other._transport if other is not None else None  # noqa: SLF001 - the other half of this
        if other is not None:
            other.other = None
        if transport is not None and not transport.is_closing():
            with contextlib.suppress(OSError):
                transport.write_eof()
            transport.resume_reading()
            asyncio.get_running_loop().call_later(_LINGER, transport.abort)
        if self._gone is not None:
            self._gone()
            self._gone = None

    def _rest(self) -> None:
        """Pass on what came before a write failed: asyncio reads no more then, and it may be the last answer."""
        found = self._transport.get_extra_info("socket") if self._transport is not None else None
        with contextlib.suppress(OSError):
            for _ in range(_PIECES):
                piece = os.read(found.fileno(), _PIECE) if found is not None else b""
                if not piece:
                    return
                self.data_received(piece)


def guest_of(peer: str) -> int | None:
    """Number of the guest in gRPC's text of a peer that came through a Unix socket; None for any other."""
    _, found, rest = peer.replace("%2F", "/").partition(f"unix-abstract:{PREFIX}")
    number = rest.partition("/")[0]
    return int(number) if found and number.isascii() and number.isdigit() else None


def text_of(peer: tuple[object, ...]) -> str:
    """Name a peer as gRPC would: ``ipv4:address:port`` or ``ipv6:[address]:port``."""
    host, port = str(peer[0]), peer[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
