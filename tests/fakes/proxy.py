"""A TCP proxy on loopback that can swallow, cut and refuse: a network that fails without saying so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 64 * 1024


class Proxy:
    """Passes connections on to the next of its addresses that takes one; made by ``proxy``."""

    def __init__(self, *addresses: str) -> None:
        self._to = [(host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)]
        self._next = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        #: Pieces passed on, both ways.
        self.passed = 0

    @property
    def port(self) -> int:
        """Port listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """Host and port listened on."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._pairs)

    def swallow(self) -> None:
        """Take everything and pass nothing on, no end of a connection either, from here on."""
        self._passes.clear()

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._pairs:
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            answers, other = await self._connect()
            self._writers.add(other)
            await asyncio.gather(self._pass(reader, other), self._pass(answers, writer))
        except (OSError, asyncio.CancelledError):
            # However it ends, both ends of it do; asyncio's streams complain about a task that is cancelled.
            pass
        finally:
            self._pairs.discard(task)
            for each in (writer, other):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for left in reversed(range(len(self._to))):
            self._next = (self._next + 1) % len(self._to)
            try:
                return await asyncio.open_connection(*self._to[self._next])
            except OSError:
                if not left:
                    raise
        raise AssertionError("a proxy has an address")

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._passes.wait()
            self.passed += 1
            target.write(data)
            await target.drain()
        await self._passes.wait()
        # Either side has ended: so does the other one.
        raise ConnectionResetError


@asynccontextmanager
async def proxy(*addresses: str) -> AsyncIterator[Proxy]:
    """Run a proxy to one address, or to several in turn, until the context ends."""
    made = Proxy(*addresses)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
