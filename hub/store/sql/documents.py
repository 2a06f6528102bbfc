"""Signed documents in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.changes import DOCUMENTS
from hub.store.cursor import decode_cursor, encode_cursor, page_size
from hub.store.errors import MOVED
from hub.store.interfaces import DocumentRow, Judged, Page
from hub.store.sql.database import Access, Transaction
from hub.store.sql.tables import documents, revisions

#: Names in one IN list.
_CHUNK = 1000


def _document(row: Row[Any]) -> DocumentRow:
    values = row._asdict()
    del values["id"]
    values["environments"] = tuple(values["environments"])
    return DocumentRow(**values)


class SqlDocuments:
    """Implements ``DocumentStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def revision(self) -> int:
        """Return a number that grows with every change."""
        async with self._db.read() as connection:
            return await _revision(connection)

    async def expect(self, revision: int) -> None:
        """Refuse to go on when something has changed since."""

        async def job(tx: Transaction) -> None:
            # Written, not read: on PostgreSQL the row is then ours until the transaction ends.
            same = update(revisions).where(revisions.c.name == DOCUMENTS, revisions.c.revision == revision)
            if (await tx.connection.execute(same.values(revision=revision))).rowcount != 1:
                raise MOVED("documents were kept, judged or dropped meanwhile")

        await self._db.write(job)

    async def put(self, document: DocumentRow, seen: bytes | None = None) -> bool:
        """Keep a document and return whether it is new."""
        return (await self.put_many([document], {} if seen is None else {document.digest: seen}))[0]

    async def put_many(self, batch: Sequence[DocumentRow], seen: Mapping[str, bytes] | None = None) -> tuple[bool, ...]:
        """Keep many, all or nothing."""

        async def job(tx: Transaction) -> tuple[bool, ...]:
            kept = tuple([await self._put(tx, document, (seen or {}).get(document.digest)) for document in batch])
            await _changed(tx)
            return kept

        return await self._db.write(job)

    async def judge_many(self, judged: Sequence[Judged]) -> None:
        """Set standing and judgement of kept documents."""
        change = (
            update(documents)
            .where(documents.c.digest == bindparam("key"))
            .values(standing=bindparam("standing"), judgement=bindparam("judgement"))
        )
        values = [{"key": one.digest, "standing": one.standing, "judgement": dict(one.judgement)} for one in judged]

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(change, values)
            await _changed(tx)

        if values:
            await self._db.write(job)

    async def drop(self, digests: Sequence[str]) -> frozenset[str]:
        """Forget documents that do not verify."""

        async def job(tx: Transaction) -> frozenset[str]:
            found: set[str] = set()
            for start in range(0, len(digests), _CHUNK):
                loose = documents.c.digest.in_(digests[start : start + _CHUNK]) & (documents.c.standing != "verified")
                query = select(documents.c.digest).where(loose).with_for_update()
                chunk = (await tx.connection.execute(query)).scalars().all()
                await tx.connection.execute(delete(documents).where(documents.c.digest.in_(chunk)))
                found.update(chunk)
            await _changed(tx)
            return frozenset(found)

        return await self._db.write(job) if digests else frozenset()

    async def get(self, digest: str) -> DocumentRow | None:
        """Return a document."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(documents).where(documents.c.digest == digest))).one_or_none()
        return _document(row) if row is not None else None

    async def list(
        self, kind: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[DocumentRow]:
        """Return documents in the order they were kept."""
        after, size = decode_cursor(cursor, (int,)), page_size(limit)
        query = select(documents).order_by(documents.c.id).limit(size + 1)
        for column, value in ((documents.c.kind, kind), (documents.c.project, project), (documents.c.cell, cell)):
            if value:
                query = query.where(column == value)
        if after is not None:
            query = query.where(documents.c.id > after[0])
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        more = encode_cursor([rows[size - 1].id]) if len(rows) > size else ""
        return Page(tuple(_document(row) for row in rows[:size]), more)

    async def _put(self, tx: Transaction, document: DocumentRow, seen: bytes | None) -> bool:
        known = select(documents.c.envelope).where(documents.c.digest == document.digest).with_for_update()
        kept = (await tx.connection.execute(known)).scalar_one_or_none()
        judged = {
            "envelope": document.envelope,
            "standing": document.standing,
            "judgement": dict(document.judgement),
        }
        if kept is not None:
            if kept != (document.envelope if seen is None else seen):
                raise MOVED(f"document {document.digest} has another envelope by now", document=document.digest)
            await tx.connection.execute(update(documents).where(documents.c.digest == document.digest).values(judged))
            return False
        values = {
            "digest": document.digest,
            "kind": document.kind,
            "project": document.project,
            "cell": document.cell,
            "environments": list(document.environments),
            "sequence": document.sequence,
            "meta": dict(document.meta),
            "received_at": document.received_at or self._db.clock.now(),
            **judged,
        }
        await tx.connection.execute(insert(documents).values(values))
        return True


async def _revision(connection: AsyncConnection) -> int:
    return int(
        (await connection.execute(select(revisions.c.revision).where(revisions.c.name == DOCUMENTS))).scalar_one()
    )


async def _changed(tx: Transaction) -> None:
    grown = update(revisions).where(revisions.c.name == DOCUMENTS).values(revision=revisions.c.revision + 1)
    await tx.connection.execute(grown)
    tx.notify(DOCUMENTS)
