"""Opening the durable state: lock, file, comparison with the anchor (V1), and keeping the anchor up to date.

Invariants: at most one process has the state open; missing, older or damaged state is a finding and a new epoch, never
a silent start and never an end of the agent; findings are durable until the recorder has chained them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from agent.spool import errors
from agent.spool.audit import SqliteAuditSpool
from agent.spool.closings import SqliteClosings, durable_closings, raise_closings
from agent.spool.floors import SqliteFloors, SqlitePolicyFloors, copy_of, mark_copied, settle_floors
from agent.spool.interfaces import Anchor, AnchorState, Finding, FloorsCopy
from agent.spool.schema import migrate
from agent.spool.stores import (
    SqliteBlobs,
    SqliteInventory,
    SqliteItems,
    SqliteMeta,
    SqliteOutbox,
    SqliteTimeFloor,
)
from agent.spool.writer import Writer
from cellward.audit.record import NO_RECORD
from cellward.errors import CellwardError
from cellward.runtime.clock import Clock, Timer
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Name of the state file in the state directory.
FILE_NAME = "state.db"
#: Key in the meta table: up to which revision the hub's items are held.
LINK_REVISION = "link.revision"
#: Condition set by the anchor keeper.
ANCHOR_CONDITION = "state-anchor"


class SqliteStateDb:
    """The real StateDb; made by ``open_state`` only."""

    def __init__(
        self,
        writer: Writer,
        lock: int,
        audit_max_bytes: int,
        identity: AnchorState,
        closings: SqliteClosings,
        monotonic: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._lock: int | None = lock
        self._identity = identity
        self.floors = SqliteFloors(writer)
        self.policy_floors = SqlitePolicyFloors(writer)
        self.time_floor = SqliteTimeFloor(writer, monotonic)
        self.items = SqliteItems(writer, "received")
        self.accepted = SqliteItems(writer, "accepted")
        self.blobs = SqliteBlobs(writer)
        self.closings = closings
        self.inventory = SqliteInventory(writer, closings)
        self.meta = SqliteMeta(writer)
        self.outbox = SqliteOutbox(writer)
        self.audit = SqliteAuditSpool(writer, audit_max_bytes)

    @property
    def uid(self) -> str:
        """The cluster uid."""
        return self._identity.uid

    @property
    def epoch(self) -> int:
        """The epoch of the audit chain."""
        return self.audit.epoch or self._identity.epoch

    async def bind_statement_key(self, keyid: str) -> Finding | None:
        """Remember which key signs this epoch; another one than before is a finding and a new epoch (V1)."""

        def job(connection: sqlite3.Connection) -> tuple[Finding | None, int]:
            known, epoch = connection.execute("SELECT statement_keyid, epoch FROM agent").fetchone()
            if known == keyid:
                return None, epoch
            connection.execute("UPDATE agent SET statement_keyid=?", (keyid,))
            if not known:
                return None, epoch
            reason = f"the chain was signed by {known}; that key is gone, and {keyid} was made instead"
            finding = Finding(errors.STATEMENT_KEY_CHANGED.code, reason, {"keyid": keyid, "before": known})
            connection.execute("UPDATE agent SET epoch=?, seq=0, head=?", (epoch + 1, NO_RECORD))
            _keep_findings(connection, [finding])
            return finding, epoch + 1

        finding, self.audit.epoch = await self._writer.run(job)
        if finding is not None:
            _log.error("state-finding", code=finding.code, reason=finding.reason)
        return finding

    async def position(self) -> AnchorState:
        """Return what the anchor should hold now."""
        found = await self._writer.run(_position)
        # Also of what a full disk has no record: a restart must not open it.
        return replace(found, closings=max(found.closings, self.closings.total))

    async def begin_epoch(self, findings: Sequence[Finding]) -> None:
        """Begin a new epoch for findings made after opening, unless this one has no record yet (V1).

        Raises spool/full or spool/unwritable; then it is the same epoch, and nothing was kept.
        """

        def job(connection: sqlite3.Connection) -> AnchorState:
            connection.execute("UPDATE agent SET epoch=epoch+1, seq=0, head=? WHERE seq>0", (NO_RECORD,))
            _keep_findings(connection, findings)
            return _position(connection)

        self._identity = await self._writer.run(job)
        self.audit.epoch = self._identity.epoch

    async def mark_anchored(self, state: AnchorState, before: FloorsCopy | None = None) -> None:
        """Remember that the anchor holds this, so that its absence or less in it is a finding from now on."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE agent SET anchored=1 WHERE anchored=0")
            mark_copied(connection, state.floors, before)

        await self._writer.run(job)

    async def close(self) -> None:
        """Finish what was asked, close the file and release the lock."""
        await self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(frozen=True, slots=True)
class OpenedState:
    """What ``open_state`` returns; ``findings`` are those not yet chained, also from an earlier start."""

    db: SqliteStateDb
    findings: tuple[Finding, ...]


async def open_state(
    directory: Path,
    *,
    clock: Clock,
    anchor: Anchor | None = None,
    max_bytes: int = 512 * 1024**2,
    audit_max_bytes: int = 256 * 1024**2,
) -> OpenedState:
    """Open or make the state in ``directory``.

    Args:
        directory: persistent, mode 0700, made if absent.
        clock: for the name of a damaged file that is set aside; its monotonic side holds jumps out of the time floor.
        anchor: None compares nothing (tests, tools).
        max_bytes: bound of the file.
        audit_max_bytes: bound of the spooled records; at most three quarters of ``max_bytes`` is used.

    Raises:
        CellwardError: ``spool/locked``, ``spool/unwritable``, ``spool/too-new``, ``spool/foreign-state``,
            ``spool/full``.
        Exception: what the anchor raises when its place does not answer; nothing was changed then.
    """
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    anchored, unreadable = await _load(anchor)
    lock = _take_lock(directory)
    writer: Writer | None = None
    try:
        writer, damage = await _start(directory, clock, max_bytes)
        found = [finding for finding in (damage, unreadable) if finding is not None]
        compare = anchor is not None and unreadable is None
        identity, findings = await writer.run(lambda connection: _settle(connection, anchored, found, compare=compare))
        closings = SqliteClosings(await writer.run(durable_closings))
        bound = min(audit_max_bytes, max_bytes * 3 // 4)
        db = SqliteStateDb(writer, lock, bound, identity, closings, clock.monotonic)
        if anchor is not None:
            await anchor.save(identity)
            await db.mark_anchored(identity)
    except BaseException:
        if writer is not None:
            await writer.close()
        os.close(lock)
        raise
    for finding in findings:
        _log.error("state-finding", code=finding.code, reason=finding.reason)
    return OpenedState(db, findings)


class AnchorKeeper:
    """Saves the anchor: as a root task whenever the state has moved, and at once where something is being accepted."""

    def __init__(
        self, db: SqliteStateDb, anchor: Anchor, timer: Timer, health: HealthRegistry, interval: float
    ) -> None:
        self._db = db
        self._anchor = anchor
        self._timer = timer
        self._health = health
        self._interval = interval
        self._saved: AnchorState | None = None
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled; a place that does not answer is a condition, never an end."""
        try:
            while True:
                await self.save()
                await self._timer.sleep(self._interval)
        finally:
            await self.save()

    async def save(self) -> None:
        """Save the anchor if the state has moved since the last time."""
        with contextlib.suppress(Exception):
            await self._save(floors_only=False)

    async def save_floors(self) -> None:
        """Return when the copy holds every floor and closing there is now; raises what its place raises.

        Many that wait are served by one write.
        """
        await self._save(floors_only=True)

    async def _save(self, *, floors_only: bool) -> None:
        try:
            async with self._lock:
                state, saved = await self._db.position(), self._saved
                if saved is None or (_lasting(state) != _lasting(saved) if floors_only else state != saved):
                    await self._anchor.save(state)
                    if saved is None or state.floors != saved.floors:
                        await self._db.mark_anchored(state, None if saved is None else saved.floors)
                    self._saved = state
        except (Exception, asyncio.CancelledError) as error:  # cancelled: who waited has no more time
            code = error.code if isinstance(error, CellwardError) else errors.ANCHOR_UNAVAILABLE.code
            self._health.set(ANCHOR_CONDITION, ok=False, code=code, message=f"the anchor cannot be saved: {error}")
            raise
        self._health.set(ANCHOR_CONDITION, ok=True)


def _lasting(state: AnchorState) -> tuple[FloorsCopy, int]:
    """Return what has to be in the anchor before what raised it goes on."""
    return state.floors, state.closings


async def _load(anchor: Anchor | None) -> tuple[AnchorState | None, Finding | None]:
    """Read the anchor; one that cannot be read is a finding and recreated, because a dead agent enforces nothing."""
    try:
        return (await anchor.load() if anchor is not None else None), None
    except CellwardError as error:
        if error.code != errors.ANCHOR_DAMAGED.code:
            raise
        return None, Finding(error.code, error.message)


def _take_lock(directory: Path) -> int:
    lock = os.open(directory / "state.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise errors.LOCKED(f"{directory} is in use by another process", directory=directory) from error
    except OSError as error:
        os.close(lock)
        raise errors.UNWRITABLE(f"{directory} cannot be locked: {error}", directory=directory) from error
    return lock


async def _start(directory: Path, clock: Clock, max_bytes: int) -> tuple[Writer, Finding | None]:
    """Open the file; a damaged one is set aside and a new one begun, because a dead agent enforces nothing."""
    path = directory / FILE_NAME
    try:
        return await _open_file(path, max_bytes), None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise errors.UNWRITABLE(f"{path} cannot be opened: {error}", file=path) from error
        aside = f"{FILE_NAME}.damaged-{clock.now().strftime('%Y%m%dT%H%M%SZ')}"
        for suffix in ("", "-wal", "-shm"):
            part = directory / f"{FILE_NAME}{suffix}"
            if part.exists():
                part.rename(directory / f"{aside}{suffix}")
        finding = Finding(
            errors.STATE_CORRUPT.code, f"the state file is damaged ({error}) and was set aside as {aside}"
        )
    return await _open_file(path, max_bytes), finding


async def _open_file(path: Path, max_bytes: int) -> Writer:
    writer = Writer(path, max_bytes)
    await writer.start()
    try:
        await writer.run(migrate)
    except BaseException:
        await writer.close()
        raise
    return writer


def _settle(
    connection: sqlite3.Connection, anchored: AnchorState | None, damage: Sequence[Finding], *, compare: bool
) -> tuple[AnchorState, tuple[Finding, ...]]:
    """Decide uid and epoch, and make findings durable together with the new epoch."""
    row = connection.execute("SELECT uid, epoch, seq, anchored FROM agent").fetchone()
    if row is not None and anchored is not None and row[0] != anchored.uid:
        raise errors.FOREIGN(f"the state is of uid {row[0]}, the anchor of uid {anchored.uid}")
    found = list(damage)
    if compare:
        found += _compare(row, anchored, sum(durable_closings(connection).values()))
    if anchored is not None:
        found += settle_floors(connection, anchored.floors, known=row is not None)
        raise_closings(connection, anchored.closings)
    if any(finding.code == errors.STATE_OLDER.code for finding in found):
        _forget_cells(connection)
    known_epochs = [0, *([row[1]] if row is not None else []), *([anchored.epoch] if anchored is not None else [])]
    if row is None:
        uid = anchored.uid if anchored is not None else str(uuid.uuid4())
        connection.execute(
            "INSERT INTO agent (id, uid, epoch, seq, head) VALUES (1, ?, ?, 0, ?)",
            (uid, max(known_epochs) + 1, NO_RECORD),
        )
    elif found:
        connection.execute("UPDATE agent SET epoch=?, seq=0, head=?", (max(known_epochs) + 1, NO_RECORD))
    _keep_findings(connection, found)
    pending = connection.execute("SELECT code, reason, details FROM findings ORDER BY number").fetchall()
    return _position(connection), tuple(Finding(code, reason, json.loads(details)) for code, reason, details in pending)


def _compare(row: tuple[str, int, int, int] | None, anchored: AnchorState | None, closings: int) -> list[Finding]:
    if anchored is None:
        if row is not None and row[3]:
            return [Finding(errors.ANCHOR_MISSING.code, "the anchor that was saved before is gone")]
        return []
    if row is None:
        reason = f"the anchor knows epoch {anchored.epoch}, record {anchored.seq}; the state directory is empty"
        return [Finding(errors.STATE_MISSING.code, reason)]
    _, epoch, seq, _ = row
    if (epoch, seq) < (anchored.epoch, anchored.seq):
        reason = f"the anchor knows epoch {anchored.epoch}, record {anchored.seq}; the state is at {epoch}, {seq}"
        return [Finding(errors.STATE_OLDER.code, reason)]
    if closings < anchored.closings:
        reason = f"the anchor counts {anchored.closings} closings of cells, the state {closings}"
        return [Finding(errors.STATE_OLDER.code, reason)]
    return []


def _forget_cells(connection: sqlite3.Connection) -> None:
    """Forget what is on record of cells, and what a hub asked for, as if the volume had been lost.

    Not everything that narrows raises a floor: an old record opens a cell that was quarantined since, and drift repair
    or an old item would bring that about without anybody's word. Floors, accepted documents and what waits stay.
    """
    connection.execute("DELETE FROM inventory")
    connection.execute("DELETE FROM items WHERE kind='received'")
    connection.execute("DELETE FROM meta WHERE key=?", (LINK_REVISION,))


def _keep_findings(connection: sqlite3.Connection, findings: Sequence[Finding]) -> None:
    rows = [(finding.code, finding.reason, json.dumps(dict(finding.details))) for finding in findings]
    connection.executemany("INSERT INTO findings (code, reason, details) VALUES (?,?,?)", rows)


def _position(connection: sqlite3.Connection) -> AnchorState:
    uid, epoch, seq = connection.execute("SELECT uid, epoch, seq FROM agent").fetchone()
    return AnchorState(uid, epoch, seq, copy_of(connection), sum(durable_closings(connection).values()))
