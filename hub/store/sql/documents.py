"""Signed documents in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from cellward.documents.dsse import merge_envelopes
from hub.store.changes import DOCUMENTS
from hub.store.cursor import decode_cursor, encode_cursor, page_size
from hub.store.interfaces import DocumentRow, Page
from hub.store.sql.database import Database, Transaction
from hub.store.sql.tables import documents, placements

#: Kinds that say what a cell's next state is.
PLACING = frozenset({"deployment", "tombstone"})


def _document(row: Row[Any]) -> DocumentRow:
    values = row._asdict()
    del values["id"]
    values["environments"] = tuple(values["environments"])
    return DocumentRow(**values)


class SqlDocuments:
    """Implements ``DocumentStore``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put(self, document: DocumentRow) -> bool:
        """Keep a document and return whether it is new."""
        return (await self.put_many([document]))[0]

    async def put_many(self, batch: Sequence[DocumentRow]) -> tuple[bool, ...]:
        """Keep many, all or nothing."""

        async def job(tx: Transaction) -> tuple[bool, ...]:
            kept = tuple([await self._put(tx, document) for document in batch])
            tx.notify(DOCUMENTS)
            return kept

        return await self._db.write(job)

    async def get(self, digest: str) -> DocumentRow | None:
        """Return a document."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(documents).where(documents.c.digest == digest))).one_or_none()
        return _document(row) if row is not None else None

    async def latest_deployments(self, project: str | None = None) -> tuple[DocumentRow, ...]:
        """Return the newest deployment or tombstone of each (project, cell, environment)."""
        table = placements.c
        key = (table.project, table.cell, table.environment)
        newest = select(*key, func.max(table.sequence).label("sequence")).group_by(*key)
        if project is not None:
            newest = newest.where(table.project == project)
        top = newest.subquery()
        first = (
            select(func.min(table.document_id))
            .join(
                top,
                (table.project == top.c.project)
                & (table.cell == top.c.cell)
                & (table.environment == top.c.environment)
                & (table.sequence == top.c.sequence),
            )
            .group_by(*key)
        )
        query = select(documents).where(documents.c.id.in_(first)).order_by(documents.c.id)
        async with self._db.read() as connection:
            return tuple(_document(row) for row in (await connection.execute(query)).all())

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

    async def _put(self, tx: Transaction, document: DocumentRow) -> bool:
        known = select(documents.c.envelope).where(documents.c.digest == document.digest).with_for_update()
        kept = (await tx.connection.execute(known)).scalar_one_or_none()
        if kept is not None:
            # Identity is the payload alone: another envelope over it may carry other signatures, good ones or not.
            merged = merge_envelopes(kept, document.envelope)
            if merged != kept:
                change = update(documents).where(documents.c.digest == document.digest).values(envelope=merged)
                await tx.connection.execute(change)
            return False
        values = {
            "digest": document.digest,
            "kind": document.kind,
            "envelope": document.envelope,
            "project": document.project,
            "cell": document.cell,
            "environments": list(document.environments),
            "sequence": document.sequence,
            "meta": dict(document.meta),
            "received_at": document.received_at or self._db.clock.now(),
        }
        added = await tx.connection.execute(insert(documents).values(values).returning(documents.c.id))
        number = added.scalar_one()
        if document.kind in PLACING and document.environments:
            await tx.connection.execute(
                insert(placements),
                [
                    {
                        "document_id": number,
                        "project": document.project,
                        "cell": document.cell,
                        "environment": environment,
                        "sequence": document.sequence,
                    }
                    for environment in sorted(set(document.environments))
                ],
            )
        return True
