"""Policy metadata and targets in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, insert, select, update

from hub.store.changes import POLICY
from hub.store.errors import IMMUTABLE, MOVED
from hub.store.interfaces import TufMetadata
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import tuf_metadata, tuf_targets


class SqlTuf:
    """Implements ``TufStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def put_metadata(self, role: str, version: int, data: bytes) -> None:
        """Keep metadata."""
        await self.publish([TufMetadata(role, version, data)], {})

    async def get_metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return metadata, the highest version when None."""
        query = select(tuf_metadata.c.data).where(tuf_metadata.c.role == role)
        if version is not None:
            query = query.where(tuf_metadata.c.version == version)
        query = query.order_by(tuf_metadata.c.version.desc()).limit(1)
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def put_target(self, digest: str, data: bytes) -> None:
        """Keep a target."""
        await self.publish([], {digest: data})

    async def get_target(self, digest: str) -> bytes | None:
        """Return a target."""
        query = select(tuf_targets.c.data).where(tuf_targets.c.digest == digest)
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def publish(
        self,
        metadata: Sequence[TufMetadata],
        targets: Mapping[str, bytes],
        expect: Mapping[str, int] | None = None,
    ) -> None:
        """Keep all of it in one transaction."""

        async def job(tx: Transaction) -> None:
            for role, version in (expect or {}).items():
                query = select(func.max(tuf_metadata.c.version)).where(tuf_metadata.c.role == role)
                found = (await tx.connection.execute(query)).scalar_one() or 0
                if found != version:
                    raise MOVED(f"{role} is at version {found}, {version} was expected", role=role)
            if targets:
                rows = [{"digest": digest, "data": data} for digest, data in targets.items()]
                await tx.connection.execute(upsert(self._db.dialect, tuf_targets, ("digest",)), rows)
            for item in metadata:
                if item.role == "timestamp":
                    await self._drop_ahead(tx, item)
                await self._put(tx, item)
            if metadata:
                tx.notify(POLICY)

        await self._db.write(job)

    async def _drop_ahead(self, tx: Transaction, item: TufMetadata) -> None:
        # Only a hub whose clock was wrong has any; nobody accepted them, and the newest is the one to serve.
        ahead = (tuf_metadata.c.role == item.role, tuf_metadata.c.version > item.version)
        await tx.connection.execute(delete(tuf_metadata).where(*ahead))

    async def _put(self, tx: Transaction, item: TufMetadata) -> None:
        query = select(tuf_metadata.c.data).where(
            tuf_metadata.c.role == item.role, tuf_metadata.c.version == item.version
        )
        kept = (await tx.connection.execute(query)).scalar_one_or_none()
        if kept is None:
            values = {"role": item.role, "version": item.version, "data": item.data}
            await tx.connection.execute(insert(tuf_metadata).values(values))
        elif kept == item.replaces:
            await tx.connection.execute(
                update(tuf_metadata)
                .where(tuf_metadata.c.role == item.role, tuf_metadata.c.version == item.version)
                .values(data=item.data)
            )
        elif kept != item.data:
            raise IMMUTABLE(f"{item.role} version {item.version} is published with other bytes", role=item.role)
