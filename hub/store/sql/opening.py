"""A connection that is opened and given back whole, also for a caller who is cancelled meanwhile.

A driver that is cancelled between the socket and the first statement leaves a connection that nobody closes: the pool
has not taken it yet, and the caller never had it. One that is given back to a pool that was closed meanwhile is closed
by nobody either, so whoever closes a pool waits for what is out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

#: Longest wait for connections that are out, seconds; whoever holds one longer loses it.
PATIENCE: Final = 5.0
#: What is out, by pool: done once it is back.
_out: WeakKeyDictionary[AsyncEngine, set[asyncio.Future[None]]] = WeakKeyDictionary()


@asynccontextmanager
async def opened(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Take a connection of a pool and give it back; who is cancelled leaves it to be opened, and closed."""
    connection = engine.connect()
    opening = asyncio.ensure_future(connection.start())
    back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    out = _out.setdefault(engine, set())
    out.add(back)

    def returned(_: asyncio.Task[None]) -> None:
        out.discard(back)
        back.set_result(None)

    try:
        await asyncio.shield(opening)
        yield connection
    finally:
        ending = asyncio.create_task(_give_back(connection, opening), name="store-connection")
        ending.add_done_callback(returned)
        await asyncio.shield(ending)


async def all_back(*engines: AsyncEngine) -> None:
    """Wait until every connection of these pools is back."""
    out = {back for engine in engines for back in _out.get(engine, ())}
    if out:
        await asyncio.wait(out, timeout=PATIENCE)


async def _give_back(connection: AsyncConnection, opening: asyncio.Future[AsyncConnection]) -> None:
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await connection.close()
