"""Hands an accepted connection on through a Unix socket, to a server that takes no accepted sockets (gRPC).

The socket is in a directory that this user alone may enter. The name of our end of it says who is at the other end of
the connection (``authority.limits.peer_of``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from hub.front.lobby import Guest

#: Begins the name of our end of a Unix socket.
PREFIX = "cellward/"
#: Seconds the end that is left has to take the last bytes of the other one.
LINGER = 10.0
#: Bytes read at once of what is left in a connection, and how often: more than a socket keeps.
_PIECE, _PIECES = 262144, 16


class Through:
    """Hands a connection on through a Unix socket at ``path``, in a directory that this user alone may enter."""

    def __init__(self, path: str, linger: float = LINGER) -> None:
        self._path = path
        self._linger = linger
        self._pairs: dict[Guest, _Pair] = {}

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over."""
        pair = _Pair(gone, self._linger, guest, self._pairs)
        await pair.connect(connection, self._path, f"\0{PREFIX}{guest.number}/{guest.peer}".encode())

    def cut(self, guest: Guest) -> None:
        """Let go of a guest's connection at once."""
        pair = self._pairs.get(guest)
        if pair is not None:
            pair.abort()

    async def end(self) -> None:
        """Cut off whatever is left of the connections taken, also one end of them; nothing of them is open then."""
        left = list(self._pairs.values())
        for pair in left:
            pair.abort()
        for pair in left:
            await pair.closed.wait()


class _Pair:
    """The one owner of both ends of a connection, from the first try to connect until both are closed.

    It is among the ``among`` ones while it has an end that is open. Nothing else closes an end: what fails before both
    are connected aborts both, and once one is lost the other one has ``linger`` seconds.
    """

    def __init__(self, gone: Callable[[], None], linger: float, guest: Guest, among: dict[Guest, _Pair]) -> None:
        self._gone: Callable[[], None] | None = gone
        self._linger = linger
        self._guest = guest
        self._among = among
        self._outer, self._inner = _End(self), _End(self)
        self._outer.other, self._inner.other = self._inner, self._outer
        self._open: set[_End] = set()
        self._last: asyncio.TimerHandle | None = None
        #: Set when the last transport calls for the last time; it closes its socket before a waiting task has a turn.
        self.closed = asyncio.Event()
        self.closed.set()

    async def connect(self, connection: socket.socket, path: str, name: bytes) -> None:
        """Connect both ends, or neither: what is raised leaves ``connection`` to be closed and nothing else open."""
        loop = asyncio.get_running_loop()
        ours = socket.socket(socket.AF_UNIX)
        try:
            ours.setblocking(False)  # noqa: FBT003 - the name of the standard library
            ours.bind(name)
            await loop.sock_connect(ours, path)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_unix_connection(lambda: self._inner, sock=ours)
            await loop.connect_accepted_socket(lambda: self._outer, connection)
        except BaseException:
            self._gone = None
            self.abort()
            try:
                await self.closed.wait()
            finally:
                ours.close()
            raise

    def abort(self) -> None:
        """Let go of both ends, whatever is still to be sent."""
        for end in self._open:
            if end.transport is not None:
                end.transport.abort()

    def made(self, end: _End) -> None:
        """Hear that an end has its transport."""
        self._open.add(end)
        self._among[self._guest] = self
        self.closed.clear()

    def lost(self, end: _End) -> None:
        """Hear that an end is lost: the other one has so long, even where it waits to close itself."""
        self._open.discard(end)
        if self._open and self._last is None:
            self._last = asyncio.get_running_loop().call_later(self._linger, self.abort)
        elif not self._open:
            if self._last is not None:
                self._last.cancel()
            self._among.pop(self._guest, None)
            self.closed.set()
        if end is self._outer and self._gone is not None:
            self._gone()


class _End(asyncio.Protocol):
    """One end: what it reads the other one writes, and no faster than that one can."""

    __slots__ = ("_pair", "other", "transport")

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    @property
    def _across(self) -> asyncio.Transport | None:
        """Transport of the other end while there is one."""
        return self.other.transport if self.other is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, once the other end is there to write."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._pair.made(self)
        if self._across is None:
            transport.pause_reading()
        else:
            self._across.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._across is not None:
            self._across.write(data)

    def pause_writing(self) -> None:
        """What comes in here is not taken there: read no more for now."""
        if self._across is not None and not self._across.is_closing():
            self._across.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        if self._across is not None and not self._across.is_closing():
            self._across.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the other end that nothing more comes, and wait for its own end; nobody makes that last.

        It is not closed at once: what it had sent meanwhile would reset the connection under the last answer.
        """
        if exc is not None:
            self._rest()
        across, self.transport = self._across, None
        if across is not None and not across.is_closing():
            with contextlib.suppress(OSError):
                across.write_eof()
            across.resume_reading()
        self._pair.lost(self)

    def _rest(self) -> None:
        """Pass on what came before a write failed: asyncio reads no more then, and it may be the last answer."""
        found = self.transport.get_extra_info("socket") if self.transport is not None else None
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
