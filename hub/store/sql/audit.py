"""The audit log at rest in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Row, Select, delete, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.changes import AUDIT, EVENTS
from hub.store.errors import MOVED
from hub.store.log import (
    AuditAppend,
    AuditChain,
    AuditEntry,
    AuditEvent,
    AuditFilter,
    AuditRow,
    AuditRun,
    AuditSnapshot,
    AuditTip,
    TileKey,
    WaitingEvent,
    is_dense,
)
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import insert_many, upsert
from hub.store.sql.leases import SqlLeases
from hub.store.sql.tables import (
    audit_chains,
    audit_events,
    audit_log,
    audit_records,
    audit_runs,
    audit_tiles,
    from_microseconds,
    microseconds,
)

_RECORD: Final = (
    "idx", "record", "origin", "epoch", "seq", "time", "cluster", "action", "decision", "project", "cell",
)  # fmt: skip
_CHAIN: Final = ("seq", "head", "uid", "cluster", "statement_spki", "checkpoint", "checkpoint_seq", "forked")
_RUN: Final = ("origin", "epoch", "seq", "idx", "count")

# Made once, because every change of the hub runs it.
_WAITS: Final = insert(audit_events)
#: Numbers in one IN list.
_CHUNK: Final = 1000


class SqlAudit:
    """Implements ``AuditStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def put_events(self, events: Sequence[AuditEvent]) -> None:
        """Keep events until they have their place."""
        now = self._db.clock.now()
        values = [{"at": now, "event": asdict(event)} for event in events]

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(_WAITS, values)
            tx.notify(EVENTS)

        if values:
            await self._db.write(job)

    async def waiting(self, limit: int) -> tuple[WaitingEvent, ...]:
        """Return events that have no place yet."""
        query = select(audit_events).order_by(audit_events.c.number).limit(limit)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        return tuple(WaitingEvent(row.number, row.at, AuditEvent(**row.event)) for row in rows)

    async def append(self, batch: AuditAppend) -> None:
        """Write all of it in one transaction, if the log still has the expected size."""

        async def job(tx: Transaction) -> None:
            await _grow(tx, batch)
            if batch.entries:
                await insert_many(tx.connection, audit_records, _RECORD, [_values(entry) for entry in batch.entries])
                tx.notify(AUDIT)
            for start in range(0, len(batch.placed), _CHUNK):
                chunk = batch.placed[start : start + _CHUNK]
                gone = await tx.connection.execute(delete(audit_events).where(audit_events.c.number.in_(chunk)))
                if gone.rowcount != len(chunk):
                    raise MOVED("another process has given a waiting event its place")
            dialect = self._db.dialect
            if batch.chains:
                rows = [{name: getattr(chain, name) for name in ("origin", "epoch", *_CHAIN)} for chain in batch.chains]
                await tx.connection.execute(upsert(dialect, audit_chains, ("origin", "epoch"), update=_CHAIN), rows)
            if batch.tiles:
                tiles = [{"level": key.level, "idx": key.number, "hashes": data} for key, data in batch.tiles.items()]
                await tx.connection.execute(upsert(dialect, audit_tiles, ("level", "idx"), update=("hashes",)), tiles)

        try:
            await self._db.write(job)
        except IntegrityError as error:
            raise MOVED("a record of this chain and number is in the log already") from error

    async def size(self) -> int:
        """Return how many records the log has."""
        async with self._db.read() as connection:
            return (await _tip(connection)).size

    async def tip(self) -> AuditTip:
        """Return size and root of the log."""
        async with self._db.read() as connection:
            return await _tip(connection)

    async def entries(self, start: int, end: int) -> tuple[AuditEntry, ...]:
        """Return whole rows by index."""
        table = audit_records.c
        query = select(audit_records).where(table.idx >= start, table.idx < end).order_by(table.idx)
        async with self._db.read() as connection:
            return tuple(_entry(row) for row in (await connection.execute(query)).all())

    async def origin_state(self, origin: str, epoch: int | None = None) -> AuditChain | None:
        """Return a writer's chain in an epoch, in its newest one when None."""
        query = select(audit_chains).where(audit_chains.c.origin == origin)
        if epoch is not None:
            query = query.where(audit_chains.c.epoch == epoch)
        query = query.order_by(audit_chains.c.epoch.desc()).limit(1)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _chain(row) if row is not None else None

    async def snapshot(self) -> AuditSnapshot:
        """Return size and chains at one moment."""
        query = select(audit_chains).order_by(audit_chains.c.origin, audit_chains.c.epoch)
        async with self._db.read() as connection:
            tip = await _tip(connection)
            chains = tuple(_chain(row) for row in (await connection.execute(query)).all())
            return AuditSnapshot(tip.size, chains, tip.root, tip.pruned)

    async def tiles(self, keys: Sequence[TileKey]) -> Mapping[TileKey, bytes]:
        """Return tiles, as far as they exist."""
        if not keys:
            return {}
        query = select(audit_tiles).where(tuple_(audit_tiles.c.level, audit_tiles.c.idx).in_([tuple(k) for k in keys]))
        async with self._db.read() as connection:
            return {TileKey(row.level, row.idx): row.hashes for row in (await connection.execute(query)).all()}

    async def records(
        self, cursor: int, limit: int, filters: AuditFilter | None = None, end: int | None = None
    ) -> tuple[AuditRow, ...]:
        """Return matching records from an index on."""
        query = _filtered(filters or AuditFilter()).where(audit_records.c.idx >= cursor)
        if end is not None:
            query = query.where(audit_records.c.idx < end)
        async with self._db.read() as connection:
            rows = (await connection.execute(query.order_by(audit_records.c.idx).limit(limit))).all()
        return tuple(AuditRow(row.idx, row.record, row.cluster) for row in rows)

    async def chain_records(self, origin: str, epoch: int, first_seq: int, last_seq: int) -> tuple[AuditRow, ...]:
        """Return a writer's records by sequence number."""
        table = audit_records.c
        query = (
            select(table.seq, table.idx, table.record, table.cluster)
            .where(table.origin == origin, table.epoch == epoch, table.seq >= first_seq, table.seq <= last_seq)
            .order_by(table.seq)
        )
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
            found = {row.seq: AuditRow(row.idx, row.record, row.cluster) for row in rows}
            if len(found) <= last_seq - first_seq:
                for run in await _runs(connection, origin, epoch, first_seq, last_seq):
                    for seq in range(max(run.seq, first_seq), min(run.seq + run.count, last_seq + 1)):
                        found[seq] = AuditRow(run.index + seq - run.seq, b"")
        return tuple(found[seq] for seq in sorted(found))

    async def prune(self, first: int, end: int, runs: Sequence[AuditRun]) -> None:
        """Forget records except where they stood."""
        values = [dict(zip(_RUN, (r.origin, r.epoch, r.seq, r.index, r.count), strict=True)) for r in runs]

        async def job(tx: Transaction) -> None:
            log, records = audit_log.c, audit_records.c
            moved = update(audit_log).where(log.id == 1, log.pruned == first, log.size > end).values(pruned=end)
            if (await tx.connection.execute(moved)).rowcount != 1:
                raise MOVED(f"the log does not begin with record {first} any more, or ends before {end}")
            await tx.connection.execute(delete(audit_records).where(records.idx >= first, records.idx < end))
            await tx.connection.execute(insert(audit_runs), values)
            tx.notify(AUDIT)

        await self._db.write(job)


async def _runs(
    connection: AsyncConnection, origin: str, epoch: int, first_seq: int, last_seq: int
) -> tuple[AuditRun, ...]:
    """Return where pruned records of a chain stood, as far as they overlap."""
    table = audit_runs.c
    query = select(audit_runs).where(
        table.origin == origin, table.epoch == epoch, table.seq <= last_seq, table.seq + table["count"] > first_seq
    )
    return tuple(AuditRun(*row) for row in (await connection.execute(query)).all())


async def _grow(tx: Transaction, batch: AuditAppend) -> None:
    """Pass the fence of every append; raises store/moved, store/lease-moved."""
    size = batch.expected_size
    if batch.lease is not None:
        await SqlLeases(tx).check(batch.lease)
    if not is_dense(batch):
        raise MOVED(f"the entries do not follow record {size} one by one")
    values: dict[str, Any] = {"size": size + len(batch.entries)}
    if batch.entries:
        values["root"] = batch.root or None
    moved = update(audit_log).where(audit_log.c.id == 1, audit_log.c.size == size)
    grown = await tx.connection.execute(moved.values(values))
    if grown.rowcount != 1:
        raise MOVED(f"the log has not {size} records any more")


async def _tip(connection: AsyncConnection) -> AuditTip:
    row = (await connection.execute(select(audit_log).where(audit_log.c.id == 1))).one()
    return AuditTip(row.size, row.root or b"", row.pruned)


def _values(entry: AuditEntry) -> tuple[Any, ...]:
    return (
        entry.index,
        entry.record,
        entry.origin,
        entry.epoch,
        entry.seq,
        microseconds(entry.time),
        entry.cluster,
        entry.action,
        entry.decision,
        entry.project,
        entry.cell,
    )


def _entry(row: Row[Any]) -> AuditEntry:
    values = dict(zip(_RECORD, row, strict=True))
    return AuditEntry(**values | {"index": values.pop("idx"), "time": from_microseconds(values["time"])})


def _chain(row: Row[Any]) -> AuditChain:
    return AuditChain(**row._asdict())


def _filtered(filters: AuditFilter) -> Select[Any]:
    table = audit_records.c
    query = select(table.idx, table.record, table.cluster)
    project, _, cell = filters.cell.rpartition("/")
    for column, value in (
        (table.cluster, filters.cluster),
        (table.action, filters.action),
        (table.decision, filters.decision),
        (table.origin, filters.origin),
        (table.project, project),
        (table.cell, cell),
    ):
        if value:
            query = query.where(column == value)
    return query
