"""Hands an accepted connection to a protocol of this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ssl import SSLContext

from hub.front.lobby import Guest


class Inside:
    """Hands a connection to a protocol of this process, in TLS where there is a context."""

    def __init__(
        self, factory: Callable[[], asyncio.Protocol], context: SSLContext | None, handshake: float = 5.0
    ) -> None:
        self._factory = factory
        self._context = context
        self._handshake = handshake
        self._open: dict[Guest, _Watched] = {}

    async def take(self, connection: socket.socket, guest: Guest, gone: Callable[[], None]) -> None:
        """Take the connection over."""
        timeout = self._handshake if self._context is not None else None
        watched = _Watched(self._factory(), gone, guest, self._open)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: watched, connection, ssl=self._context, ssl_handshake_timeout=timeout
            )
        except BaseException:
            await watched.fail()
            raise

    def cut(self, guest: Guest) -> None:
        """Let go of a guest's connection at once."""
        watched = self._open.get(guest)
        if watched is not None:
            watched.abort()

    async def end(self) -> None:
        """Cut off whatever is left of the connections taken; nothing of them is open when this returns."""
        left = list(self._open.values())
        for watched in left:
            watched.abort()
        for watched in left:
            await watched.closed.wait()


class _Watched(asyncio.Protocol):
    """Passes everything on, says when the connection is gone, and is among the ``open`` ones until then."""

    def __init__(
        self, inner: asyncio.Protocol, gone: Callable[[], None], guest: Guest, among: dict[Guest, _Watched]
    ) -> None:
        self._inner = inner
        self._gone: Callable[[], None] | None = gone
        self._guest = guest
        self._among = among
        self._transport: asyncio.Transport | None = None
        #: Set when the transport calls for the last time; it closes its socket before anybody who waits has a turn.
        self.closed = asyncio.Event()

    def abort(self) -> None:
        """Let go of the connection, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    async def fail(self) -> None:
        """Let go of a connection that could not be taken over: whoever handed it on hears that otherwise."""
        self._gone = None
        if self._transport is not None:
            self._transport.abort()
            await self.closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._among[self._guest] = self
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
        self._among.pop(self._guest, None)
        self.closed.set()
        if self._gone is not None:
            self._gone()
        self._inner.connection_lost(exc)
