"""Signed documents in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Row, bindparam, delete, func, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cellward.documents.names import CellKey
from hub.store.changes import DOCUMENTS
from hub.store.cursor import decode_cursor, encode_cursor, page_size
from hub.store.documents import DocumentEntry, DocumentRow, Judged, Usage
from hub.store.errors import MOVED
from hub.store.rows import Page
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import about_cells
from hub.store.sql.heads import Share, chunks, count, forget, key_rows, settle, up_to
from hub.store.sql.tables import current_documents, document_keys, document_totals, documents

_ROW = [
    documents.c[name]
    for name in (
        "digest", "kind", "envelope", "project", "cell", "environments", "sequence", "meta", "received_at", "standing",
        "judgement",
    )
]  # fmt: skip
#: Everything but the envelope, which a database need not read to know its length.
_ENTRY = [
    *(column for column in _ROW if column.name not in {"envelope", "received_at"}),
    func.length(documents.c.envelope).label("size"),
]
_LOOSE = ("pending", "unverified")


def _document(row: Row[Any]) -> DocumentRow:
    values = {column.name: getattr(row, column.name) for column in _ROW}
    values["environments"] = tuple(values["environments"])
    return DocumentRow(**values)


def _entry(row: Row[Any]) -> DocumentEntry:
    return DocumentEntry(
        row.digest, row.kind, row.project, row.cell, tuple(row.environments), row.sequence, row.meta, row.standing,
        row.judgement, row.size,
    )  # fmt: skip


class SqlDocuments:
    """Implements ``DocumentStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def put(self, document: DocumentRow, seen: bytes | None = None) -> bool:
        """Keep a document and return whether it is new."""
        return (await self.put_many([document], {} if seen is None else {document.digest: seen}))[0]

    async def put_many(self, batch: Sequence[DocumentRow], seen: Mapping[str, bytes] | None = None) -> tuple[bool, ...]:
        """Keep many, all or nothing."""

        async def job(tx: Transaction) -> tuple[bool, ...]:
            before = await _held(tx.connection, {document.digest for document in batch})
            told = seen or {}
            envelopes = {digest: envelope for digest, (_, envelope) in before.items()}
            fresh: dict[str, DocumentRow] = {}
            for document in batch:
                kept = envelopes.get(document.digest)
                if kept is None:
                    fresh[document.digest] = document
                elif kept != told.get(document.digest, document.envelope):
                    raise MOVED(f"document {document.digest} has another envelope by now", document=document.digest)
                envelopes[document.digest] = document.envelope
            await self._insert(tx.connection, list(fresh.values()))
            # The index of a known document stays as it was.
            again = [document for document in batch if fresh.get(document.digest) is not document]
            await _judge(tx.connection, [{**_judged(one), "new_envelope": one.envelope} for one in again])
            shares = {digest: share for digest, (share, _) in before.items()}
            after = {one.digest: Share(one.project, one.standing, one.size) for one in batch}
            after |= {digest: after[digest]._replace(project=share.project) for digest, share in shares.items()}
            await count(tx.connection, shares.values(), after.values())
            await settle(tx.connection, _moved(shares, after))
            tx.notify(DOCUMENTS)
            first = dict.fromkeys(fresh, True)
            return tuple(first.pop(document.digest, False) for document in batch)

        return await self._db.write(job)

    async def judge_many(self, judged: Sequence[Judged]) -> None:
        """Set standing and judgement of kept documents."""

        async def job(tx: Transaction) -> None:
            before = await _shares(tx.connection, {one.digest for one in judged})
            await _judge(tx.connection, [_judged(one) for one in judged])
            standings = {one.digest: one.standing for one in judged}
            after = {digest: share._replace(standing=standings[digest]) for digest, share in before.items()}
            await count(tx.connection, before.values(), after.values())
            await settle(tx.connection, _moved(before, after))
            tx.notify(DOCUMENTS)

        if judged:
            await self._db.write(job)

    async def drop(self, digests: Sequence[str]) -> frozenset[str]:
        """Forget documents that do not verify."""

        async def job(tx: Transaction) -> frozenset[str]:
            found: set[str] = set()
            for chunk in chunks(digests):
                loose = documents.c.digest.in_(chunk) & (documents.c.standing != "verified")
                query = select(documents.c.digest).where(loose).with_for_update()
                found.update((await tx.connection.execute(query)).scalars().all())
            shares = await _shares(tx.connection, found)
            for chunk in chunks(found):
                await tx.connection.execute(delete(documents).where(documents.c.digest.in_(chunk)))
            await forget(tx.connection, sorted(found))
            await count(tx.connection, shares.values(), ())
            tx.notify(DOCUMENTS)
            return frozenset(found)

        return await self._db.write(job) if digests else frozenset()

    async def get(self, digest: str) -> DocumentRow | None:
        """Return a document."""
        return (await self.get_many([digest])).get(digest)

    async def get_many(self, digests: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return those that are kept."""
        found: dict[str, DocumentRow] = {}
        async with self._db.read() as connection:
            for chunk in chunks(digests):
                query = select(*_ROW).where(documents.c.digest.in_(chunk))
                found |= {row.digest: _document(row) for row in (await connection.execute(query)).all()}
        return found

    async def list(
        self, kind: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[DocumentRow]:
        """Return documents in the order they were kept."""
        after, size = decode_cursor(cursor, (int,)), page_size(limit)
        query = select(documents.c.id, *_ROW).order_by(documents.c.id).limit(size + 1)
        for column, value in ((documents.c.kind, kind), (documents.c.project, project), (documents.c.cell, cell)):
            if value:
                query = query.where(column == value)
        if after is not None:
            query = query.where(documents.c.id > after[0])
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        more = encode_cursor([rows[size - 1].id]) if len(rows) > size else ""
        return Page(tuple(_document(row) for row in rows[:size]), more)

    async def entries(self, digests: Collection[str]) -> Mapping[str, DocumentEntry]:
        """Return what is known of those that are kept."""
        found: dict[str, DocumentEntry] = {}
        async with self._db.read() as connection:
            for chunk in chunks(digests):
                query = select(*_ENTRY).where(documents.c.digest.in_(chunk))
                found |= {row.digest: _entry(row) for row in (await connection.execute(query)).all()}
        return found

    async def current(
        self, newest: int, keys: Collection[CellKey] | None = None, environments: Collection[str] | None = None
    ) -> Mapping[CellKey, Sequence[DocumentEntry]]:
        """Return the current documents of cells."""
        here = true() if environments is None else current_documents.c.environment.in_(sorted(environments))
        found: defaultdict[CellKey, list[DocumentEntry]] = defaultdict(list)
        async with self._db.read() as connection:
            for condition in [here] if keys is None else about_cells(current_documents.c, keys):
                query = select(current_documents.c.environment, current_documents.c.selector, *_ENTRY)
                query = query.join(documents, documents.c.digest == current_documents.c.digest)
                for row in (await connection.execute(query.where(here, condition))).all():
                    one = row if row.sequence <= newest else await _before(connection, row, newest)
                    if one is not None:
                        found[CellKey(row.project, row.cell, row.environment)].append(_entry(one))
        return found

    async def keys(self) -> frozenset[CellKey]:
        """Return the keys with a current document."""
        heads = current_documents.c
        query = select(heads.project, heads.cell, heads.environment).distinct()
        async with self._db.read() as connection:
            return frozenset(CellKey(*row) for row in (await connection.execute(query)).all())

    async def naming(self, digests: Collection[str]) -> frozenset[CellKey]:
        """Return the keys with a current document that is one of these, or names one."""
        found: set[CellKey] = set()
        heads = current_documents.c
        async with self._db.read() as connection:
            for chunk in chunks(digests):
                about = or_(heads.digest.in_(chunk), heads.subject.in_(chunk), heads.fallback.in_(chunk))
                query = select(heads.project, heads.cell, heads.environment).where(about)
                found.update(CellKey(*row) for row in (await connection.execute(query)).all())
        return frozenset(found)

    async def approvals(self, subjects: Collection[str]) -> Sequence[DocumentEntry]:
        """Return the verified approvals of documents."""
        found: list[tuple[int, DocumentEntry]] = []
        async with self._db.read() as connection:
            for chunk in chunks(subjects):
                query = select(documents.c.id, *_ENTRY).where(
                    documents.c.subject.in_(chunk), documents.c.kind == "approval", documents.c.standing == "verified"
                )
                found += [(row.id, _entry(row)) for row in (await connection.execute(query)).all()]
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    async def named(self, digests: Collection[str]) -> frozenset[str]:
        """Return those that a Deployment names on which a signature counts."""
        found: set[str] = set()
        async with self._db.read() as connection:
            for chunk in chunks(digests):
                keys = document_keys.c
                query = select(keys.subject, keys.fallback).distinct()
                query = query.join(documents, documents.c.digest == keys.digest)
                query = query.where(or_(keys.subject.in_(chunk), keys.fallback.in_(chunk)))
                for row in (await connection.execute(query.where(documents.c.standing != "unverified"))).all():
                    found.update(row)
        return frozenset(found).intersection(digests)

    async def taken(self, numbers: Collection[tuple[CellKey, int]]) -> Mapping[tuple[CellKey, int], str]:
        """Return the verified documents that have these sequences."""
        keys, found = document_keys.c, dict[tuple[CellKey, int], str]()
        by_sequence: defaultdict[int, set[CellKey]] = defaultdict(set)
        for key, sequence in numbers:
            by_sequence[sequence].add(key)
        async with self._db.read() as connection:
            for sequence, wanted in by_sequence.items():
                for about in about_cells(keys, wanted):
                    query = (
                        select(keys.project, keys.cell, keys.environment, keys.digest)
                        .join(documents, documents.c.digest == keys.digest)
                        .where(about, keys.sequence == sequence, documents.c.standing == "verified")
                        .order_by(documents.c.id)
                    )
                    for row in (await connection.execute(query)).all():
                        found.setdefault((CellKey(*row[:3]), sequence), row.digest)
        return found

    async def ahead(self, newest: int) -> bool:
        """Whether a current document is beyond ``newest``."""
        query = select(current_documents.c.digest).where(current_documents.c.sequence > newest).limit(1)
        async with self._db.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def usage(self, project: str) -> Usage:
        """Return what a project has."""
        totals = document_totals.c
        query = select(totals.verified, totals.verified_bytes, totals.loose, totals.loose_bytes)
        async with self._db.read() as connection:
            row = (await connection.execute(query.where(totals.project == project))).one_or_none()
        return Usage(*row) if row is not None else Usage()

    async def places(self, project: str, besides: Collection[tuple[str, str]] = ()) -> int:
        """Return how many cells times environments a project has."""
        heads = current_documents.c
        distinct = select(heads.cell, heads.environment).where(heads.project == project).distinct()
        keys = {CellKey(project, *pair) for pair in besides}
        known = 0
        async with self._db.read() as connection:
            total = (await connection.execute(select(func.count()).select_from(distinct.subquery()))).scalar_one()
            for about in about_cells(heads, keys):
                query = select(func.count()).select_from(distinct.where(about).subquery())
                known += (await connection.execute(query)).scalar_one()
        return int(total) + len(keys) - known

    async def loose(self, project: str, *, once: bool) -> Sequence[DocumentEntry]:
        """Return a project's documents that are not verified."""
        query = select(*_ENTRY).where(documents.c.project == project, documents.c.standing.in_(_LOOSE))
        if not once:
            query = query.where(~documents.c.once)
        async with self._db.read() as connection:
            return [_entry(row) for row in (await connection.execute(query.order_by(documents.c.id))).all()]

    async def _insert(self, connection: AsyncConnection, fresh: Sequence[DocumentRow]) -> None:
        values = [
            {
                "digest": document.digest,
                "kind": document.kind,
                "envelope": document.envelope,
                "project": document.project,
                "cell": document.cell,
                "environments": list(document.environments),
                "sequence": document.sequence,
                "meta": dict(document.meta),
                "subject": document.meta.get("subject", ""),
                "received_at": document.received_at or self._db.clock.now(),
                "standing": document.standing,
                "judgement": dict(document.judgement),
                "once": _once(document),
            }
            for document in fresh
        ]
        if values:
            await connection.execute(insert(documents), values)
        if keys := [key for document in fresh for key in key_rows(document)]:
            await connection.execute(insert(document_keys), keys)


def _once(judged: DocumentRow | Judged) -> bool:
    return judged.standing != "verified" and bool(judged.judgement.get("once"))


def _judged(one: DocumentRow | Judged) -> dict[str, Any]:
    return {
        "key": one.digest,
        "new_standing": one.standing,
        "new_judgement": dict(one.judgement),
        "new_once": _once(one),
    }


async def _judge(connection: AsyncConnection, values: Sequence[dict[str, Any]]) -> None:
    """Set what is given of kept documents; all name the same columns."""
    if not values:
        return
    named: dict[str, BindParameter[Any]] = {
        name: bindparam(f"new_{name}") for name in ("standing", "judgement", "once", "envelope")
    }
    set_ = {name: value for name, value in named.items() if f"new_{name}" in values[0]}
    await connection.execute(update(documents).where(documents.c.digest == bindparam("key")).values(set_), values)


def _moved(before: Mapping[str, Share], after: Mapping[str, Share]) -> set[str]:
    """Digests of documents that came, or whose standing is another one."""
    return {digest for digest, share in after.items() if digest not in before or before[digest][1] != share.standing}


async def _before(connection: AsyncConnection, head: Row[Any], most: int) -> Row[Any] | None:
    """What is current in place of a document whose sequence no agent takes by now."""
    group = {"project": head.project, "cell": head.cell, "environment": head.environment, "selector": head.selector}
    query = (
        select(*_ENTRY)
        .join(document_keys, document_keys.c.digest == documents.c.digest)
        .where(up_to(group, most))
        .order_by(document_keys.c.sequence.desc(), document_keys.c.digest)
        .limit(1)
    )
    return (await connection.execute(query)).one_or_none()


async def _shares(connection: AsyncConnection, digests: Collection[str]) -> dict[str, Share]:
    found: dict[str, Share] = {}
    for chunk in chunks(digests):
        query = select(documents.c.digest, documents.c.project, documents.c.standing, _ENTRY[-1])
        for row in (await connection.execute(query.where(documents.c.digest.in_(chunk)))).all():
            found[row.digest] = Share(row.project, row.standing, row.size)
    return found


async def _held(connection: AsyncConnection, digests: Collection[str]) -> dict[str, tuple[Share, bytes]]:
    """What documents count, and their envelopes; nobody else changes them before the transaction ends."""
    found: dict[str, tuple[Share, bytes]] = {}
    for chunk in chunks(digests):
        query = select(documents.c.digest, documents.c.project, documents.c.standing, documents.c.envelope)
        query = query.where(documents.c.digest.in_(chunk)).with_for_update()
        for row in (await connection.execute(query)).all():
            found[row.digest] = (Share(row.project, row.standing, len(row.envelope)), row.envelope)
    return found
