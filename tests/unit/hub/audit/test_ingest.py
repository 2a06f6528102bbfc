"""Records of agents in the hub's log: durable, continuous, provable; a fork, a gap or a new epoch is a finding."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cellward.audit.chain import ChainState
from cellward.audit.checkpoint import verify_checkpoint
from cellward.audit.record import HUB_ORIGIN, parse_record
from cellward.audit.tree import leaf_hash, root_of
from cellward.errors import CellwardError
from cellward.wire.v1 import telemetry_pb2
from hub.audit.model import AuditBatchIn
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.store.interfaces import Store
from hub.store.log import AuditEvent, AuditFilter
from tests.fakes.audit_writer import AuditWriter
from tests.unit.hub.audit.logs import SPKI, all_records, check_proofs, check_range, make_log, send


class Posing(AuditWriter):
    """An agent whose records say that somebody else wrote them."""

    claimed = ""

    @property
    def origin(self) -> str:
        """What is claimed."""
        return self.claimed


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

    async def test_batches_that_trickle_in_share_a_transaction(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """V13: a fleet whose agents push each at its own moment costs a few transactions a second, not one an agent."""
        monkeypatch.setattr("hub.audit.service.BATCHES_APART", 3600.0)
        log, writers = make_log(store.audit), [AuditWriter(number) for number in range(9)]
        async with asyncio.timeout(20):
            await send(log, writers[0], writers[0].batch(1))
            sending = [asyncio.create_task(send(log, writer, writer.batch(1))) for writer in writers[1:]]
            while len(log._pending) < len(sending):
                await asyncio.sleep(0)
            assert log.commits == 1
            # Their turn comes, here because the hub has something to record.
            await log.append(AuditEvent("ada", "cluster.lock", "Cluster/c1", "done"))
            await asyncio.gather(*sending)
        assert (log.records_taken, log.commits) == (10, 2)

    async def test_what_the_hub_does_waits_for_no_batch(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Batches wait for their turn; a record of the hub takes it, and them along."""
        monkeypatch.setattr("hub.audit.service.BATCHES_APART", 3600.0)
        log, first, second = make_log(store.audit), AuditWriter(1), AuditWriter(2)
        async with asyncio.timeout(20):
            await send(log, first, first.batch(1))
            waiting = asyncio.create_task(send(log, second, second.batch(1)))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            await log.append(AuditEvent("ada", "cluster.lock", "Cluster/c1", "done"))
            assert not (await waiting).refused_code
        assert log.commits == 2

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

    @pytest.mark.parametrize("claimed", [HUB_ORIGIN, f"agent:{AuditWriter(2).uid}"])
    async def test_v3_an_agent_writes_into_no_chain_but_its_own(self, log: AuditLog, claimed: str) -> None:
        """V3: records that say the hub wrote them, or another agent, and name no cluster, under a good certificate."""
        writer = Posing(1)
        writer.cluster, writer.claimed = "", claimed
        ack = await log.ingest("c1", writer.uid, writer.spki, writer.batch(1))
        assert ack.refused_code == "audit/wrong-chain"
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
