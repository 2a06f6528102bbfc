"""Locks in SQL."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import delete, select

from hub.store.changes import CLUSTERS
from hub.store.interfaces import LockRow
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import locks


class SqlLocks:
    """Implements ``LockStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def put(self, lock: LockRow) -> LockRow:
        """Keep a lock; of two with one subject the first stays."""
        this = (locks.c.kind == lock.kind) & (locks.c.subject == lock.subject)

        async def job(tx: Transaction) -> LockRow:
            await tx.connection.execute(upsert(self._db.dialect, locks, ("kind", "subject")), asdict(lock))
            row = (await tx.connection.execute(select(locks).where(this))).one()
            tx.notify(CLUSTERS)
            return LockRow(**row._asdict())

        return await self._db.write(job)

    async def get(self, kind: str, subject: str) -> LockRow | None:
        """Return a lock."""
        async with self._db.read() as connection:
            query = select(locks).where(locks.c.kind == kind, locks.c.subject == subject)
            row = (await connection.execute(query)).one_or_none()
        return LockRow(**row._asdict()) if row is not None else None

    async def remove(self, kind: str, subject: str) -> LockRow | None:
        """Forget a lock and return it."""
        this = (locks.c.kind == kind) & (locks.c.subject == subject)

        async def job(tx: Transaction) -> LockRow | None:
            row = (await tx.connection.execute(select(locks).where(this))).one_or_none()
            await tx.connection.execute(delete(locks).where(this))
            tx.notify(CLUSTERS)
            return LockRow(**row._asdict()) if row is not None else None

        return await self._db.write(job)

    async def list(self) -> tuple[LockRow, ...]:
        """Return all locks by kind and subject."""
        async with self._db.read() as connection:
            rows = (await connection.execute(select(locks).order_by(locks.c.kind, locks.c.subject))).all()
        return tuple(LockRow(**row._asdict()) for row in rows)
