"""The recorder: durable before acknowledged, no silent loss (V13)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from agent.audit.recorder import CONDITION, Recorder
from agent.spool.interfaces import AnchorState, LogView, StoredRecord
from agent.spool.state import SqliteStateDb, open_state
from cellward.audit.chain import ChainState, verify_next
from cellward.audit.record import Record, parse_record
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from tests.fakes.anchor import FakeAnchor
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused

REALM = "sha256:" + "a" * 64
REPAIR = Entry("drift.repair", "Deployment/ns/web", "done", reason="x" * 500)


def recorder_of(db: SqliteStateDb, health: HealthRegistry | None = None) -> Recorder:
    """A recorder of a test agent."""
    clock = ManualClock()
    return Recorder(
        db.audit, clock, realm=REALM, uid=db.uid, cluster=lambda: "eu-1", health=health or HealthRegistry(clock)
    )


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SqliteStateDb]:
    """A state whose audit spool holds about ten records."""
    opened = await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024, audit_max_bytes=8 * 1024)
    yield opened.db
    await opened.db.close()


async def spooled(db: SqliteStateDb) -> tuple[StoredRecord, ...]:
    """All records of the oldest epoch."""
    return await db.audit.peek(100_000, 1 << 30)


def chained(records: tuple[StoredRecord, ...]) -> list[Record]:
    """Check the chain of an epoch from its beginning and return the records."""
    state = ChainState(records[0].epoch)
    for stored in records:
        state = verify_next(state, stored.data)
    return [parse_record(stored.data) for stored in records]


async def fill(recorder: Recorder) -> int:
    """Record until the spool is full; return how many fitted."""
    for count in range(1000):
        try:
            await recorder.record(Entry("cell.apply", f"Cell//{count}", "done", reason="x" * 500))
        except CellwardError as error:
            if error.code != "spool/full":
                raise
            return count
    pytest.fail("the spool has no bound")


async def test_v13_records_chain_without_a_gap_also_when_recorded_at_once(small: SqliteStateDb) -> None:
    """Concurrent records get consecutive numbers and one unbroken chain."""
    recorder = recorder_of(small)
    numbers = await asyncio.gather(*(recorder.record(Entry("cell.apply", f"Cell//{n}", "done")) for n in range(10)))
    assert sorted(numbers) == list(range(1, 11))
    assert [record.seq for record in chained(await spooled(small))] == list(range(1, 11))


async def test_v13_a_full_spool_refuses_actions_and_lets_repairs_go_on(small: SqliteStateDb) -> None:
    """An action raises before it is done; a repair gets None, and the condition says why."""
    health = HealthRegistry(ManualClock())
    recorder = recorder_of(small, health)
    await fill(recorder)
    assert await recorder.record_or_count(REPAIR) is None
    assert [(c.name, c.ok, c.code) for c in health.get()] == [(CONDITION, False, "spool/full")]
    assert await small.audit.lost() == 1


async def test_v13_the_loss_is_counted_in_the_chain_before_the_next_record(small: SqliteStateDb) -> None:
    """When space is back, the chain itself says how many records are missing, once."""
    recorder = recorder_of(small)
    written = await fill(recorder)
    for _ in range(3):
        await recorder.record_or_count(REPAIR)
    head = await small.audit.head()
    await small.audit.free(head.epoch, written, LogView())
    await recorder.record(Entry("cell.apply", "Cell//next", "done"))
    await recorder.record(Entry("cell.apply", "Cell//after", "done"))
    records = [parse_record(stored.data) for stored in await spooled(small)]
    assert [(record.action, record.details.get("count")) for record in records] == [
        ("audit.lost", "3"),
        ("cell.apply", None),
        ("cell.apply", None),
    ]
    assert records[0].seq == written + 1


async def test_v13_the_count_of_losses_survives_a_restart(tmp_path: Path) -> None:
    """The counter is durable although the spool is full."""
    db = (await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024, audit_max_bytes=8 * 1024)).db
    recorder = recorder_of(db)
    await fill(recorder)
    await recorder.record_or_count(REPAIR)
    await db.close()
    again = (await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024, audit_max_bytes=8 * 1024)).db
    assert await again.audit.lost() == 1
    await again.close()


async def test_a_record_that_makes_no_sense_is_our_mistake_and_not_a_loss(small: SqliteStateDb) -> None:
    """Only a disk that takes nothing counts as loss; a malformed record is raised and takes no number."""
    recorder = recorder_of(small)
    with pytest.raises(CellwardError) as caught:
        await recorder.record_or_count(Entry("cell.apply", "Cell//x", "perhaps"))
    assert caught.value.code == "audit/bad-record"
    assert await recorder.record(Entry("cell.apply", "Cell//x", "done")) == 1
    assert await small.audit.lost() == 0


async def test_findings_at_start_open_the_new_epoch(tmp_path: Path) -> None:
    """V1: the first record of the new epoch says what was found, and it is written once."""
    anchor = FakeAnchor(AnchorState("uid-1", 2, 9))
    opened = await open_state(tmp_path, clock=ManualClock(), anchor=anchor)
    recorder = recorder_of(opened.db)
    assert await recorder.record_findings() == 1
    assert await recorder.record_findings() == 0
    (record,) = chained(await spooled(opened.db))
    assert (record.epoch, record.action, record.code) == (3, "state.finding", "spool/state-missing")
    await opened.db.close()


async def test_each_record_carries_the_last_accepted_checkpoint(small: SqliteStateDb) -> None:
    """A log that shows two faces contradicts itself in the records."""
    recorder = recorder_of(small)
    await recorder.record(Entry("cell.apply", "Cell//a", "done"))
    root = "sha256:" + "c" * 64
    await small.audit.free(1, 1, LogView(41, root))
    await recorder.record(Entry("cell.apply", "Cell//b", "done"))
    record = parse_record((await spooled(small))[0].data)
    assert (record.log_size, record.log_root) == (41, root)


_WRITER = """
import asyncio, sys
from pathlib import Path
from agent.audit.interfaces import Entry
from agent.audit.recorder import Recorder
from agent.spool.state import open_state
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry

async def main():
    clock = SystemClock()
    db = (await open_state(Path(sys.argv[1]), clock=clock)).db
    recorder = Recorder(db.audit, clock, realm="sha256:" + "a" * 64, uid=db.uid, cluster=lambda: "eu-1",
                        health=HealthRegistry(clock))
    async def one(worker):
        while True:
            seq = await recorder.record(Entry("cell.apply", f"Cell//{worker}", "done"))
            print(seq, flush=True)
    await asyncio.gather(*(one(worker) for worker in range(8)))

asyncio.run(main())
"""


async def test_v13_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path) -> None:
    """A writer is killed in the middle; every number it printed is in the chain, and the chain goes on."""
    state = tmp_path / "state"
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(state)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(200)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1] if line]
    process.stdout.close()
    process.wait()
    db = (await open_state(state, clock=ManualClock())).db
    records = chained(await spooled(db))
    assert {record.seq for record in records} >= set(acknowledged)
    assert await recorder_of(db).record(Entry("cell.apply", "Cell//after", "done")) == len(records) + 1
    await db.close()


async def test_v13_a_full_audit_spool_leaves_room_for_everything_else(small: SqliteStateDb) -> None:
    """A hub that stays away fills the records' share, not the room of floors and inventories."""
    await fill(recorder_of(small))
    assert sum(len(stored.data) for stored in await spooled(small)) <= 8 * 1024
    await small.inventory.put("shop--cart--dev", {"objects": ["x" * 1000] * 100})
    assert len((await small.inventory.get("shop--cart--dev"))["objects"]) == 100


async def owed_by(db: SqliteStateDb) -> list[tuple[str, str, str]]:
    """Chain what is owed; return action, object and decision of the records that came of it."""
    before = (await db.audit.head()).seq
    await recorder_of(db).record_findings()
    records = [parse_record(stored.data) for stored in await spooled(db)]
    return [(one.action, one.object, one.decision) for one in records if one.seq > before]


async def test_v13_a_change_and_its_record_are_there_together_or_not_at_all(small: SqliteStateDb) -> None:
    """What must not be there without a record is refused with it; what must not be blocked is done with the count."""
    recorder, done = recorder_of(small), Entry("cell.apply", "Cell//x", "done", reason="x" * 500)
    await recorder.record(done, also=small.inventory.putting("a", 1))
    assert await small.inventory.get("a") == 1
    await fill(recorder)
    with refused("spool/full"):
        await recorder.record(done, also=small.inventory.putting("a", 2))
    assert await small.inventory.get("a") == 1
    assert await recorder.record_or_count(done, also=small.inventory.putting("a", 3)) is None
    assert (await small.inventory.get("a"), await small.audit.lost()) == (3, 1)


async def test_v13_a_change_that_fails_takes_its_record_with_it(small: SqliteStateDb) -> None:
    """No record says of something that it is done when it is not."""

    def fail(_: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await recorder_of(small).record(Entry("cell.apply", "Cell//x", "done"), also=fail)
    assert await spooled(small) == ()


async def test_v13_what_was_begun_and_not_recorded_is_recorded_at_the_next_start(tmp_path: Path) -> None:
    """An agent is killed between an act and its record: the next one says that it may have been done, once."""
    db = (await open_state(tmp_path, clock=ManualClock())).db
    recorder = recorder_of(db)
    await recorder.owe("drift/a", Entry("drift.repair", "Service/ns/a", "done", reason="deleted"))
    await recorder.owe("drift/b", Entry("drift.repair", "Service/ns/b", "done"))
    await recorder.record_or_count(Entry("drift.repair", "Service/ns/b", "done"), owed="drift/b")
    await db.close()
    db = (await open_state(tmp_path, clock=ManualClock())).db
    assert await owed_by(db) == [("drift.repair", "Service/ns/a", "finding")]
    assert chained(await spooled(db))[-1].reason.startswith("deleted; the agent ended")
    assert await owed_by(db) == []
    await db.close()


async def test_v13_a_full_spool_pays_debts_by_counting_and_keeps_those_of_a_killed_agent(small: SqliteStateDb) -> None:
    """A repair whose record does not fit is counted; one that was interrupted waits for space."""
    recorder = recorder_of(small)
    await fill(recorder)
    await recorder.owe("drift/a", REPAIR)
    await recorder.owe("drift/b", REPAIR)
    assert await recorder.record_or_count(REPAIR, owed="drift/a") is None
    with pytest.raises(CellwardError) as caught:
        await recorder.record_findings()
    assert caught.value.code == "spool/full"
    records = await spooled(small)
    await small.audit.free(1, records[-1].seq, LogView())
    assert await owed_by(small) == [("drift.repair", REPAIR.object, "finding")]
    assert await small.audit.lost() == 1
