"""Hands an accepted connection on through a Unix socket, to a server that takes no accepted sockets (gRPC).

The socket is in a directory that this user alone may enter. The name of our end of it says who is at the other end of
the connection (``authority.limits.peer_of``). All programs of a network namespace share such names, so each listener's
begin with a random part: two hubs, or two listeners of one, may have a guest of one number at one address.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

from hub.front.lobby import Guest
from hub.front.pump import End, Pump

#: Begins the name of our end of a Unix socket.
PREFIX = "cellward/"
#: Seconds the end that is left has to take the last bytes of the other one.
LINGER = 5.0


class Through:
    """Hands a connection on through a Unix socket at ``path``, in a directory that this user alone may enter."""

    def __init__(self, path: str, linger: float = LINGER) -> None:
        self._path = path
        self._names = f"\0{PREFIX}{secrets.token_hex(8)}-"
        self._linger = linger
        self._pump = Pump()
        self._pairs: dict[Guest, _Pair] = {}

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over."""
        pair = _Pair(gone, self._linger, guest, self._pairs, self._pump)
        await pair.connect(connection, self._path, f"{self._names}{guest.number}/{guest.peer}".encode())

    def cut(self, guest: Guest) -> None:
        """Let go of a guest's connection at once."""
        pair = self._pairs.get(guest)
        if pair is not None:
            pair.abort()

    async def end(self) -> None:
        """Cut off whatever is left of the connections taken, also one end of them; nothing of them is open then."""
        for pair in list(self._pairs.values()):
            pair.abort()


class _Pair:
    """The one owner of both ends of a connection once both are connected, until both are closed.

    It is among the ``among`` ones while it has an end that is open. Nothing else closes an end: once one is lost the
    other one has ``linger`` seconds.
    """

    __slots__ = ("_among", "_gone", "_guest", "_inner", "_last", "_linger", "_outer")

    def __init__(
        self, gone: Callable[[], None], linger: float, guest: Guest, among: dict[Guest, _Pair], pump: Pump
    ) -> None:
        self._gone = gone
        self._linger = linger
        self._guest = guest
        self._among = among
        self._outer, self._inner = End(pump, self.lost, self.ending), End(pump, self.lost, self.ending)
        self._outer.other, self._inner.other = self._inner, self._outer
        self._last: asyncio.TimerHandle | None = None

    async def connect(self, connection: socket.socket, path: str, name: bytes) -> None:
        """Connect both ends, or neither: what is raised leaves ``connection`` to be closed and nothing else open."""
        ours = socket.socket(socket.AF_UNIX)
        try:
            ours.setblocking(False)  # noqa: FBT003 - the name of the standard library
            ours.bind(name)
            await asyncio.get_running_loop().sock_connect(ours, path)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            ours.close()
            raise
        self._among[self._guest] = self
        self._inner.open(ours)
        self._outer.open(connection)

    def abort(self) -> None:
        """Let go of both ends, whatever is still to be sent."""
        for end in (self._outer, self._inner):
            if end.is_open:
                self.lost(end)

    def ending(self) -> None:
        """Hear that an end will be lost soon; not later than the other one would have to be."""
        if self._last is None:
            self._last = asyncio.get_running_loop().call_later(self._linger, self.abort)

    def lost(self, end: End) -> None:
        """Close an end that is lost: the other one learns that nothing more comes, and has so long to end as well.

        It is not closed at once: what it had sent meanwhile would reset the connection under the last answer.
        """
        if not end.is_open:
            return
        end.close()
        left = self._inner if end is self._outer else self._outer
        if left.is_open:
            self.ending()
            left.finish()
        else:
            if self._last is not None:
                self._last.cancel()
            self._among.pop(self._guest, None)
        if end is self._outer:
            self._gone()


def guest_of(peer: str) -> int | None:
    """Number of the guest in gRPC's text of a peer that came through a Unix socket; None for any other."""
    _, found, rest = peer.replace("%2F", "/").partition(f"unix-abstract:{PREFIX}")
    number = rest.partition("/")[0].rpartition("-")[2]
    return int(number) if found and number.isascii() and number.isdigit() else None
