"""Retention: what was exported and pruned is still verified, proved and known, and nothing else can be pruned (V13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from auditverify.report import Report
from auditverify.verify import Anchors, verify_export
from cellward.audit.checkpoint import log_origin, verify_checkpoint
from cellward.errors import CellwardError
from hub.audit.model import AuditBatchIn
from hub.audit.segments import Segments
from hub.audit.service import AuditLog
from hub.store.interfaces import Tables
from hub.store.log import AuditEvent
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Server
from tests.fakes.store import run_sql
from tests.unit.hub.audit.logs import SPKI, check_proofs, make_log, send

#: Records of a segment here.
SIZE = 256


class World:
    """A log of two agents and the hub that fills two segments and some of a third, and what the agents sent."""

    def __init__(self, store: SqlStore, directory: Path) -> None:
        self.store = store
        self.log: AuditLog = make_log(store.audit)
        self.segments = Segments(store.audit, lambda: REALM, SIZE)
        self.writers = [AuditWriter(1), AuditWriter(2)]
        self.sent: list[tuple[AuditWriter, AuditBatchIn]] = []
        self.heads: list[bytes] = []
        self._directory = directory

    async def fill(self) -> None:
        """Send batches in turn, each agent writing the head it saw last; the hub records between them."""
        for number in range(12):
            writer = self.writers[number % 2]
            batch = writer.batch(50)
            self.sent.append((writer, batch))
            ack = await send(self.log, writer, batch)
            head = check_proofs(ack, batch)
            writer.view = (head.size, "sha256:" + head.root.hex())
            self.heads.append(ack.checkpoint)
            await self.store.audit.put_events([AuditEvent("ada", "lock.set", "Cluster//eu-1", "done")])
            await self.log.settle()

    async def export(self, number: int) -> tuple[Path, str]:
        """Write a segment to a file; return it and its digest."""
        return await self._file(f"segment-{number}", lambda write: self.segments.export(number, write))

    async def rest(self) -> Path:
        """Export what the log has."""
        return (await self._file("rest", self.log.export))[0]

    async def prune(self, number: int, digest: str) -> None:
        """Prune as the API does: with its record."""

        async def commit(job: Callable[[Tables], Awaitable[Any]], /) -> Any:
            async def recorded(tables: Tables) -> None:
                await job(tables)
                await tables.audit.put_events([AuditEvent("ada", "audit.prune", f"AuditSegment//{number}", "done")])

            await self.store.transact(recorded)

        await self.segments.prune(number, digest, commit)

    async def _file(self, name: str, export: Callable[..., Awaitable[None]]) -> tuple[Path, str]:
        parts: list[bytes] = []

        async def write(data: bytes) -> None:
            parts.append(data)

        await export(write)
        path = self._directory / name
        path.write_bytes(b"".join(parts))
        return path, f"sha256:{sha256(path.read_bytes()).hexdigest()}"

    def verify(self, rest: Path, *segments: Path) -> Report:
        """Verify offline, with both agents endorsed."""
        anchors = Anchors([writer.spki for writer in self.writers], self.heads)
        return verify_export(rest, hub_key=SPKI, anchors=anchors, segments=segments)


@pytest.fixture(params=["sqlite", "postgresql"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Give a filled log on each kind of database."""
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        url = await server.new()
    store = await open_store(url, ManualClock())
    made = World(store, tmp_path)
    await made.fill()
    yield made
    await store.close()


async def test_v13_exported_segments_and_the_rest_verify_as_one_log(world: World) -> None:
    """The same report as before: every record, chain and tree head that an agent saw or an auditor kept."""
    before = world.verify(await world.rest())
    files = []
    for number in (0, 1):
        file, digest = await world.export(number)
        await world.prune(number, digest)
        files.append(file)
    await world.log.settle()
    rest = await world.rest()
    report = world.verify(rest, *files)
    assert report.problems == []
    assert report.records == before.records + 2 == await world.log.size()
    assert (report.views_checked, report.statements) == (before.views_checked, before.statements)
    assert report.consistent
    # The two newest records, the hub's, are behind all that anybody signed or kept.
    assert report.anchored >= before.anchored
    assert [one.pruned for one in await world.segments.list()] == [True, True]
    assert [row.index for row in await world.store.audit.records(0, 1)] == [2 * SIZE]
    # Nothing is verified by leaving something out, in another order, or with another log's.
    for given, said in [((), "give every segment"), (files[1:], "begins with record"), (files[::-1], "begins with")]:
        bad = world.verify(rest, *given)
        assert not bad.consistent
        assert any(said in problem.message for problem in bad.problems)
    files[0].write_bytes(files[0].read_bytes().replace(b'"record":"ey', b'"record":"eY', 1))
    assert not world.verify(rest, *files).consistent


async def test_v13_the_log_goes_on_and_is_proved_after_a_prune(world: World) -> None:
    """Old heads are extended, new records are proved, a restart finds the log whole, and damage is still found."""
    old = verify_checkpoint(world.heads[0], log_origin(REALM), SPKI)
    for number in (0, 1):
        await world.prune(number, (await world.export(number))[1])
    log = make_log(world.store.audit)
    await log.verify()
    assert await log.denied(world.heads[0]) is None
    writer = world.writers[0]
    batch = writer.batch(5, known=old.size)
    check_proofs(await send(log, writer, batch), batch, old)
    await run_sql(world.store, "DELETE FROM audit_tiles WHERE level = 0 AND idx = 1")
    with pytest.raises(CellwardError) as caught:
        await make_log(world.store.audit).verify()
    assert caught.value.code == "store/damaged"


async def test_v13_a_repeat_of_pruned_records_is_known_by_its_hashes(world: World) -> None:
    """An acknowledgement that got lost long ago: the same records are proved again, others are a fork."""
    for number in (0, 1):
        await world.prune(number, (await world.export(number))[1])
    log = make_log(world.store.audit)
    size = await log.size()
    for writer, batch in world.sent:
        ack = await send(log, writer, batch)
        check_proofs(ack, batch)
        assert ack.seq == batch.first_seq + len(batch.records) - 1
    assert await log.size() == size
    writer, batch = world.sent[0]
    liar = AuditWriter(1)
    liar.uid, liar.cluster, liar.signer = writer.uid, writer.cluster, writer.signer
    ack = await send(log, writer, liar.batch(50, reason="another"))
    assert ack.refused_code == "audit/fork"


async def test_only_what_was_exported_is_pruned_the_oldest_first(world: World) -> None:
    """Each refusal names what is wrong, and everything stays."""
    (_, first), (_, second) = await world.export(0), await world.export(1)
    for number, digest, code in [
        (0, second, "audit/segment-differs"),
        (1, second, "audit/not-oldest-segment"),
        (2, first, "audit/unknown-segment"),
        (99, first, "audit/unknown-segment"),
    ]:
        with pytest.raises(CellwardError) as caught:
            await world.prune(number, digest)
        assert caught.value.code == code
    assert (await world.store.audit.tip()).pruned == 0
    await world.prune(0, first)
    for attempt in (world.prune(0, first), world.export(0), world.segments.require(SIZE - 1)):
        with pytest.raises(CellwardError, match="segment 0") as caught:
            await attempt
        assert caught.value.code == "audit/pruned"
    await world.segments.require(SIZE)


async def test_v13_of_two_who_prune_one_segment_at_once_one_hears_that_it_was_pruned(world: World) -> None:
    """V13: it is on record once, and the loser of the race is told which one it was, not that something has moved."""
    (_, digest), meet = await world.export(0), asyncio.Barrier(2)

    async def together(job: Callable[[Tables], Awaitable[Any]], /) -> None:
        # Both have looked, compared and decided.
        await meet.wait()

        async def recorded(tables: Tables) -> None:
            await job(tables)
            await tables.audit.put_events([AuditEvent("ada", "audit.prune", "AuditSegment//0", "done")])

        await world.store.transact(recorded)

    outcomes = await asyncio.gather(
        *(world.segments.prune(0, digest, together) for _ in range(2)), return_exceptions=True
    )
    assert [getattr(found, "code", "") for found in outcomes if isinstance(found, Exception)] == ["audit/pruned"]
    await world.log.settle()
    records = [row.record for row in await world.log.tail(SIZE, 1000)]
    assert sum(b"audit.prune" in record for record in records) == 1


async def test_v13_a_damaged_segment_is_not_pruned(world: World) -> None:
    """Its export would be all that is left, and it does not fit the log: found before, whatever digest is shown."""
    await run_sql(
        world.store, "UPDATE audit_records SET record = (SELECT record FROM audit_records WHERE idx = 8) WHERE idx = 7"
    )
    _, digest = await world.export(0)
    with pytest.raises(CellwardError, match="record 7") as caught:
        await world.prune(0, digest)
    assert caught.value.code == "store/damaged"
    assert (await world.store.audit.tip()).pruned == 0


async def test_v13_nothing_is_pruned_without_its_record(world: World) -> None:
    """One transaction: a record that cannot be kept keeps the segment, too."""
    _, digest = await world.export(0)

    async def commit(job: Callable[[Tables], Awaitable[Any]], /) -> Any:
        async def failing(tables: Tables) -> None:
            await job(tables)
            raise RuntimeError("no record")

        await world.store.transact(failing)

    with pytest.raises(RuntimeError):
        await world.segments.prune(0, digest, commit)
    assert (await world.store.audit.tip()).pruned == 0
    assert len(await world.store.audit.records(0, SIZE)) == SIZE
