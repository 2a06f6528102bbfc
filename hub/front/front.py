"""A listening socket whose connections are counted before anybody behind it spends anything on them.

A connection costs one descriptor and a small object until its first byte; only then it is handed on: to a protocol in
this process (``hub.front.inside``), or through a Unix socket to a server that takes no accepted sockets
(``hub.front.through``: gRPC).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from cellward.runtime.clock import Clock
from cellward.runtime.tasks import heard
from hub.authority.limits import address_of
from hub.front.limits import FrontLimits
from hub.front.lobby import Guest, Lobby
from hub.front.through import guest_of

#: Seconds between two looks for who is overdue, and after an accept that failed for want of descriptors.
_LOOK, _PAUSE = 0.25, 0.05
#: Connections accepted in one go.
_AT_ONCE = 64
#: Seconds peers have to take the last bytes of a server that has stopped, and then to notice that they are let go.
_PATIENCE, _FAREWELL = 1.0, 1.0
_log = structlog.get_logger()


class HandOn(Protocol):
    """Where a connection goes once it speaks."""

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over; ``gone`` is called once when it has ended.

        When this raises, nothing watches the connection any more, and it is the caller's to close; ``gone`` is silent.
        """
        ...

    def cut(self, guest: Guest) -> None:
        """Let go of a guest's connection at once, where it was taken over."""
        ...

    async def end(self) -> None:
        """Cut off whatever is left of the connections taken, once no ``take`` is in flight; nothing is open then."""
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
        await self._stop("front-watch")
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        for guest in [guest for guest in self._sockets if guest.state == "silent"]:
            self._cut(guest)

    async def end(self, patience: float = _PATIENCE) -> None:
        """Let go of whoever is left ``patience`` seconds after the server behind has stopped; call ``close`` first.

        Nothing of a connection is left in this process then: no descriptor, and nothing that the loop still watches.
        That holds as well when this is cancelled while it waits.
        """
        try:
            await self._gone_within(patience)
            for connection in self._sockets.values():
                # Whoever has it by now reads the end of it and lets go.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            await self._gone_within(_FAREWELL)
        finally:
            await self._leave_none()

    async def _leave_none(self) -> None:
        """Close what nobody let go of: whoever has it may not read, or waits for an end that does not close."""
        await self._stop("front-hand-on")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._hand_on.end()

    def abandon(self) -> None:
        """Give the address back before anything was accepted."""
        self._listening.close()

    def known(self, peer: str, owner: str, *, kept: bool = False) -> None:
        """Hear from the server behind, with each call, that a peer has proven to be ``owner``.

        ``peer`` is gRPC's text, or ``text_of`` its address. ``kept`` owners are kept a place (``Lobby.known``).
        """
        for guest in self.lobby.known(self._number(peer), owner, kept=kept):
            self._cut(guest)

    def refused(self, peer: str) -> None:
        """Hear that what a peer has proven counts no more: it is a stranger again, with a stranger's time."""
        for guest in self.lobby.refused(self._number(peer)):
            self._cut(guest)

    def forget(self, owner: str, but: str = "") -> None:
        """Cut everything an owner has, except the connection of the peer ``but``: who may do nothing holds nothing."""
        for guest in self.lobby.forget(owner, self._number(but)):
            self._cut(guest)

    def _number(self, peer: str) -> int:
        """Number of a peer's guest, 0 for none."""
        return self._peers.get(peer) or guest_of(peer) or 0

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
        task = self._run(self._hand_on.take(connection, guest, lambda: self._gone(guest)), "front-hand-on")
        # Not within the task: one that is cancelled before its first step closes nothing.
        task.add_done_callback(lambda done: self._handed(done, guest, connection))

    def _handed(self, task: asyncio.Task[None], guest: Guest, connection: socket.socket) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            # A stranger's handshake that fails is nobody's mistake.
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
        # Whoever is being handed it reads the end of it; whoever has it may not be reading.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        self._hand_on.cut(guest)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for guest in self.lobby.overdue():
                self._cut(guest)

    async def _stop(self, name: str) -> None:
        tasks = [task for task in self._tasks if task.get_name() == name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(heard)
        return task


def text_of(peer: tuple[object, ...]) -> str:
    """Name a peer as gRPC would: ``ipv4:address:port`` or ``ipv6:[address]:port``."""
    host, port = str(peer[0]), peer[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
