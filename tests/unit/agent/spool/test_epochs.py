"""A new epoch because the log takes no more of the old one: nothing that waits is lost, nothing stands in the way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from agent.audit.recorder import Recorder
from agent.spool import audit
from agent.spool.audit import MAX_JUMP
from agent.spool.interfaces import Also, LogView
from agent.spool.state import SqliteStateDb, open_state
from cellward.audit.chain import ChainState, verify_next
from cellward.audit.record import Record, parse_record
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused

REALM = "sha256:" + "a" * 64
ROOT = "sha256:" + "b" * 64
ROLLBACK = Entry("audit.rollback", "AuditLog//hub", "finding", code="audit/gap", details={"expected": "1"})


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteStateDb]:
    """A state whose audit spool holds about ten records."""
    opened = await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024, audit_max_bytes=8 * 1024)
    yield opened.db
    await opened.db.close()


def recorder_of(db: SqliteStateDb) -> Recorder:
    """A recorder of a test agent."""
    clock = ManualClock()
    return Recorder(db.audit, clock, realm=REALM, uid=db.uid, cluster=lambda: "eu-1", health=HealthRegistry(clock))


async def write(db: SqliteStateDb, *names: str) -> None:
    """Record something about each."""
    for name in names:
        await recorder_of(db).record(Entry("cell.apply", name, "done", details={"cell": name}))


async def waiting(db: SqliteStateDb) -> list[Record]:
    """Check the chain of the oldest epoch from its beginning and return its records."""
    stored = await db.audit.peek(10_000, 1 << 30)
    state = ChainState(stored[0].epoch)
    for one in stored:
        state = verify_next(state, one.data)
    assert state == ChainState(*_head(await db.audit.head()))
    return [parse_record(one.data) for one in stored]


def _head(head: object) -> tuple[int, int, str]:
    return head.epoch, head.seq, head.head  # type: ignore[attr-defined]


async def test_v13_what_waits_is_chained_anew_behind_the_reason(db: SqliteStateDb) -> None:
    """In order, with what it said and where it stood; the finding says where the old epoch ended."""
    await write(db, "a", "b", "c")
    await db.audit.free(1, 1, LogView(7, ROOT, b"key", b"note", "old"))
    await write(db, "d")
    old = await db.audit.head()
    assert await recorder_of(db).begin_epoch(ROLLBACK) == 2
    first, *moved = await waiting(db)
    assert (first.action, first.code, first.decision) == ("audit.rollback", "audit/gap", "finding")
    assert dict(first.details) == {
        "expected": "1", "oldEpoch": "1", "oldSeq": "4", "oldHead": old.head, "size": "7", "root": ROOT,
    }  # fmt: skip
    assert [(one.object, one.details["oldEpoch"], one.details["oldSeq"]) for one in moved] == [
        ("b", "1", "2"), ("c", "1", "3"), ("d", "1", "4"),
    ]  # fmt: skip
    assert {(one.epoch, one.details["cell"]) for one in moved} == {(2, "b"), (2, "c"), (2, "d")}
    assert (db.epoch, await db.audit.depth()) == (2, 4)
    assert (await db.position()).epoch == 2, "the anchor will know"
    view = await db.audit.log_view()
    assert (view.size, view.root, view.hub_epoch) == (7, ROOT, "old"), "without a reason nothing is forgotten"
    await write(db, "e")
    assert (await waiting(db))[-1].seq == 5


async def test_a_second_move_keeps_the_first_place(db: SqliteStateDb) -> None:
    """Where a record stood when it was written is what an auditor can look for."""
    await write(db, "a")
    await recorder_of(db).begin_epoch(ROLLBACK)
    await recorder_of(db).begin_epoch(ROLLBACK)
    first, earlier, a = await waiting(db)
    assert (first.details["oldEpoch"], earlier.action) == ("2", "audit.rollback")
    assert (a.object, a.details["oldEpoch"], a.details["oldSeq"], a.epoch) == ("a", "1", "1", 3)
    # The reason says of itself where the first epoch ended, and keeps saying so.
    assert (earlier.details["oldEpoch"], earlier.details["oldSeq"]) == ("1", "1")


async def test_records_of_several_epochs_move_together(tmp_path: Path) -> None:
    """An older disk has an unsent tail of an epoch that is over, and what came since: all of it goes on."""
    db = (await open_state(tmp_path, clock=ManualClock())).db
    await db.bind_statement_key("k1")
    await write(db, "a", "b")
    assert (await db.bind_statement_key("k2")) is not None
    await write(db, "c")
    assert await recorder_of(db).begin_epoch(ROLLBACK, after=7) == 8
    assert [one.object for one in await waiting(db)] == ["AuditLog//hub", "a", "b", "c"]
    await db.close()


async def test_a_log_is_forgotten_only_by_name_and_never_its_key(db: SqliteStateDb) -> None:
    """The record holds what is forgotten; the pinned key stays; moved records say nothing of the log that is gone."""
    await db.audit.pin_log_key(b"key")
    await write(db, "a")
    await db.audit.free(1, 1, LogView(7, ROOT, b"key", b"note", "old"))
    await write(db, "b")
    await recorder_of(db).begin_epoch(ROLLBACK, forget_log="new")
    assert await db.audit.log_view() == LogView(0, "", b"key", b"", "new")
    first, b = await waiting(db)
    assert (first.details["size"], first.details["root"], first.log_size) == ("7", ROOT, 0)
    assert (b.log_size, b.log_root) == (0, "")


async def test_v13_a_full_spool_does_not_stand_in_the_way(db: SqliteStateDb) -> None:
    """A log that refuses fills the spool: the way out must work just then, and the bound holds again afterwards."""
    recorder = recorder_of(db)
    with refused("spool/full"):
        await write(db, *("x" * 200 for _ in range(100)))
    depth = await db.audit.depth()
    await recorder.begin_epoch(ROLLBACK)
    records = await waiting(db)
    assert len(records) == depth + 1
    with pytest.raises(CellwardError) as caught:
        await write(db, "more")
    assert caught.value.code == "spool/full"
    await db.audit.free(2, records[-1].seq, LogView())
    await write(db, "y")
    assert await db.audit.depth() == 1


@pytest.mark.parametrize(("after", "epoch"), [(0, 2), (1, 2), (5, 6), (2**53, 2 + MAX_JUMP)])
async def test_the_new_epoch_is_later_than_the_logs_within_a_bound(db: SqliteStateDb, after: int, epoch: int) -> None:
    """A hub that lies cannot use up the numbers."""
    assert await recorder_of(db).begin_epoch(ROLLBACK, after=after) == epoch


async def test_v13_a_record_that_cannot_be_moved_is_counted(db: SqliteStateDb) -> None:
    """A damaged record must not keep the others from moving; the loss enters the chain."""
    await write(db, "a", "b")
    await db._writer.run(lambda connection: connection.execute("UPDATE audit SET data=x'00' WHERE seq=1").rowcount)
    await recorder_of(db).begin_epoch(ROLLBACK)
    await write(db, "c")
    assert [one.action for one in await waiting(db)] == ["audit.rollback", "cell.apply", "audit.lost", "cell.apply"]


async def test_v1_another_statement_key_is_a_finding_and_a_new_epoch(tmp_path: Path) -> None:
    """V1: a key that was lost alone and made anew is not passed over; the same key again is nothing."""
    db = (await open_state(tmp_path, clock=ManualClock())).db
    assert await db.bind_statement_key("k1") is None
    assert await db.bind_statement_key("k1") is None
    await write(db, "a")
    assert db.epoch == 1
    await db.close()
    db = (await open_state(tmp_path, clock=ManualClock())).db
    finding = await db.bind_statement_key("k2")
    assert finding is not None
    assert (finding.code, db.epoch) == ("spool/statement-key-changed", 2)
    await db.close()
    opened = await open_state(tmp_path, clock=ManualClock())
    assert [one.code for one in opened.findings] == ["spool/statement-key-changed"], "durable until it is chained"
    assert await opened.db.bind_statement_key("k2") is None
    await recorder_of(opened.db).record_findings()
    stored = await opened.db.audit.peek(1, 1)
    assert stored[0].epoch == 1, "what waits of the old epoch is still there"
    await opened.db.close()


async def test_v13_records_are_on_disk_when_they_are_acknowledged(db: SqliteStateDb) -> None:
    """V13: the file is written with full synchronisation; a power cut takes nothing that was acknowledged."""
    modes = await db._writer.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
        ]
    )
    assert modes == [2, "wal"]


async def test_v13_whatever_is_saved_with_a_loss_is_saved_however_many_there_are(db: SqliteStateDb) -> None:
    """Losses that are counted together are one write; what each of them was to be saved with is not."""

    def saving(name: str) -> Also:
        return db.inventory.putting(name, {"name": name})

    names = [f"shop--cell{number}--dev" for number in range(5)]
    await asyncio.gather(*(db.audit.count_loss(saving(name)) for name in names))
    assert await db.inventory.namespaces() == tuple(names)
    assert await db.audit.lost() == 5


async def test_v13_what_waits_is_moved_in_pieces_and_a_kill_in_between_loses_nothing(
    db: SqliteStateDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is to be durable waits for one piece; what is left is refused by the log again, and taken along."""
    monkeypatch.setattr("agent.spool.audit.CHUNK", 2)
    await write(db, *"abcdef")
    move, moved = audit._rechain_some, []

    def one_piece(connection: sqlite3.Connection, epoch: int) -> int:
        if moved:
            raise RuntimeError("killed")
        moved.append(move(connection, epoch))
        return moved[0]

    with monkeypatch.context() as patched:
        patched.setattr(audit, "_rechain_some", one_piece)
        with pytest.raises(RuntimeError):
            await recorder_of(db).begin_epoch(ROLLBACK)
    assert moved == [2]
    assert [one.epoch for one in await db.audit.peek(10, 1 << 20)] == [1] * 4
    await recorder_of(db).begin_epoch(ROLLBACK)
    records = await waiting(db)
    assert sorted(record.object for record in records if record.action == "cell.apply") == list("abcdef")
    assert {record.epoch for record in records} == {3}
