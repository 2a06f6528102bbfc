"""The small stores: floors never fall, full is told apart, the newest receipt wins."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.spool.interfaces import LogView
from agent.spool.state import SqliteStateDb, open_state
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.wire.codec import DesiredItem
from tests.fakes.clock import ManualClock

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
KEY = CellKey("shop", "cart", "dev")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteStateDb]:
    """A fresh state."""
    opened = await open_state(tmp_path, clock=ManualClock())
    yield opened.db
    await opened.db.close()


@pytest.mark.parametrize("floor", [Floor(4, D1), Floor(5, D2)])
async def test_a_floor_never_falls(db: SqliteStateDb, floor: Floor) -> None:
    """A lower sequence, or the same with another digest, leaves the floor where it is."""
    await db.floors.set(*KEY, Floor(5, D1))
    with pytest.raises(CellwardError) as caught:
        await db.floors.set(*KEY, floor)
    assert caught.value.code == "spool/floor-would-fall"
    assert await db.floors.get(*KEY) == Floor(5, D1)


async def test_the_floors_digest_follows_content_not_history(db: SqliteStateDb, tmp_path: Path) -> None:
    """Two agents with the same floors have the same digest, whatever way led there."""
    await db.floors.set(*KEY, Floor(1, D1))
    await db.floors.set(*KEY, Floor(5, D2))
    other = (await open_state(tmp_path / "other", clock=ManualClock())).db
    assert await other.floors.digest() != await db.floors.digest()
    await other.floors.set(*KEY, Floor(5, D2))
    assert await other.floors.digest() == await db.floors.digest()
    await other.close()


async def test_the_time_floor_is_durable_and_refuses_a_step_back(tmp_path: Path) -> None:
    """A restart does not make the agent believe a clock that was set back."""
    start = datetime(2026, 5, 1, tzinfo=UTC)
    clock = ManualClock()
    first = (await open_state(tmp_path, clock=clock)).db
    await first.time_floor.advance(start)
    clock.advance(3600)
    await first.time_floor.advance(start + timedelta(hours=1))
    await first.close()
    again = (await open_state(tmp_path, clock=ManualClock())).db
    assert await again.time_floor.get() == start + timedelta(hours=1)
    with pytest.raises(CellwardError) as caught:
        await again.time_floor.advance(start)
    assert caught.value.code == "document/clock-stepped-back"
    assert await again.time_floor.advance(start + timedelta(minutes=58)) == start + timedelta(hours=1)
    await again.close()


async def test_a_clock_that_jumped_ahead_decides_but_does_not_raise_the_floor(tmp_path: Path) -> None:
    """A floor never falls: raised by a clock wrong for a moment it would refuse all deployments afterwards."""
    start, clock = datetime(2026, 5, 1, tzinfo=UTC), ManualClock()
    db = (await open_state(tmp_path, clock=clock)).db
    await db.time_floor.advance(start)
    clock.advance(60)
    ahead = start + timedelta(days=3650)
    assert await db.time_floor.advance(ahead) == ahead
    assert (db.time_floor.latest, db.time_floor.doubted) == (start + timedelta(seconds=60), True)
    await db.close()
    again = (await open_state(tmp_path, clock=clock)).db
    assert await again.time_floor.get() == start + timedelta(seconds=60)
    assert await again.time_floor.advance(ahead) == ahead, "nor after a restart meanwhile"
    assert not again.time_floor.doubted, "the agent may have been away, which is no fault of the clock"
    clock.advance(60)
    assert await again.time_floor.advance(start + timedelta(seconds=120)) == start + timedelta(seconds=120)
    assert not again.time_floor.doubted
    await again.time_floor.advance(ahead)
    clock.advance(3600)
    await again.time_floor.advance(ahead)
    assert await again.time_floor.get() == ahead, "what lasts is true"
    await again.close()


async def test_received_and_accepted_items_are_two_sets(db: SqliteStateDb) -> None:
    """What the hub sent does not replace what the agent accepted."""
    received = DesiredItem(7, *KEY, D1, (D2,), "hold")
    accepted = DesiredItem(3, *KEY, D2)
    await db.items.put(received)
    await db.accepted.put(accepted)
    assert await db.items.list() == (received,)
    assert await db.accepted.get(*KEY) == accepted
    await db.items.remove(*KEY)
    assert await db.items.list() == ()
    assert await db.accepted.list() == (accepted,)


async def test_blobs_inventory_and_meta_return_what_was_put(db: SqliteStateDb) -> None:
    """Each store gives back exactly what it took, and None for what it never had."""
    await db.blobs.put(D1, b"\x00bytes")
    await db.blobs.put(D2, b"other")
    assert await db.blobs.keep_only([D1]) == 1
    assert (await db.blobs.get(D1), await db.blobs.get(D2)) == (b"\x00bytes", None)
    await db.blobs.drop([D1, D2])
    assert await db.blobs.get(D1) is None
    await db.inventory.put("shop--cart--dev", {"objects": ["a"]})
    assert await db.inventory.namespaces() == ("shop--cart--dev",)
    await db.inventory.delete("shop--cart--dev")
    assert await db.inventory.get("shop--cart--dev") is None
    await db.meta.set({"a": "1", "b": "2"})
    assert (await db.meta.get("a"), await db.meta.get("c")) == ("1", None)


async def test_the_newest_receipt_of_a_cell_wins_and_is_not_dropped_by_an_old_ack(db: SqliteStateDb) -> None:
    """V13: an acknowledgement of the old receipt does not lose the new one."""
    old = await db.outbox.put(KEY, b"old")
    new = await db.outbox.put(KEY, b"new")
    assert new > old
    await db.outbox.done(KEY, old)
    assert await db.outbox.pending() == ((new, KEY, b"new"),)
    await db.outbox.done(KEY, new)
    assert await db.outbox.pending() == ()


async def test_reaching_the_bound_is_spool_full_and_loses_nothing(tmp_path: Path) -> None:
    """V16: SQLite's own SQLITE_FULL comes out as spool/full; what was there stays, and small writes work again."""
    db = (await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024)).db
    await db.blobs.put(D1, b"kept")
    with pytest.raises(CellwardError) as caught:
        await db.blobs.put(D2, b"x" * 2 * 1024 * 1024)
    assert caught.value.code == "spool/full"
    assert await db.blobs.get(D1) == b"kept"
    await db.floors.set(*KEY, Floor(1, D1))
    assert await db.floors.get(*KEY) == Floor(1, D1)
    await db.close()


async def test_one_that_fails_in_a_group_takes_nobody_with_it(tmp_path: Path) -> None:
    """Group commit: a floor that may not fall and a blob too large fail alone among writes that succeed."""
    db = (await open_state(tmp_path, clock=ManualClock(), max_bytes=1024 * 1024)).db
    await db.floors.set(*KEY, Floor(5, D1))
    results = await asyncio.gather(
        db.meta.set({"before": "1"}),
        db.floors.set(*KEY, Floor(1, D2)),
        db.blobs.put(D2, b"x" * 2 * 1024 * 1024),
        db.meta.set({"after": "1"}),
        return_exceptions=True,
    )
    codes = [result.code if isinstance(result, CellwardError) else result for result in results]
    assert codes == [None, "spool/floor-would-fall", "spool/full", None]
    assert (await db.meta.get("before"), await db.meta.get("after")) == ("1", "1")
    await db.close()


async def test_a_closed_state_says_so_and_nobody_waits_for_ever(db: SqliteStateDb) -> None:
    """What was asked before close is done; what comes after is refused."""
    before = asyncio.ensure_future(db.meta.set({"a": "1"}))
    await asyncio.sleep(0)
    await db.close()
    await before
    with pytest.raises(CellwardError) as caught:
        await db.meta.get("a")
    assert caught.value.code == "spool/closed"


async def test_v13_freeing_records_costs_what_goes_not_what_stays(db: SqliteStateDb) -> None:
    """A full spool is drained batch by batch on the one thread that serves everything durable."""
    steps, records = 0, 20_000

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def fill(connection: sqlite3.Connection) -> None:
        rows = [(1, seq, b"x" * 10) for seq in range(1, records + 1)]
        connection.executemany("INSERT INTO audit VALUES (?,?,?)", rows)
        connection.executemany("INSERT INTO audit VALUES (?,?,?)", [(3, seq, b"y" * 7) for seq in range(1, 6)])
        connection.execute("UPDATE agent SET audit_bytes=?", (records * 10 + 35,))

    def audit_bytes(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT audit_bytes FROM agent").fetchone()[0])

    await db._writer.run(fill)
    await db._writer.run(lambda connection: connection.set_progress_handler(count, 100))
    await db.audit.free(1, 10, LogView())
    assert await db.audit.depth() == records - 10 + 5
    assert steps < 50, "in hundreds of steps of SQLite's machine"
    assert await db._writer.run(audit_bytes) == records * 10 + 35 - 100
    await db.audit.free(1, records, LogView())
    await db.audit.free(3, 5, LogView())
    assert await db._writer.run(audit_bytes) == await db.audit.depth() == 0


async def test_policy_floors_are_durable_and_part_of_the_digest(db: SqliteStateDb, tmp_path: Path) -> None:
    """V1: the anchor knows them too, so a state file from before a policy update is not taken for the newest."""
    empty = await db.floors.digest()
    assert await db.policy_floors.get() is None
    await db.policy_floors.set({"targets": {"version": 1, "digest": "sha256:a"}})
    first = await db.floors.digest()
    await db.policy_floors.set({"targets": {"version": 2, "digest": "sha256:b"}})
    assert len({empty, first, await db.floors.digest()}) == 3
    assert await db.policy_floors.get() == {"targets": {"version": 2, "digest": "sha256:b"}}
