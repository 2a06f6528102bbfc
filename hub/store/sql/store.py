"""Opens a database and hands out its parts."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sqlalchemy import delete, select, update

from cellward.runtime.clock import Clock, SystemClock
from hub.store.changes import ChangeBus
from hub.store.errors import IN_USE
from hub.store.interfaces import Tables
from hub.store.leases import Lease
from hub.store.links import replica_lease
from hub.store.log import AuditEvent
from hub.store.sql.audit import SqlAudit
from hub.store.sql.clusters import SqlClusters, SqlTokens
from hub.store.sql.database import Access, Database, Transaction, connect, prune
from hub.store.sql.desired import SqlDesired
from hub.store.sql.documents import SqlDocuments
from hub.store.sql.leases import SqlLeases
from hub.store.sql.links import SqlLinks
from hub.store.sql.locks import SqlLocks
from hub.store.sql.migrate import require_current, upgrade
from hub.store.sql.small import SqlApiTokens, SqlMeta
from hub.store.sql.tables import DatabaseTime, commands, join_tokens, leases, presence
from hub.store.sql.tuf import SqlTuf

T = TypeVar("T")
#: Key of the hub's epoch among the small values.
EPOCH_KEY: Final = "hub_epoch"


class SqlTables:
    """Implements ``Tables`` over the database, each call in a transaction of its own, or over one that is open."""

    def __init__(self, access: Access) -> None:
        self.clusters = SqlClusters(access)
        self.locks = SqlLocks(access)
        self.tokens = SqlTokens(access)
        self.documents = SqlDocuments(access)
        self.desired = SqlDesired(access)
        self.tuf = SqlTuf(access)
        self.audit = SqlAudit(access)
        self.api_tokens = SqlApiTokens(access)
        self.meta = SqlMeta(access)
        self.leases = SqlLeases(access)
        self.links = SqlLinks(access)


class SqlStore(SqlTables):
    """Implements ``Store``; made by ``open_store``."""

    def __init__(self, database: Database, hub_epoch: str) -> None:
        super().__init__(database)
        self._db = database
        self._hub_epoch = hub_epoch

    async def transact(self, job: Callable[[Tables], Awaitable[T]]) -> T:
        """Run ``job`` in one transaction and return its result once it is durable."""
        return await self._db.write(lambda tx: job(SqlTables(tx)))

    @property
    def changes(self) -> ChangeBus:
        """Wakes whoever waits for a change."""
        return self._db.changes

    @property
    def hub_epoch(self) -> str:
        """Identity of this history."""
        return self._hub_epoch

    async def new_epoch(self) -> str:
        """Begin a new history after a restore, or take the one that another process has begun."""
        self._hub_epoch = await self.meta.replace(EPOCH_KEY, self._hub_epoch, secrets.token_hex(16))
        return self._hub_epoch

    async def begin_restored(self, event: AuditEvent, *, unused: bool = False) -> str:
        """Begin a new history over what a backup brought, with its record; returns the new ``hub_epoch`` (V1, V6).

        Join tokens that nobody had spent may have been spent since: they are gone. So are the processes of then with
        their leases and streams, and commands that were not delivered: nobody waits for their end.
        With ``unused`` it raises store/in-use where one of the processes may still run.
        """
        epoch = secrets.token_hex(16)
        alive = select(leases.c.name).where(leases.c.name.like(f"{replica_lease('')}%"))
        alive = alive.where(leases.c.expires > DatabaseTime())

        async def job(tx: Transaction) -> None:
            if unused and (await tx.connection.execute(alive)).first() is not None:
                raise IN_USE("a hub uses this database, or did when the backup was made less than 15 seconds ago")
            await tx.connection.execute(delete(join_tokens).where(join_tokens.c.spent_by == ""))
            await tx.connection.execute(update(leases).values(expires=DatabaseTime()))
            await tx.connection.execute(delete(presence))
            await tx.connection.execute(delete(commands).where(commands.c.state == "waiting"))
            await SqlAudit(tx).put_events([event])
            await SqlMeta(tx).put(EPOCH_KEY, epoch.encode())

        await self._db.write(job)
        self._hub_epoch = epoch
        return epoch

    async def check(self) -> None:
        """Write once, and keep room for the next start."""
        await self._db.check()

    async def verify(self) -> str:
        """Look for damage, reading all of it."""
        return await self._db.verify()

    async def prune(self, lease: Lease | None = None) -> None:
        """Forget changes that every process has seen for long."""

        async def job(tx: Transaction) -> None:
            if lease is not None:
                await SqlLeases(tx).check(lease)
            await prune(tx)
            await SqlLinks(tx).prune()

        await self._db.write(job)

    async def watch(self) -> None:
        """Wake subscribers when another process changes the database; runs until cancelled."""
        await self._db.watch()

    async def close(self) -> None:
        """Finish running transactions and close; idempotent."""
        await self._db.close()


async def open_store(url: str, clock: Clock | None = None, *, change: bool = True) -> SqlStore:
    """Open a database, bring its schema up to date, and return the store.

    Args:
        url: SQLAlchemy URL with an async driver, for example ``sqlite+aiosqlite:////var/lib/cellward/hub.db``.
        clock: time of rows.
        change: False for a look at a database that a hub may run on: it must be up to date.

    Raises store/unavailable, store/damaged, store/full, store/newer-schema, store/older-schema; then nothing was
    changed.
    """
    database = connect(url, clock or SystemClock())
    try:
        await database.prepare()
        await database.migrate(upgrade if change else require_current)
        await database.look()
        small = SqlMeta(database)
        # Read first: on a full disk only a new database cannot be opened.
        epoch = await small.get(EPOCH_KEY) or await small.put_if_absent(EPOCH_KEY, secrets.token_hex(16).encode())
    except BaseException:
        await database.close()
        raise
    return SqlStore(database, epoch.decode())
