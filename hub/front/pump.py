"""Passes bytes between pairs of sockets, all of them watched by one ``epoll`` that the loop sees as one descriptor.

A fleet that is idle, or answers at once, moves many small pieces: a transport of asyncio costs each of them a handle, a
buffer of 256 KiB and a turn. Here one callback takes whatever is ready.

State shapes: an end reads while its other end takes what it read; what that one does not take waits in ``_pending`` and
nothing more is read meanwhile, so a pair holds one piece each way at most. An end is closed by its pair alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable

#: Bytes read at once: two records of TLS.
_PIECE = 32 * 1024
#: Pieces of what is left in a broken connection: more than a socket keeps.
_PIECES = 128
#: Ends looked at in one turn; the rest of the process has its turn in between.
_AT_ONCE = 256
_TROUBLE = select.EPOLLHUP | select.EPOLLERR


class Pump:
    """Watches ends; holds a descriptor of its own only while there are any."""

    def __init__(self) -> None:
        self._poll: select.epoll | None = None
        self._ends: dict[int, End] = {}

    def watch(self, end: End, number: int, before: int, after: int) -> None:
        """Wake an end for other events than before; none at all, and it does not even hear of trouble."""
        if before == after:
            return
        if self._poll is None:
            self._poll = select.epoll()
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._turn)
        if not after:
            self._poll.unregister(number)
        elif before:
            self._poll.modify(number, after)
        else:
            self._poll.register(number, after)
        self._ends[number] = end

    def forget(self, number: int) -> None:
        """An end is closed."""
        self._ends.pop(number, None)
        if not self._ends and self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _turn(self) -> None:
        if self._poll is None:
            return
        for number, events in self._poll.poll(0, _AT_ONCE):
            # One that was closed a moment ago, by what another one's events did.
            end = self._ends.get(number)
            if end is not None:
                end.ready(events)


class End:
    """One socket: what it reads ``other`` writes, and no faster than that one can. Made without one; see ``open``."""

    __slots__ = (
        "_broken",
        "_closing",
        "_ending",
        "_finishing",
        "_lost",
        "_mask",
        "_paused",
        "_pending",
        "_pump",
        "_socket",
        "other",
    )

    def __init__(self, pump: Pump, lost: Callable[[End], None], ending: Callable[[], None]) -> None:
        self._pump = pump
        self._lost = lost
        self._ending = ending
        self._socket: socket.socket | None = None
        self._pending = b""
        self._mask = 0
        self._paused = self._closing = self._finishing = self._broken = False
        self.other: End | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has its socket."""
        return self._socket is not None

    def open(self, connection: socket.socket) -> None:
        """Begin to read."""
        self._socket = connection
        self._watch()

    def close(self) -> None:
        """Close the socket, whatever is still to be sent."""
        if self._socket is None:
            return
        number, connection = self._socket.fileno(), self._socket
        # Left for somebody else to close, it would go on being watched for as long as that one holds it.
        self._pump.watch(self, number, self._mask, 0)
        self._socket, self._mask, self._pending = None, 0, b""
        self._pump.forget(number)
        connection.close()

    def finish(self) -> None:
        """The other end is lost: send what waits and then the end of it; what still comes is read and dropped."""
        self._finishing, self._paused = True, False
        if not self._pending:
            self._shut()
        self._watch()

    def ready(self, events: int) -> None:
        """Do what the socket is ready for."""
        if events & select.EPOLLOUT or (events & _TROUBLE and not self._reads):
            self._flush()
        if events & (select.EPOLLIN | _TROUBLE) and self._reads:
            self._read()

    def write(self, data: bytes) -> None:
        """Pass bytes on; nothing more is read for this end until the socket has taken them."""
        if self._socket is None or self._broken:
            return
        if not self._pending:
            sent = self._send(data)
            if sent == len(data) or self._broken:
                return
            data = data[sent:]
        self._pending += data
        self._watch()
        if self.other is not None:
            self.other.pause(on=True)

    def pause(self, *, on: bool) -> None:
        """Read nothing, or read again."""
        if self._paused is not on:
            self._paused = on
            self._watch()

    @property
    def _reads(self) -> bool:
        return self._socket is not None and not (self._paused or self._closing or self._broken)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lost(self)
            return
        if data:
            if self.other is not None:
                self.other.write(data)
        elif self._pending:
            # Its peer may still take what waits for it, for a while.
            self._closing = True
            self._watch()
            self._ending()
        else:
            self._lost(self)

    def _send(self, data: bytes) -> int:
        assert self._socket is not None
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._broken = True
            self._rest()
            self._lost(self)
            return 0

    def _flush(self) -> None:
        if not self._pending:
            return
        sent = self._send(self._pending)
        if self._broken:
            return
        self._pending = self._pending[sent:]
        if self._pending:
            return
        if self._closing:
            self._lost(self)
            return
        if self._finishing:
            self._shut()
        elif self.other is not None:
            self.other.pause(on=False)
        self._watch()

    def _rest(self) -> None:
        """Pass on what came before a write failed: it may be the last answer."""
        assert self._socket is not None
        with contextlib.suppress(OSError):
            for _ in range(_PIECES):
                piece = self._socket.recv(_PIECE)
                if not piece or self.other is None:
                    return
                self.other.write(piece)

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _watch(self) -> None:
        if self._socket is None:
            return
        mask = (select.EPOLLIN if self._reads else 0) | (select.EPOLLOUT if self._pending else 0)
        self._pump.watch(self, self._socket.fileno(), self._mask, mask)
        self._mask = mask
