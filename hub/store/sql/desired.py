"""Desired items, receipts and states in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, String, and_, func, literal_column, select, tuple_
from sqlalchemy.exc import IntegrityError

from cellward.documents.names import CellKey
from hub.store.changes import desired_topic
from hub.store.cursor import decode_cursor, encode_cursor, page_size
from hub.store.errors import UNKNOWN_CLUSTER
from hub.store.interfaces import CellRow, DesiredChange, DesiredRow, ReceiptRow, StatusRow
from hub.store.rows import Json, Page
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import about_cells, upsert
from hub.store.sql.tables import desired, desired_revisions, receipts, statuses

#: Names in one IN list; SQLite takes 32,766 parameters in all.
CHUNK = 1000
_Content = tuple[str, tuple[str, ...], str, str]
_KEY = ("project", "cell", "environment", "cluster")
_ITEM = ("revision", "deployment_digest", "evidence", "hub_state", "hub_state_role", "changed_at")


def _desired(row: Any) -> DesiredRow:
    return DesiredRow(
        cluster=row.cluster,
        key=CellKey(row.project, row.cell, row.environment),
        revision=row.revision,
        deployment_digest=row.deployment_digest,
        evidence=tuple(row.evidence),
        hub_state=row.hub_state,
        changed_at=row.changed_at,
        hub_state_role=row.hub_state_role,
    )


class SqlDesired:
    """Implements ``DesiredStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def upsert(
        self,
        cluster: str,
        key: CellKey,
        deployment_digest: str,
        evidence: Sequence[str] = (),
        hub_state: str = "run",
    ) -> int:
        """Set an item and return its revision."""
        await self.upsert_many([DesiredChange(cluster, key, deployment_digest, tuple(evidence), hub_state)])
        item = await self.get(cluster, key)
        return item.revision if item is not None else 0

    async def upsert_many(self, changes: Sequence[DesiredChange]) -> Mapping[str, int]:
        """Set many items in one transaction."""

        async def job(tx: Transaction) -> Mapping[str, int]:
            return await self._upsert(tx, changes)

        try:
            return await self._db.write(job)
        except IntegrityError as error:
            raise UNKNOWN_CLUSTER("a desired item is for a cluster that does not exist") from error

    async def get(self, cluster: str, key: CellKey) -> DesiredRow | None:
        """Return one item."""
        query = select(desired).where(desired.c.cluster == cluster, *_is(key))
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _desired(row) if row is not None else None

    async def items(self, cluster: str, since_revision: int = 0) -> tuple[DesiredRow, ...]:
        """Return the cluster's items changed after a revision."""
        query = (
            select(desired)
            .where(desired.c.cluster == cluster, desired.c.revision > since_revision)
            .order_by(desired.c.revision)
        )
        async with self._db.read() as connection:
            return tuple(_desired(row) for row in (await connection.execute(query)).all())

    async def items_of(self, clusters: Sequence[str]) -> Mapping[str, tuple[DesiredRow, ...]]:
        """Return all items of each of the named clusters."""
        found: dict[str, list[DesiredRow]] = {name: [] for name in clusters}
        async with self._db.read() as connection:
            for chunk in _chunks(sorted(found)):
                query = select(desired).where(desired.c.cluster.in_(chunk)).order_by(desired.c.revision)
                for row in (await connection.execute(query)).all():
                    found[row.cluster].append(_desired(row))
        return {name: tuple(rows) for name, rows in found.items()}

    async def of(self, keys: Collection[CellKey]) -> tuple[DesiredRow, ...]:
        """Return the items of all clusters that are about these."""
        found: list[DesiredRow] = []
        async with self._db.read() as connection:
            for about in about_cells(desired.c, keys):
                found += [_desired(row) for row in (await connection.execute(select(desired).where(about))).all()]
        return tuple(found)

    async def count(self) -> int:
        """Return how many items there are."""
        async with self._db.read() as connection:
            return (await connection.execute(select(func.count()).select_from(desired))).scalar_one()

    async def revision(self, cluster: str) -> int:
        """Return the cluster's newest revision."""
        query = select(desired_revisions.c.revision).where(desired_revisions.c.cluster == cluster)
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def put_receipt(self, receipt: ReceiptRow) -> None:
        """Keep the newest receipt of a cell."""
        await self.put_receipts([receipt])

    async def put_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        """Keep the newest receipt of each cell."""
        if not rows:
            return
        values = [
            {
                "cluster": row.cluster,
                **row.key._asdict(),
                "revision": row.revision,
                "deployment_digest": row.deployment_digest,
                "accepted": row.accepted,
                "body": dict(row.body),
                "statement": row.statement,
                "received_at": row.received_at or self._db.clock.now(),
            }
            for row in rows
        ]
        # A restored store gives numbers again that it gave before: a receipt of one it does not know is not newer.
        # By its text, because only SELECT correlates: as a column, another cluster's number could be the one compared.
        same = desired_revisions.c.cluster == literal_column("receipts.cluster", String)
        given = select(desired_revisions.c.revision).where(same)
        add = upsert(
            self._db.dialect, receipts, _KEY, update=_RECEIPT, not_older="revision", at_most=given.scalar_subquery()
        )

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(add, values)

        await self._observe(job, rows[0].cluster)

    async def put_status(self, cluster: str, key: CellKey, body: Json, at: datetime) -> None:
        """Keep the newest state of a cell."""
        await self.put_statuses([StatusRow(cluster, key, body, at)])

    async def put_statuses(self, rows: Sequence[StatusRow]) -> None:
        """Keep the newest state of many cells."""
        if not rows:
            return
        values = [
            {"cluster": row.cluster, **row.key._asdict(), "body": dict(row.body), "reported_at": row.reported_at}
            for row in rows
        ]

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(
                upsert(self._db.dialect, statuses, _KEY, update=("body", "reported_at")), values
            )

        await self._observe(job, rows[0].cluster)

    async def statuses(
        self, cluster: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[CellRow]:
        """Return desired items with status and receipt."""
        after, size = decode_cursor(cursor, (str, str, str, str)), page_size(limit)
        key = tuple(desired.c[name] for name in _KEY)
        query = (
            select(
                desired,
                *(statuses.c[name].label(f"s_{name}") for name in ("body", "reported_at")),
                *(receipts.c[name].label(f"r_{name}") for name in _RECEIPT),
            )
            .outerjoin(statuses, and_(*(desired.c[name] == statuses.c[name] for name in _KEY)))
            .outerjoin(receipts, and_(*(desired.c[name] == receipts.c[name] for name in _KEY)))
            .order_by(*key)
            .limit(size + 1)
        )
        for name, value in (("cluster", cluster), ("project", project), ("cell", cell)):
            if value:
                query = query.where(desired.c[name] == value)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        last = rows[size - 1] if len(rows) > size else None
        more = encode_cursor([last.project, last.cell, last.environment, last.cluster]) if last is not None else ""
        return Page(tuple(_cell(row) for row in rows[:size]), more)

    async def _upsert(self, tx: Transaction, changes: Sequence[DesiredChange]) -> Mapping[str, int]:
        names = sorted({change.cluster for change in changes})
        revisions = await self._revisions(tx, names)
        held = await self._held(tx, changes)
        rows: dict[tuple[str, CellKey], dict[str, Any]] = {}
        now = self._db.clock.now()
        changed: dict[str, int] = {}
        for change in changes:
            content = (change.deployment_digest, tuple(change.evidence), change.hub_state, change.hub_state_role)
            if held.get((change.cluster, change.key)) == content and not change.again:
                continue
            revision = changed[change.cluster] = revisions[change.cluster] = revisions.get(change.cluster, 0) + 1
            held[change.cluster, change.key] = content
            rows[change.cluster, change.key] = {
                "cluster": change.cluster,
                **change.key._asdict(),
                "revision": revision,
                "deployment_digest": change.deployment_digest,
                "evidence": list(change.evidence),
                "hub_state": change.hub_state,
                "hub_state_role": change.hub_state_role,
                "changed_at": now,
            }
        if rows:
            dialect = self._db.dialect
            await tx.connection.execute(upsert(dialect, desired, _KEY, update=_ITEM), list(rows.values()))
            await tx.connection.execute(
                upsert(dialect, desired_revisions, ("cluster",), update=("revision",)),
                [{"cluster": name, "revision": revision} for name, revision in changed.items()],
            )
            tx.notify(*(desired_topic(name) for name in changed))
        return changed

    async def _revisions(self, tx: Transaction, names: Sequence[str]) -> dict[str, int]:
        revisions: dict[str, int] = {}
        for chunk in _chunks(names):
            query = select(desired_revisions).where(desired_revisions.c.cluster.in_(chunk)).with_for_update()
            revisions |= {row.cluster: row.revision for row in (await tx.connection.execute(query)).all()}
        return revisions

    async def _held(self, tx: Transaction, changes: Sequence[DesiredChange]) -> dict[tuple[str, CellKey], _Content]:
        by_key: defaultdict[CellKey, set[str]] = defaultdict(set)
        for change in changes:
            by_key[change.key].add(change.cluster)
        held: dict[tuple[str, CellKey], _Content] = {}
        for key, names in by_key.items():
            for chunk in _chunks(sorted(names)):
                query = select(desired).where(desired.c.cluster.in_(chunk), *_is(key))
                for row in (await tx.connection.execute(query)).all():
                    content = (row.deployment_digest, tuple(row.evidence), row.hub_state, row.hub_state_role)
                    held[row.cluster, key] = content
        return held

    async def _observe(self, job: Any, cluster: str) -> None:
        try:
            await self._db.write(job)
        except IntegrityError as error:
            raise UNKNOWN_CLUSTER(f"cluster {cluster} does not exist", cluster=cluster) from error


_RECEIPT = ("revision", "deployment_digest", "accepted", "body", "statement", "received_at")


def _is(key: CellKey, columns: Any = desired.c) -> tuple[Any, ...]:
    return (columns.project == key.project, columns.cell == key.cell, columns.environment == key.environment)


def _cell(row: Row[Any]) -> CellRow:
    item = _desired(row)
    status = StatusRow(item.cluster, item.key, row.s_body, row.s_reported_at) if row.s_reported_at is not None else None
    receipt = None
    if row.r_received_at is not None:
        receipt = ReceiptRow(item.cluster, item.key, **{name: getattr(row, f"r_{name}") for name in _RECEIPT})
    return CellRow(item, status, receipt)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
