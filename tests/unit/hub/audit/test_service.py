"""The hub's audit log on both stores: durable, continuous, provable; a fork, a gap or a new epoch is a finding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.chain import ChainState
from cellward.audit.checkpoint import Checkpoint, log_origin, verify_checkpoint
from cellward.audit.record import NO_RECORD, Record, parse_record, record_digest
from cellward.audit.tree import leaf_hash, root_of, verify_consistency, verify_range
from cellward.errors import CellwardError
from cellward.wire.v1 import telemetry_pb2
from hub.audit.model import AuditAckOut, AuditBatchIn
from hub.audit.port import AuditIngest
from hub.audit.restore import RestoreWatch
from hub.audit.service import AuditLog
from hub.store.errors import FULL
from hub.store.interfaces import Store
from hub.store.log import AuditAppend, AuditFilter, AuditStore
from hub.store.sql.store import open_store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore

KEY = Ed25519PrivateKey.generate()
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Give each kind of store, empty."""
    if request.param == "memory":
        yield cast("Store", MemoryStore(ManualClock()))
        return
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", ManualClock())
    yield cast("Store", opened)
    await opened.close()


@pytest.fixture
def log(store: Store) -> AuditLog:
    """Give a log over the store."""
    return make_log(store.audit)


def make_log(store: AuditStore, realm: str = REALM) -> AuditLog:
    """Return a log as a hub process has it."""
    return AuditLog(store, KEY, lambda: realm, ManualClock())


async def send(log: AuditLog, writer: AuditWriter, batch: AuditBatchIn) -> AuditAckOut:
    """Ingest as the link does."""
    return await log.ingest(writer.cluster, writer.uid, writer.spki, batch)


async def all_records(log: AuditLog, **wanted: str) -> list[Record]:
    """Return the records of the log."""
    return [parse_record(row.record) for row in await log.tail(0, 1000, AuditFilter(**wanted))]


def check_range(ack: AuditAckOut | telemetry_pb2.AuditAck, batch: AuditBatchIn, head: Checkpoint) -> None:
    """Verify that the records an ack speaks of are in the tree."""
    end = ack.seq - batch.first_seq + 1
    leaves = [leaf_hash(record) for record in batch.records[end - ack.proved : end]]
    verify_range(leaves, ack.leaf_index - ack.proved + 1, head.size, tuple(ack.range_proof), head.root)


def check_proofs(ack: AuditAckOut, batch: AuditBatchIn, known: Checkpoint | None = None) -> Checkpoint:
    """Verify an ack as an agent does; return the new checkpoint."""
    assert not ack.refused_code
    head = verify_checkpoint(ack.checkpoint, log_origin(REALM), SPKI)
    check_range(ack, batch, head)
    if known is not None:
        verify_consistency(known.size, head.size, known.root, head.root, ack.consistency)
    return head


class TestIngest:
    """Records of agents."""

    async def test_ack_is_proof(self, log: AuditLog, store: Store) -> None:
        """V13: the ack names the last durable record, and its proofs hold against the signed head."""
        writer, known = AuditWriter(1), None
        for count in (1, 300, 2, 513):
            batch = writer.batch(count, known=known.size if known else 0)
            ack = await send(log, writer, batch)
            assert (ack.epoch, ack.seq) == (1, writer.state.seq)
            known = check_proofs(ack, batch, known)
        stored = await store.audit.records(0, 1000)
        assert [parse_record(row.record).seq for row in stored] == list(range(1, 817))
        leaves = [leaf_hash(row.record) for row in stored]
        assert known is not None
        assert root_of(leaves) == known.root

    async def test_many_writers_at_once_share_transactions(self, log: AuditLog) -> None:
        """V13: concurrent batches all arrive, in order per writer, with fewer commits than batches."""
        writers = [AuditWriter(number) for number in range(30)]

        async def run(writer: AuditWriter) -> None:
            known = None
            for _ in range(5):
                batch = writer.batch(7, known=known.size if known else 0)
                known = check_proofs(await send(log, writer, batch), batch, known)

        await asyncio.gather(*(run(writer) for writer in writers))
        records = await all_records(log)
        assert (len(records), log.records_taken) == (1000, 1050)
        assert await log.size() == 1050
        for writer in writers:
            mine = [parse_record(row.record).seq for row in await log.tail(0, 1000, AuditFilter(origin=writer.origin))]
            assert mine == list(range(1, 36))
        assert log.commits < 100

    async def test_repeats_are_acknowledged_and_stored_once(self, log: AuditLog) -> None:
        """V13: a lost ack makes the agent repeat; the log has each record once and proves the old ones again."""
        writer = AuditWriter(1)
        first = writer.batch(5)
        second = writer.batch(5)
        await send(log, writer, first)
        check_proofs(await send(log, writer, first), first)
        both = AuditBatchIn(1, 1, first.records + second.records, second.checkpoint)
        ack = await send(log, writer, both)
        assert (ack.seq, ack.leaf_index) == (10, 9)
        check_proofs(ack, both)
        inner = AuditBatchIn(1, 3, first.records[2:4], writer.statement(4, first.records[3]))
        ack = await send(log, writer, inner)
        assert (ack.seq, ack.leaf_index) == (4, 3)
        check_proofs(ack, inner)
        assert await log.size() == 10

    async def test_gap_is_refused_with_what_is_expected_and_recorded_once(self, log: AuditLog) -> None:
        """V13: a gap is never taken, and it is a finding; repeating it does not fill the log."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(3))
        missing = writer.batch(2)
        late = writer.batch(2)
        for _ in range(3):
            ack = await send(log, writer, late)
            assert (ack.refused_code, ack.expected_seq, ack.checkpoint) == ("audit/gap", 4, b"")
        findings = await all_records(log, origin="hub")
        assert [(r.action, r.decision, r.cluster, r.details["expected"]) for r in findings] == [
            ("audit.gap", "finding", "c1", "4")
        ]
        await send(log, writer, missing)
        assert (await send(log, writer, late)).seq == 7

    @pytest.mark.parametrize("ahead", [0, 1])
    async def test_fork_is_refused_and_a_finding(self, log: AuditLog, ahead: int) -> None:
        """Two copies of an agent write different records for one place: the second one is refused, once recorded."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(3))
        clone = writer.clone()
        await send(log, writer, writer.batch(2))
        if ahead:
            clone.write(2, reason="other")
        forked = clone.batch(2, reason="other")
        for _ in range(2):
            ack = await send(log, clone, forked)
            assert (ack.refused_code, ack.expected_seq) == ("audit/fork", 6)
        findings = await all_records(log, origin="hub")
        assert [(r.action, r.code, r.cluster) for r in findings] == [("audit.fork", "audit/fork", "c1")]
        assert (await send(log, writer, writer.batch(1))).seq == 6

    async def test_new_epoch_is_a_finding_with_the_old_head(self, log: AuditLog) -> None:
        """V1: an agent that lost its state begins a new epoch; the log says where the old one ended."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(4))
        old = writer.state
        writer.new_epoch()
        batch = writer.batch(2)
        check_proofs(await send(log, writer, batch), batch)
        (finding,) = await all_records(log, origin="hub")
        assert (finding.action, finding.decision) == ("audit.epoch", "finding")
        assert finding.details == {"epoch": "2", "oldEpoch": "1", "oldSeq": "4", "oldHead": old.head}

    async def test_old_epoch_cannot_go_on(self, log: AuditLog) -> None:
        """After a new epoch only repeats of the old one are acknowledged; more of it means two copies are running."""
        writer = AuditWriter(1)
        first = writer.batch(2)
        await send(log, writer, first)
        stale = writer.clone()
        writer.new_epoch()
        await send(log, writer, writer.batch(1))
        ack = await send(log, writer, first)
        assert (ack.epoch, ack.seq) == (1, 2)
        ack = await send(log, stale, stale.batch(1))
        assert ack.refused_code == "audit/old-epoch"
        assert [r.action for r in await all_records(log, origin="hub")] == ["audit.epoch", "audit.fork"]

    async def test_epoch_begins_with_its_first_record(self, log: AuditLog) -> None:
        """A new epoch that starts in the middle is a gap, and the old epoch stays the newest."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(2))
        writer.new_epoch()
        writer.write(1)
        ack = await send(log, writer, writer.batch(1))
        assert (ack.refused_code, ack.expected_seq) == ("audit/gap", 1)

    async def test_records_of_another_writer_realm_or_epoch_are_refused(self, log: AuditLog) -> None:
        """V3: origin and cluster must be those of the certificate, whatever a record says."""
        writer, other = AuditWriter(1), AuditWriter(2)
        elsewhere = writer.clone()
        elsewhere.cluster = "c2"
        cases = [
            (replace(elsewhere.batch(1)), "audit/wrong-chain"),
            (replace(other.batch(1)), "audit/wrong-chain"),
            (replace(writer.clone().batch(1), epoch=2), "audit/wrong-chain"),
            (replace(writer.clone().batch(1), first_seq=2), "audit/gap"),
            (replace(writer.clone().batch(1), records=(b"{}",)), "audit/bad-record"),
            (AuditBatchIn(0, 1, ()), "audit/bad-record"),
            (AuditBatchIn(1, 1, (b"x",) * 5000), "audit/batch-too-large"),
        ]
        for batch, code in cases:
            ack = await send(log, writer, batch)
            assert (ack.refused_code, ack.expected_seq) == (code, 1)
        assert (await make_log(log._store, "sha256:" + "00" * 32).ingest("c1", writer.uid, writer.spki, writer.batch(1))
                ).refused_code == "audit/foreign-realm"  # fmt: skip
        assert await log.size() == 0

    async def test_v3_records_without_a_cluster_are_found_under_the_certificates_name(self, log: AuditLog) -> None:
        """V3: an agent that does not say which cluster it is of is filed where its certificate belongs."""
        writer = AuditWriter(1)
        silent = writer.clone()
        silent.cluster = ""
        assert (await log.ingest("c1", writer.uid, writer.spki, silent.batch(2))).seq == 2
        assert len(await log.tail(0, 10, AuditFilter(cluster="c1"))) == 2

    async def test_a_bad_record_refuses_the_whole_batch(self, log: AuditLog) -> None:
        """V16: nothing of a batch is taken when its last record is broken."""
        writer = AuditWriter(1)
        batch = writer.batch(3)
        ack = await send(log, writer, replace(batch, records=(*batch.records[:2], batch.records[2][:-1])))
        assert ack.refused_code == "audit/bad-record"
        swapped = replace(batch, records=(batch.records[0], batch.records[2], batch.records[1]))
        assert (await send(log, writer, swapped)).refused_code == "audit/gap"
        assert await log.size() == 0
        assert (await send(log, writer, batch)).seq == 3

    async def test_statement_must_be_of_the_bound_key_and_about_the_last_record(self, log: AuditLog) -> None:
        """A statement that is wrong is refused with the records it came with."""
        writer, thief = AuditWriter(1), AuditWriter(1)
        records = writer.write(3)
        from_thief = AuditBatchIn(1, 1, tuple(records), thief.batch(3).checkpoint)
        early = AuditBatchIn(1, 1, tuple(records[:2]), writer.clone().batch(0).checkpoint)
        for batch in (from_thief, early, replace(early, checkpoint=b"{}"), replace(early, checkpoint=b"")):
            assert (await send(log, writer, batch)).refused_code == "audit/bad-checkpoint"
        assert await log.size() == 0

    async def test_statement_key_is_one_per_epoch(self, log: AuditLog) -> None:
        """A changed statement key within an epoch is refused; with a new epoch it is taken."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(1))
        writer.signer = AuditWriter(1).signer
        assert (await send(log, writer, writer.batch(1))).refused_code == "audit/key-changed"
        writer.new_epoch()
        assert (await send(log, writer, writer.batch(1))).seq == 1

    async def test_empty_batch_tells_where_the_chain_stands(self, log: AuditLog) -> None:
        """Nothing to send is answered with the last durable record."""
        writer = AuditWriter(1)
        assert (await send(log, writer, AuditBatchIn(1, 1, ()))).seq == 0
        batch = writer.batch(3)
        await send(log, writer, batch)
        ack = await send(log, writer, AuditBatchIn(1, 4, ()))
        assert (ack.seq, ack.leaf_index) == (3, 2)
        check_proofs(ack, batch)

    async def test_an_agent_that_knows_a_longer_log_is_refused_and_nothing_taken(self, log: AuditLog) -> None:
        """A log that was set back cannot prove what it takes, so it takes nothing until the agent begins anew."""
        writer = AuditWriter(1)
        ack = await send(log, writer, writer.batch(1, known=500))
        assert (ack.refused_code, ack.expected_seq) == ("audit/log-behind", 1)
        assert await log.size() == 0

    async def test_refused_by_an_ended_epoch_an_agent_is_told_the_newest(self, log: AuditLog) -> None:
        """Two epochs behind: the next one it begins must come after what the log has."""
        writer = AuditWriter(1)
        stale = writer.clone()
        writer.state = ChainState(5)
        await send(log, writer, writer.batch(1))
        ack = await send(log, stale, stale.batch(1))
        assert (ack.refused_code, ack.epoch) == ("audit/old-epoch", 5)

    async def test_a_fork_after_another_refusal_is_recorded(self, log: AuditLog) -> None:
        """A changed key and an old epoch are findings of their own, and hide no fork that comes later."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(2))
        stale, other_key, forked = writer.clone(), writer.clone(), writer.clone()
        other_key.signer = AuditWriter(1).signer
        for _ in range(2):
            again = other_key.clone()
            assert (await send(log, again, again.batch(1))).refused_code == "audit/key-changed"
        assert (await send(log, writer, writer.batch(2))).seq == 4
        assert (await send(log, forked, forked.batch(1, reason="other"))).refused_code == "audit/fork"
        writer.new_epoch()
        await send(log, writer, writer.batch(1))
        stale.write(2)
        for _ in range(2):
            again = stale.clone()
            assert (await send(log, again, again.batch(1))).refused_code == "audit/old-epoch"
        forked = writer.clone()
        await send(log, writer, writer.batch(1))
        assert (await send(log, forked, forked.batch(1, reason="other"))).refused_code == "audit/fork"
        codes = [r.code for r in await all_records(log, origin="hub") if r.action == "audit.fork"]
        assert codes == ["audit/key-changed", "audit/fork", "audit/old-epoch", "audit/fork"]

    async def test_no_realm_no_records(self, store: Store) -> None:
        """Before a root is adopted no agent can have a chain here."""
        writer = AuditWriter(1)
        with pytest.raises(CellwardError) as caught:
            await send(make_log(store.audit, ""), writer, writer.batch(1))
        assert caught.value.code == "audit/no-realm"


class TestHubChain:
    """The hub's own records."""

    async def test_events_are_one_chain(self, log: AuditLog) -> None:
        """Concurrent events of the hub are chained in the order of the log, without gap."""
        indices = await asyncio.gather(
            *(log.append_hub("alice", "cluster.create", f"Cluster//c{n}", "done") for n in range(20))
        )
        assert sorted(indices) == list(range(20))
        prev = NO_RECORD
        for number, row in enumerate(await log.tail(0, 100), start=1):
            record = parse_record(row.record)
            assert (record.origin, record.epoch, record.seq, record.prev) == ("hub", 1, number, prev)
            prev = record_digest(row.record)

    async def test_record_takes_the_cluster_from_its_details(self, log: AuditLog) -> None:
        """The other rooms' port; redaction holds here as well."""
        await log.record(
            "token.mint", "Cluster//eu-1", "done", actor="alice", details={"cluster": "eu-1", "token": "cwj_x"}
        )
        (record,) = await all_records(log, cluster="eu-1")
        assert (record.actor, dict(record.details)) == ("alice", {"cluster": "eu-1"})

    async def test_hub_records_before_it_has_a_realm(self, store: Store) -> None:
        """What happens before the root is adopted is in the log, and the log goes on under the realm."""
        before = make_log(store.audit, "")
        await before.append_hub("system", "hub.start", "Hub", "done")
        for call in (before.head(), before.export(_ignore)):
            with pytest.raises(CellwardError) as caught:
                await call
            assert caught.value.code == "audit/no-realm"
        log = make_log(store.audit)
        await log.append_hub("alice", "realm.adopt", "Realm", "done")
        assert [record.realm for record in await all_records(log)] == ["", REALM]
        assert (await log.head()).size == 2

    async def test_restore_begins_an_epoch(self, log: AuditLog) -> None:
        """After a restore the hub's chain begins anew and names the head it was restored to."""
        await log.append_hub("system", "hub.start", "Hub", "done")
        await log.begin_epoch("alice", "restored from a backup")
        await log.append_hub("system", "hub.start", "Hub", "done")
        first, restored, after = await all_records(log)
        assert (restored.epoch, restored.seq, restored.details["oldSeq"]) == (2, 1, "1")
        assert (after.epoch, after.seq, first.epoch) == (2, 2, 1)

    async def test_a_malformed_event_harms_nobody_else(self, log: AuditLog) -> None:
        """V16: one bad record of ours fails alone."""
        results = await asyncio.gather(
            log.append_hub("a", "Not An Action", "x", "done"),
            log.append_hub("a", "hub.start", "x", "done"),
            return_exceptions=True,
        )
        assert isinstance(results[0], CellwardError)
        assert results[1] == 0


class TestProcess:
    """Restarts, other processes, failures, cancellations."""

    async def test_log_goes_on_after_a_restart(self, store: Store) -> None:
        """No in-memory truth: a new process continues chains and tree, and proves old records."""
        writer = AuditWriter(1)
        batch = writer.batch(300)
        known = check_proofs(await send(make_log(store.audit), writer, batch), batch)
        more = writer.batch(300, known=known.size)
        again = make_log(store.audit)
        known = check_proofs(await send(again, writer, more), more, known)
        check_proofs(await send(make_log(store.audit), writer, batch), batch)
        head = await make_log(store.audit).head()
        assert (head.size, head.root) == (600, "sha256:" + known.root.hex())
        assert verify_checkpoint(head.note, log_origin(REALM), SPKI) == known

    async def test_two_processes_on_one_store_make_one_log(self, store: Store) -> None:
        """Replicas: whoever loses the race reads again; nothing is lost, doubled or out of order."""
        logs = [make_log(store.audit), make_log(store.audit)]
        writers = [AuditWriter(number) for number in range(4)]

        async def run(number: int, writer: AuditWriter) -> None:
            known = None
            for turn in range(6):
                batch = writer.batch(20, known=known.size if known else 0)
                known = check_proofs(await send(logs[(number + turn) % 2], writer, batch), batch, known)

        await asyncio.gather(*(run(number, writer) for number, writer in enumerate(writers)))
        again = writers[0].clone()
        again.state = ChainState(1)
        for turn in range(6):
            # Each has been told by the other what the log has: a repeat needs no write that would tell it so.
            batch = again.batch(20)
            check_proofs(await send(logs[turn % 2], again, batch), batch)
        rows = await store.audit.records(0, 1000)
        assert len(rows) == 480
        root = root_of([leaf_hash(row.record) for row in rows])
        assert (await logs[0].head()).root == "sha256:" + root.hex()

    async def test_v13_what_one_process_took_the_other_takes_as_a_repeat(self, store: Store) -> None:
        """An acknowledgement is lost with its process: the other one has an older log in mind, and looks again."""
        first, second = make_log(store.audit), make_log(store.audit)
        writer, other = AuditWriter(1), AuditWriter(2)
        early = writer.batch(3)
        await send(first, writer, early)
        await send(second, other, other.batch(3))
        await send(first, other, other.batch(3))
        late = writer.batch(4)
        await send(first, writer, late)
        head = check_proofs(await send(second, writer, late), late)
        assert head.size == 13
        forked = writer.clone()
        forked.state = ChainState(1)
        assert (await send(second, forked, forked.batch(3, reason="other"))).refused_code == "audit/fork"
        gap = other.clone()
        await send(first, other, other.batch(1))
        gap.write(1)
        beyond = gap.batch(1)
        assert (await send(second, other, beyond)).seq == 8
        assert [r.action for r in await all_records(first, origin="hub")] == ["audit.fork"]

    async def test_store_failure_is_not_an_ack(self, store: Store) -> None:
        """V13: without a commit there is no ack; the same batch works when the store does."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        batch = writer.batch(2)
        failing.fail = True
        results = await asyncio.gather(
            send(log, writer, batch), log.append_hub("a", "hub.start", "Hub", "done"), return_exceptions=True
        )
        assert [cast("CellwardError", result).code for result in results] == ["store/full", "store/full"]
        failing.fail = False
        check_proofs(await send(log, writer, batch), batch)
        assert await log.size() == 2

    async def test_v13_a_finding_whose_transaction_fails_is_recorded_with_the_next_try(self, store: Store) -> None:
        """V13: what could not be told is not told yet."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        writer.write(2)
        late = writer.batch(1)
        failing.fail = True
        with pytest.raises(CellwardError):
            await send(log, writer, late)
        failing.fail = False
        assert (await send(log, writer, late)).refused_code == "audit/gap"
        assert [r.action for r in await all_records(log)] == ["audit.gap"]

    async def test_v16_a_mistake_costs_one_group_and_the_next_gets_its_turn(self, store: Store) -> None:
        """V16: an error nobody foresaw reaches those it happened to; who waits behind them is answered as well."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        first, second = writer.batch(2), writer.batch(2)
        failing.once = RuntimeError("a mistake")
        async with asyncio.timeout(10):
            results = await asyncio.gather(send(log, writer, first), send(log, writer, second), return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        assert cast("AuditAckOut", results[1]).refused_code == "audit/gap"
        check_proofs(await send(log, writer, first), first)

    async def test_a_cancelled_worker_leaves_nobody_waiting(self, store: Store) -> None:
        """At shutdown: the group under way and those behind it are told that nothing of theirs is durable."""
        failing = FailingStore(store.audit)
        failing.hang = True
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        waiting = asyncio.gather(
            send(log, writer, writer.batch(2)), send(log, writer, writer.batch(2)), return_exceptions=True
        )
        while log._worker is None:
            await asyncio.sleep(0)
        log._worker.cancel()
        async with asyncio.timeout(10):
            results = await waiting
        assert [cast("CellwardError", result).code for result in results] == ["store/unavailable"] * 2

    async def test_cancelled_stream_does_not_take_others_with_it(self, log: AuditLog) -> None:
        """A stream that ends while it waits leaves the group it shared untouched."""
        writers = [AuditWriter(number) for number in range(6)]
        batches = [writer.batch(10) for writer in writers]
        tasks = [asyncio.create_task(send(log, writer, batch)) for writer, batch in zip(writers, batches, strict=True)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks[3].cancel()
        for number, task in enumerate(tasks):
            if number in {0, 3}:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            else:
                check_proofs(await task, batches[number])
        for number in (0, 3):
            check_proofs(await send(log, writers[number], batches[number]), batches[number])
        assert await log.size() == 60

    async def test_tail_filters_and_follows(self, log: AuditLog) -> None:
        """The next cursor is the last index plus one; filters combine."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(5))
        await log.append_hub("alice", "hub.start", "Hub", "done")
        assert [row.index for row in await log.tail(0, 3)] == [0, 1, 2]
        assert [row.index for row in await log.tail(3, 100)] == [3, 4, 5]
        assert await log.tail(6, 10) == ()
        assert len(await log.tail(0, 10, AuditFilter(cell="shop/cart", decision="done", cluster="c1"))) == 5
        assert len(await log.tail(0, 10, AuditFilter(action="hub.start"))) == 1


class TestPort:
    """The wire side."""

    async def test_batch_and_ack_cross_the_wire(self, log: AuditLog, store: Store) -> None:
        """Messages become batches of the bound uid and key, and acks become messages."""
        writer = AuditWriter(1)
        await store.clusters.create("c1", "alice")
        port = AuditIngest(log, store.clusters.get, store)
        batch = writer.batch(3)
        message = telemetry_pb2.AuditBatch(
            epoch=1, first_seq=1, records=batch.records, checkpoint=batch.checkpoint, known_tree_size=0
        )
        with pytest.raises(CellwardError) as caught:
            await port.ingest("c1", message)
        assert caught.value.code == "store/unknown-cluster"
        await store.clusters.bind("c1", writer.uid, "k", writer.spki, 1, "1")
        ack = await port.ingest("c1", message)
        head = verify_checkpoint(ack.checkpoint, log.origin, SPKI)
        check_range(ack, batch, head)
        assert (ack.epoch, ack.seq, ack.refused_code) == (1, 3, "")


class TestRestore:
    """The store was set back: agents bring tree heads that this log signed and has not."""

    async def _seen(self, writer: AuditWriter, count: int) -> bytes:
        log = make_log(cast("AuditStore", MemoryStore(ManualClock()).audit))
        await log.append_hub("hub", "hub.start", "Hub", "done")
        return (await send(log, writer, writer.batch(count))).checkpoint

    async def test_own_heads_are_denied_only_when_they_are_not_of_this_log(self, log: AuditLog) -> None:
        """A longer log, and another one of the same length; never a head of this one, nor one of another key."""
        writer = AuditWriter(1)
        heads = [(await send(log, writer, writer.batch(count))).checkpoint for count in (1, 2, 300, 5)]
        for note in heads:
            assert await log.denied(note) is None
        assert await log.denied(await self._seen(AuditWriter(1), 399)) is not None
        assert await log.denied(await self._seen(AuditWriter(1), 2)) is not None
        foreign = AuditLog(
            cast("AuditStore", MemoryStore(ManualClock()).audit), Ed25519PrivateKey.generate(), lambda: REALM,
            ManualClock(),
        )  # fmt: skip
        await foreign.append_hub("hub", "hub.start", "Hub", "done")
        for note in ((await foreign.head()).note, b"", b"no note"):
            assert await log.denied(note) is None

    async def test_v1_a_hub_that_was_set_back_begins_a_history_once_and_says_so(
        self, log: AuditLog, store: Store
    ) -> None:
        """Two agents say so at once, a third still speaks of the old history: one finding, one new hub epoch."""
        note = await self._seen(AuditWriter(1), 9)
        watch, before = RestoreWatch(log, store), store.hub_epoch
        await watch.saw("c1", "another", note)
        await watch.saw("c1", before, b"")
        assert store.hub_epoch == before
        await asyncio.gather(watch.saw("c1", before, note), watch.saw("c2", before, note))
        after = store.hub_epoch
        assert after != before
        await watch.saw("c3", before, note)
        assert store.hub_epoch == after
        (finding,) = await all_records(log)
        assert (finding.action, finding.epoch, finding.details["size"]) == ("hub.restore", 2, "10")


class FailingStore:
    """A store whose appends fail on demand."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self.fail = False
        self.once: Exception | None = None
        self.hang = False

    async def append(self, batch: AuditAppend) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.once is not None:
            error, self.once = self.once, None
            raise error
        if self.fail:
            raise FULL("no room")
        await self._store.append(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def _ignore(data: bytes) -> None:
    del data
