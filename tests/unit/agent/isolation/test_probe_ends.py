"""V9: the agent's own end of edges really answers, and really finds what is open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.isolation.probing import ends
from cellward.runtime.clock import SystemClock


@asynccontextmanager
async def _udp_end() -> AsyncIterator[tuple[str, int]]:
    """Answer on a port nobody else has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    task = asyncio.create_task(ends.answer_udp("127.0.0.1", port))
    try:
        while not await ends._udp("127.0.0.1", port):
            assert not task.done(), task.exception()
        yield "127.0.0.1", port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_v9_the_agent_answers_udp_or_a_closed_edge_to_it_would_prove_nothing() -> None:
    """What was sent comes back, never more; what is longer than any question does not."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), _udp_end() as address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0)
            asking.connect(address)
            await loop.sock_sendall(asking, b"q" * 500)
            await loop.sock_sendall(asking, b"question")
            assert await loop.sock_recv(asking, 2000) == b"question"


async def test_v9_a_responder_that_answers_is_not_closed() -> None:
    """By UDP, by TCP with an echo, and by a connection alone."""
    timer = SystemClock()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(64))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    tcp = server.sockets[0].getsockname()
    async with _udp_end() as udp:
        assert not await ends.is_closed(*udp, "udp", timer, 0.05)
        assert not await ends.is_closed(*tcp, "echo", timer, 0.05)
        assert not await ends.is_closed(*tcp, "tcp", timer, 0.05)
        assert await ends.reached([tcp, udp]) == {tcp}
    server.close()
    await server.wait_closed()
    assert await ends.is_closed(*udp, "udp", timer, 0.05)
    assert await ends.is_closed(*tcp, "echo", timer, 0.05)
    assert await ends.is_closed(*tcp, "tcp", timer, 0.05)


async def test_v9_what_takes_connections_and_echoes_nothing_is_no_responder() -> None:
    """A proxy on the way takes any connection."""

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    assert await ends.is_closed(*address, "echo", SystemClock(), 0.05)
    assert not await ends.is_closed(*address, "tcp", SystemClock(), 0.05)
    server.close()


async def test_an_edge_that_closes_late_is_closed_and_one_that_flickers_is_not_at_once() -> None:
    """Three times in a row, within the time that an engine needs."""

    class Later(SystemClock):
        def __init__(self) -> None:
            self.tries = 0

        async def sleep(self, seconds: float) -> None:
            self.tries += 1
            if self.tries == 4:
                server.close()

    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clock = Later()
    assert await ends.is_closed(*address, "tcp", clock, 30)
    assert clock.tries == 4 + 3


def test_the_own_address_is_the_one_towards_the_cluster() -> None:
    """By the route, without a packet; nothing for what has none."""
    assert ends.own_address("127.0.0.1") == "127.0.0.1"
    assert ends.own_address("no.such.name.invalid") == ""
