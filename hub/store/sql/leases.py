"""Leases in SQL."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.leases import Lease, first
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import DatabaseTime, leases

_FIELDS = ("holder", "token", "expires")


class SqlLeases:
    """Implements ``LeaseStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def take(self, name: str, holder: str, life: timedelta) -> Lease | None:
        """Renew or take a lease."""

        async def job(tx: Transaction) -> Lease | None:
            now = (await tx.connection.execute(select(DatabaseTime()))).scalar_one()
            kept = await _get(tx.connection, name)
            taken = first(name, holder, now, life) if kept is None else kept.taken_by(holder, now, life)
            if taken is not None:
                values = {"name": name, **{field: getattr(taken, field) for field in _FIELDS}}
                await tx.connection.execute(upsert(self._db.dialect, leases, ("name",), update=_FIELDS), values)
            return taken

        return await self._db.write(job)

    async def get(self, name: str) -> Lease | None:
        """Return a lease."""
        async with self._db.read() as connection:
            return await _get(connection, name)

    async def check(self, lease: Lease) -> None:
        """Refuse who holds it no more."""
        lease.check(await self.get(lease.name))

    async def release(self, holder: str) -> None:
        """Let every lease of a holder run out."""

        async def job(tx: Transaction) -> None:
            mine = update(leases).where(leases.c.holder == holder)
            await tx.connection.execute(mine.values(expires=DatabaseTime()))

        await self._db.write(job)


async def _get(connection: AsyncConnection, name: str) -> Lease | None:
    row = (await connection.execute(select(leases).where(leases.c.name == name))).one_or_none()
    return None if row is None else Lease(**row._asdict())
