"""What a kind of database brings to ``hub.store.sql.database``: its engines, and what it does in its own way."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from sqlalchemy import Column
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from hub.store.sql.opening import Connections

#: Read transactions at once.
READERS: Final = 4
#: Most seconds until a change by another process is seen that nobody announced.
POLL_SECONDS: Final = 0.5


class Backend(Protocol):
    """One kind of database.

    Attributes:
        writer: for transactions that write; each sees what all before it have committed.
        reader: for transactions that only read; each sees one moment.
        connections: those of either that are out.
        writers: write transactions at once.
        place: column of ``changes`` that puts what was committed in an order.
        version_tells: whether as long as ``version`` is the same nobody else has committed anything.
    """

    writer: AsyncEngine
    reader: AsyncEngine
    connections: Connections
    writers: int
    place: Column[int]
    version_tells: bool

    async def prepare(self) -> None:
        """Do what must be done before an engine opens it; raises what opening raises."""
        ...

    async def reserve(self) -> None:
        """Keep room for the next start; raises store/full while there is none."""
        ...

    async def damage(self) -> str:
        """Look for pages that do not fit together; return the first thing found, empty for nothing."""
        ...

    async def looked(self) -> str:
        """Say in one sentence how far this database can tell damage of its pages."""
        ...

    def migrating(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction that sees what everybody before it has migrated, and keeps others that migrate out."""
        ...

    async def tell(self, connection: AsyncConnection) -> None:
        """Wake other processes when this transaction is durable."""
        ...

    async def final(self, connection: AsyncConnection) -> int:
        """Return the place below which nothing can be committed any more."""
        ...

    async def version(self) -> int:
        """Return a number that changes when somebody commits who may not have said so; asked while nobody writes."""
        ...

    def told(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Give an event that is set when another process has committed, or the connection for it is lost."""
        ...
