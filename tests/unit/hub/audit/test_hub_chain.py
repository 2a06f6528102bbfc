"""The hub's own records in its log, and the history it begins when its store was set back."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cellward.audit.record import NO_RECORD, parse_record, record_digest
from cellward.errors import CellwardError
from hub.audit.restore import RestoreWatch
from hub.audit.service import AuditLog
from hub.store.interfaces import Store
from hub.store.log import AuditEvent
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store
from tests.unit.hub.audit.logs import all_records, make_log, send


class TestHubChain:
    """The hub's own records."""

    async def test_events_are_one_chain(self, log: AuditLog) -> None:
        """Concurrent events of the hub are chained in the order of the log, without gap."""
        indices = await asyncio.gather(
            *(log.append(AuditEvent("alice", "cluster.create", f"Cluster//c{n}", "done")) for n in range(20))
        )
        assert sorted(indices) == list(range(20))
        prev = NO_RECORD
        for number, row in enumerate(await log.tail(0, 100), start=1):
            record = parse_record(row.record)
            assert (record.origin, record.epoch, record.seq, record.prev) == ("hub", 1, number, prev)
            prev = record_digest(row.record)

    async def test_a_secret_in_the_details_is_not_recorded(self, log: AuditLog) -> None:
        """Redaction holds for the hub's own records as well."""
        details = {"cluster": "eu-1", "token": "cwj_x"}
        await log.append(AuditEvent("alice", "token.mint", "Cluster//eu-1", "done", cluster="eu-1", details=details))
        (record,) = await all_records(log, cluster="eu-1")
        assert (record.actor, dict(record.details)) == ("alice", {"cluster": "eu-1"})

    async def test_hub_records_before_it_has_a_realm(self, store: Store) -> None:
        """What happens before the root is adopted is in the log, and the log goes on under the realm."""
        before = make_log(store.audit, "")
        await before.append(AuditEvent("system", "hub.start", "Hub", "done"))
        for call in (before.head(), before.export(_ignore)):
            with pytest.raises(CellwardError) as caught:
                await call
            assert caught.value.code == "audit/no-realm"
        log = make_log(store.audit)
        await log.append(AuditEvent("alice", "realm.adopt", "Realm", "done"))
        assert [record.realm for record in await all_records(log)] == ["", REALM]
        assert (await log.head()).size == 2

    async def test_restore_begins_an_epoch(self, log: AuditLog) -> None:
        """After a restore the hub's chain begins anew and names the head it was restored to."""
        await log.append(AuditEvent("system", "hub.start", "Hub", "done"))
        await log.begin_epoch("alice", "restored from a backup")
        await log.append(AuditEvent("system", "hub.start", "Hub", "done"))
        first, restored, after = await all_records(log)
        assert (restored.epoch, restored.seq, restored.details["oldSeq"]) == (2, 1, "1")
        assert (after.epoch, after.seq, first.epoch) == (2, 2, 1)

    async def test_a_malformed_event_harms_nobody_else(self, log: AuditLog) -> None:
        """V16: what no record can hold is refused where it is made, so it is never among what waits."""
        with pytest.raises(CellwardError) as caught:
            AuditEvent("a", "Not An Action", "x", "done")
        assert caught.value.code == "audit/bad-record"
        assert await log.append(AuditEvent("a", "hub.start", "x", "done")) == 0


class TestRestore:
    """The store was set back: agents bring tree heads that this log signed and has not."""

    async def _seen(self, writer: AuditWriter, count: int) -> bytes:
        log = make_log(scratch_store(ManualClock()).audit)
        await log.append(AuditEvent("hub", "hub.start", "Hub", "done"))
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
            scratch_store(ManualClock()).audit, Ed25519PrivateKey.generate(), lambda: REALM,
            ManualClock(),
        )  # fmt: skip
        await foreign.append(AuditEvent("hub", "hub.start", "Hub", "done"))
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


async def _ignore(data: bytes) -> None:
    del data
