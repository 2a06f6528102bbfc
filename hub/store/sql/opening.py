"""A connection that is opened and given back whole, also for a caller who is cancelled meanwhile.

A driver that is cancelled between the socket and the first statement leaves a connection that nobody closes: the pool
has not taken it yet, and the caller never had it. One that is given back to a pool that was closed meanwhile is closed
by nobody either, so whoever closes a pool waits for what is out. What is open all the same after that, for whatever
reason, is closed without asking anybody: invariant, after ``end`` no connection that was made is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

#: Longest wait for connections that are out, seconds; whoever holds one longer loses it.
PATIENCE: Final = 5.0


class Connections:
    """The connections of one database: all that were made, and those that are out.

    Args:
        abort: closes one of the driver's connections at once, and does nothing to one that is closed.
    """

    def __init__(self, abort: Callable[[Any], None]) -> None:
        self._abort = abort
        #: Those of the driver, as long as anybody has them.
        self._made: WeakSet[Any] = WeakSet()
        #: One for each that is out; done once it is back.
        self._out: set[asyncio.Future[None]] = set()

    def of(self, engine: AsyncEngine) -> AsyncEngine:
        """Know of every connection that an engine makes, before anything else can fail with it; return the engine."""
        event.listen(engine.sync_engine, "connect", self._note, insert=True)
        return engine

    def _note(self, connection: Any, _: object) -> None:
        self._made.add(connection.driver_connection)

    @asynccontextmanager
    async def opened(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Take a connection of a pool and give it back; who is cancelled leaves it to be opened, and closed."""
        connection = engine.connect()
        opening = asyncio.ensure_future(connection.start())
        back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._out.add(back)

        def returned(_: asyncio.Task[None]) -> None:
            self._out.discard(back)
            back.set_result(None)

        try:
            await asyncio.shield(opening)
            yield connection
        finally:
            ending = asyncio.create_task(_give_back(connection, opening), name="store-connection")
            ending.add_done_callback(returned)
            await asyncio.shield(ending)

    async def all_back(self) -> None:
        """Wait until every connection is back."""
        if self._out:
            await asyncio.wait(tuple(self._out), timeout=PATIENCE)

    def end(self) -> None:
        """Close every connection that is open still; whoever uses one gets an error."""
        for one in tuple(self._made):
            self._abort(one)


async def _give_back(connection: AsyncConnection, opening: asyncio.Future[AsyncConnection]) -> None:
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await connection.close()
