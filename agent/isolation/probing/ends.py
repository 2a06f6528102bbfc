"""The agent's own end of edges: it answers UDP beside its health page, and knocks at a responder in a cell."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterable
from typing import Final, cast

from cellward.runtime.clock import Timer

#: One try, seconds; a packet that was dropped is not waited for any longer.
_PATIENCE: Final = 0.7
_PAUSE: Final = 0.1
#: How often in a row an edge must be found closed.
_IN_A_ROW: Final = 3
_MOST: Final = 64


class _Echo(asyncio.DatagramProtocol):
    """Sends each small packet back: never more than came, so that nobody is amplified."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asked for its class: that of Python 3.11 does not say that it is one for datagrams.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if len(data) <= _MOST:
            self._transport.sendto(data, addr)


async def answer_udp(host: str, port: int) -> None:
    """Answer until cancelled, so that a closed edge to the agent proves something."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Echo, local_addr=(host, port))
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


def own_address(towards: str) -> str:
    """Return the address from which this machine would talk to another; empty when it cannot."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Nothing is sent: connecting a datagram socket asks for the route alone.
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


async def is_closed(host: str, port: int, how: str, timer: Timer, settle_seconds: float) -> bool:
    """Whether a responder is closed to the agent: three times in a row, before the time is over.

    Args:
        host: its address.
        port: on which it answers.
        how: ``echo`` or ``tcp``, ``udp``.
        timer: time and sleep.
        settle_seconds: how long it may be open at first.
    """
    try_once = {"echo": _tcp, "tcp": _connects, "udp": _udp}[how]
    deadline, closed = timer.monotonic() + settle_seconds, 0
    while closed < _IN_A_ROW:
        closed = 0 if await try_once(host, port) else closed + 1
        if closed == 0 and timer.monotonic() > deadline:
            return False
        await timer.sleep(_PAUSE)
    return True


async def reached(hosts: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Return the hosts and ports that take a connection of the agent: somebody listens there."""
    asked = list(hosts)
    found = await asyncio.gather(*(_connects(host, port) for host, port in asked))
    return frozenset(one for one, passed in zip(asked, found, strict=True) if passed)


async def _connects(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return True
    except (OSError, TimeoutError):
        return False


async def _tcp(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                sent = secrets.token_bytes(16)
                writer.write(sent)
                return await reader.readexactly(16) == sent
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


class _Answer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        if not self.came.done():
            self.came.set_result(data)

    def error_received(self, exc: Exception) -> None:
        # Refused, by an ICMP message: nothing will come.
        if not self.came.done():
            self.came.set_exception(exc)


async def _udp(host: str, port: int) -> bool:
    try:
        loop = asyncio.get_running_loop()
        transport, answer = await loop.create_datagram_endpoint(_Answer, remote_addr=(host, port))
        try:
            sent = secrets.token_bytes(16)
            transport.sendto(sent)
            async with asyncio.timeout(_PATIENCE):
                return await answer.came == sent
        finally:
            transport.close()
    except (OSError, TimeoutError):
        return False
