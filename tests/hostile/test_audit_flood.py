"""An agent that joined sends valid records without end: the hub's disk, others, and an honest agent's backlog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from cellward.audit.vkey import format_vkey
from cellward.errors import CellwardError
from cellward.identity.keys import spki_of
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import telemetry_pb2
from hub.audit.intake import CONDITION, TOLD_SECONDS, Intake, Volume
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.authority.limits import Rate
from hub.store.interfaces import LockRow
from hub.store.log import AuditEvent
from hub.store.sql.store import SqlStore, open_store
from hub.sync.limits import SyncLimits
from tests.fakes.audit_writer import AuditWriter
from tests.fakes.authority import REALM
from tests.fakes.clock import ManualClock
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.store import scratch_store
from tests.unit.hub.audit.logs import make_log

MIB = 1024**2
#: A rate nobody reaches.
FREE = Rate(1e12, 1e12)


class SmallDisk:
    """A database that may not grow beyond some pages: SQLite says of them what it says of a full disk."""

    size = 24 * MIB

    def __init__(self, place: Path) -> None:
        self._place = place

    async def bound(self, store: SqlStore) -> None:
        """Bound the one writing connection of a store."""
        async with store._db._writer.begin() as connection:
            await connection.exec_driver_sql(f"PRAGMA max_page_count={self.size // 4096}")

    def measure(self) -> Volume:
        """What is left of it, with what waits in the write-ahead log."""
        used = sum(file.stat().st_size for file in self._place.iterdir())
        return Volume(self.size, max(0, self.size - used))


def message(writer: AuditWriter, count: int, reason: str = "") -> telemetry_pb2.AuditBatch:
    """The writer's next records as its agent sends them."""
    batch = writer.batch(count, reason=reason)
    return telemetry_pb2.AuditBatch(
        epoch=batch.epoch, first_seq=batch.first_seq, records=batch.records, checkpoint=batch.checkpoint
    )


async def refusal(port: AuditIngest, writer: AuditWriter, batch: telemetry_pb2.AuditBatch) -> str:
    """Code a batch is refused with, empty when it is taken."""
    try:
        ack = await port.ingest(writer.cluster, batch)
    except CellwardError as error:
        return error.code
    return ack.refused_code


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store with two agents bound."""
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    for number in (1, 2):
        writer = AuditWriter(number)
        await opened.clusters.create(writer.cluster, "test")
        await opened.clusters.bind(writer.cluster, writer.uid, "0" * 64, writer.spki, 1, "1")
    yield opened
    await opened.close()


async def bound(store: SqlStore, number: int) -> AuditWriter:
    """An agent's chain, under the key that is bound to it."""
    writer = AuditWriter(number)
    await store.clusters.bind(writer.cluster, writer.uid, "0" * 64, writer.spki, 1, "1")
    return writer


async def test_v4_a_flood_of_records_leaves_room_for_locks_bindings_and_the_hubs_own(
    store: SqlStore, tmp_path: Path
) -> None:
    """V4, V13: records are refused before the disk is full; the culprit is locked, another renews, it is recorded."""
    disk, health = SmallDisk(tmp_path), HealthRegistry()
    await disk.bound(store)
    log, clock = make_log(store.audit), SystemClock()
    intake = Intake(clock, health, disk.measure, rate=FREE)
    port = AuditIngest(log, store.clusters.get, store, intake)
    intake.look()
    assert [item.ok for item in health.get()] == [True]
    evil, code, sent = await bound(store, 1), "", 0
    while not code:
        code = await refusal(port, evil, message(evil, 200, "r" * 1000))
        sent += 1
        assert sent < 1000
    for size in (50, 1):
        assert await refusal(port, evil, message(evil.clone(), size, "r" * 1000))
    await store.clusters.bind("c2", AuditWriter(2).uid, "1" * 64, b"s", 2, "2")
    await store.locks.put(LockRow("cluster", evil.cluster, "flood", clock.now(), "admin"))
    for _ in range(200):
        await log.append(AuditEvent("admin", "lock.set", f"Lock//{evil.cluster}", "done", reason="r" * 1000))
    assert code == "audit/no-room"
    assert sent > 10
    intake.look()
    told = {item.name: item for item in health.get()}[CONDITION]
    assert (told.ok, told.code) == (False, "audit/no-room")
    await log.close()


async def test_v13_a_rate_bounds_each_cluster_alone_and_loses_nothing(store: SqlStore) -> None:
    """Beyond the burst one agent waits, another does not feel it; what waited is taken later, without a gap."""
    clock, health = ManualClock(), HealthRegistry()
    log = make_log(store.audit)
    intake = Intake(clock, health, None, rate=Rate(64 * 1024, 1024))
    port = AuditIngest(log, store.clusters.get, store, intake)
    evil, good = await bound(store, 1), await bound(store, 2)
    taken = 0
    for _ in range(50):
        batch = message(evil, 20, "r" * 500)
        code = await refusal(port, evil, batch)
        if code:
            break
        taken += 20
    assert code == "audit/too-fast"
    assert taken * 500 <= 64 * 1024
    assert await refusal(port, evil, batch) == "audit/too-fast"
    assert await refusal(port, good, message(good, 20)) == ""
    intake.look()
    assert [(item.ok, item.code) for item in health.get()] == [(False, "audit/too-fast")]
    clock.advance(60)
    assert await refusal(port, evil, batch) == ""
    assert await log.size() == taken + 40
    clock.advance(TOLD_SECONDS)
    intake.look()
    assert [item.ok for item in health.get()] == [True]
    await log.close()


async def test_v13_an_honest_agents_backlog_drains_at_the_rate_and_is_told(tmp_path: Path) -> None:
    """A real agent that comes back with more than the burst says so, finds no fault, and all of it arrives."""
    clock, pace = SystemClock(), ManualClock()
    hub = FakeLinkHub(clock, SyncLimits(recheck=0.1, heartbeat=0.2))
    log = AuditLog(scratch_store(clock).audit, hub.hub.keys.tree_head, lambda: REALM, clock)
    intake = Intake(pace, HealthRegistry(), None, rate=Rate(64 * 1024, 1024))
    hub.ports = replace(hub.ports, audit=AuditIngest(log, hub.hub.clusters.get, hub, intake))
    hub.log_origin = format_vkey(log.origin, spki_of(hub.hub.keys.tree_head))
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")

            async def drained() -> None:
                while await agent.db.audit.depth():
                    await asyncio.sleep(0.01)

            # As much as the burst is spent by somebody with this name, so that no size of a batch matters.
            intake.admit("eu-1", 64 * 1024)
            for number in range(30):
                await agent.recorder.record(Entry("cell.apply", f"Cell//{number}", "done"))
            await until(lambda: _code(agent) == "audit/too-fast", "the agent says why its records wait")
            assert await agent.db.audit.depth() >= 30
            pace.advance(64)
            async with asyncio.timeout(30):
                await drained()
            await until(agent.is_ok("audit-push"), "the condition is well again")
        assert await log.size() >= 30
        assert log.refused == {}
        records = [row.record for row in await log.tail(0, 1000)]
        assert not any(b'"finding"' in record for record in records)


def _code(agent: LinkedAgent) -> str:
    return next((item.code for item in agent.health.get() if item.name == "audit-push"), "")
