"""A hub or an agent that was set back: nothing stays stuck, nothing that waits is lost, and all of it is on record."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.audit.interfaces import Entry
from agent.audit.statement import StatementKey
from auditverify.report import Report
from auditverify.verify import verify_lines
from cellward.audit.chain import ChainState
from cellward.audit.record import Record, parse_record, record_digest
from cellward.audit.statement import sign_statement
from cellward.audit.vkey import format_vkey
from cellward.documents.dsse import Ed25519Signer
from cellward.identity.keys import spki_of
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import telemetry_pb2
from hub.audit.model import AuditBatchIn
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.store.log import AuditAppend, AuditEvent, AuditStore
from hub.sync.limits import SyncLimits
from tests.fakes.audit_writer import AuditWriter
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.store import scratch_store


class Journal:
    """A store that can be put back to what it was after any of its transactions, as a backup is."""

    def __init__(self) -> None:
        self.done: list[AuditAppend] = []
        self._store = scratch_store().audit

    async def append(self, batch: AuditAppend) -> None:
        """Write, and remember."""
        await self._store.append(batch)
        self.done.append(batch)

    async def restore(self, count: int) -> None:
        """Go back to the first ``count`` transactions."""
        self._store, done, self.done = scratch_store().audit, self.done[:count], []
        for batch in done:
            await self.append(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class Scene:
    """A hub with its real log over a journal, and an agent that is linked to it."""

    hub: FakeLinkHub
    journal: Journal
    agent: LinkedAgent
    log: AuditLog = field(init=False)
    _ingest: AuditIngest = field(init=False)

    def __post_init__(self) -> None:
        self.start_log()

    def start_log(self) -> None:
        """Begin as a new process does, with nothing in memory."""
        keys = self.hub.hub.keys
        self.log = AuditLog(cast("AuditStore", self.journal), keys.tree_head, lambda: REALM, SystemClock())
        self._ingest = AuditIngest(self.log, self.hub.hub.clusters.get, self.hub)
        self.hub.log_origin = format_vkey(self.log.origin, spki_of(keys.tree_head))

    async def hello(self, cluster: str, hub_epoch: str, last_checkpoint: bytes) -> None:
        """Pass it on to the log of the moment."""
        await self._ingest.hello(cluster, hub_epoch, last_checkpoint)

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Pass it on to the log of the moment."""
        return await self._ingest.ingest(cluster, batch)

    async def restored(self, count: int) -> None:
        """The hub comes back with an older store; agents connect anew."""
        await self.journal.restore(count)
        self.start_log()
        await self.reconnect()

    async def outgrown(self) -> None:
        """The hub comes back without the agent's last records, and its log grows past what the agent saw."""
        await self.record("a")
        await self.drained()
        backup = len(self.journal.done)
        await self.record("b", "c")
        await self.drained()
        await self.journal.restore(backup)
        self.start_log()
        for _ in range(20):
            await self.log.append(AuditEvent("hub", "hub.start", "Hub", "done"))

    async def reconnect(self) -> None:
        """Have the agent introduce itself again, and wait until it was welcomed."""
        client = self.agent.parts.client
        before = client.sessions_welcomed
        await self.hub.link.link.send_command("eu-1", "reconnect")
        await until(lambda: client.sessions_welcomed > before, "the agent was welcomed again")

    async def record(self, *names: str) -> None:
        """Write records."""
        for name in names:
            await self.agent.recorder.record(Entry("cell.apply", name, "done"))

    async def drained(self) -> None:
        """Wait until everything is in the log and proved."""
        async with asyncio.timeout(30):
            while await self.agent.db.audit.depth():
                await asyncio.sleep(0.01)

    async def records(self, origin: str = "") -> list[Record]:
        """Return the log; of one writer when named."""
        found = [parse_record(row.record) for row in await self.log.tail(0, 1000)]
        return [record for record in found if record.origin.startswith(origin)]

    async def exported(self) -> Report:
        """Export and verify."""
        parts: list[bytes] = []

        async def write(data: bytes) -> None:
            parts.append(data)

        await self.log.export(write)
        lines = b"".join(parts).splitlines(keepends=True)
        return verify_lines(lines, hub_key=spki_of(self.hub.hub.keys.tree_head))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A hub with its log, and an agent that is invited and not started."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    agent = LinkedAgent(tmp_path, REALM, "", hub.hub.authority.hub_ca_pem)
    made = Scene(hub, Journal(), agent)
    hub.ports = replace(hub.ports, audit=made)
    async with hub.running():
        agent.enrolment_address, agent.token = hub.enrolment.address, await hub.invite("eu-1")
        yield made


@contextlib.asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[None]:
    """Run the agent until the context ends."""
    async with scene.agent.boot():
        await scene.agent.recorder.record_findings()
        await until(scene.agent.is_ok("hub-link"), "the link is up")
        yield


async def test_v13_a_hub_that_lost_records_the_agent_has_freed_goes_on(scene: Scene) -> None:
    """Restored from an older backup: the hub says so, the agent says what it had seen, and both go on."""
    async with running(scene):
        await scene.record("a", "b")
        await scene.drained()
        backup = len(scene.journal.done)
        await scene.record("c", "d")
        await scene.drained()
        seen = await scene.agent.db.audit.log_view()
        await scene.restored(backup)
        await scene.record("e", "f")
        await scene.drained()
        assert scene.agent.db.epoch == 2
        mine = await scene.records("agent:")
        assert [record.object for record in mine] == ["a", "b", "AuditLog//hub", "e", "f"]
        finding = mine[2]
        assert (finding.action, finding.code) == ("audit.rollback", "audit/log-behind")
        assert (finding.details["size"], finding.details["root"]) == (str(seen.size), seen.root)
        assert finding.details["oldSeq"] >= "4"
        assert [record.action for record in await scene.records("hub")] == ["hub.restore", "audit.epoch"]
        assert (await scene.exported()).problems == []
        await scene.record("g")
        await scene.drained()
        assert scene.agent.db.epoch == 2


async def test_v13_a_restored_hub_that_has_grown_past_what_the_agent_saw_is_found(scene: Scene) -> None:
    """The log is long enough again, but another one: its own signature on another root proves it."""
    async with running(scene):
        await scene.outgrown()
        await scene.reconnect()
        await scene.record("d")
        await scene.drained()
        mine = await scene.records("agent:")
        assert [record.object for record in mine] == ["a", "AuditLog//hub", "d"]
        assert "hub.restore" in {record.action for record in await scene.records("hub")}
        assert (await scene.exported()).problems == []


async def test_v13_records_that_meet_a_restored_hub_before_its_name_is_known_wait_no_minute(scene: Scene) -> None:
    """The stream that was open began an epoch already; the one that forgets the other log follows at once."""
    async with running(scene):
        await scene.outgrown()
        await scene.record("d")
        await until(scene.agent.has_code("audit-push", "link/log-refused"), "the open stream met the other log")
        assert scene.agent.db.epoch == 2
        await scene.reconnect()
        await scene.drained()
        assert scene.agent.db.epoch == 3
        assert "d" in {record.object for record in await scene.records("agent:")}
        # Epoch 2 is in this log, and it says which other one its writer had seen.
        assert {problem.code for problem in (await scene.exported()).problems} == {"another-log"}


async def test_a_new_hub_epoch_alone_makes_nobody_forget(scene: Scene) -> None:
    """The name changes, the log goes on and proves it: no finding, no epoch."""
    async with running(scene):
        await scene.record("a")
        await scene.drained()
        await scene.hub.new_epoch()
        await scene.reconnect()
        await scene.record("b")
        await scene.drained()
        assert (scene.agent.db.epoch, (await scene.agent.db.audit.log_view()).hub_epoch) == (1, scene.hub.hub_epoch)
        assert (await scene.exported()).problems == []


async def test_a_hub_that_shows_another_log_under_the_same_epoch_is_not_followed(scene: Scene) -> None:
    """Without another name for its history a shorter log is a lie, and the agent keeps what it has seen."""
    async with running(scene):
        await scene.record("a", "b")
        await scene.drained()
        seen = await scene.agent.db.audit.log_view()
        await scene.journal.restore(0)
        scene.start_log()
        await scene.record("c")
        await until(scene.agent.has_code("audit-push", "link/audit-not-taken"), "the refusal is visible")
        assert (scene.agent.db.epoch, await scene.agent.db.audit.log_view()) == (1, seen)


async def test_v1_an_agent_restored_between_two_looks_at_its_anchor_goes_on(scene: Scene) -> None:
    """A snapshot of its volume: the log has other records at those places, so a new epoch takes what is written now."""
    state, copy = scene.agent.directory / "state", scene.agent.directory / "copy"
    async with running(scene):
        await scene.record("a")
        await scene.drained()
    shutil.copytree(state, copy)
    async with running(scene):
        await scene.record("b", "c")
        await scene.drained()
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    async with running(scene):
        await scene.record("d", "e")
        await scene.drained()
        assert scene.agent.db.epoch == 2
        mine = await scene.records("agent:")
        assert [record.object for record in mine if record.object != "state"] == [
            "a", "b", "c", "AuditLog//hub", "d", "e",
        ]  # fmt: skip
        finding = next(record for record in mine if record.action == "audit.rollback")
        assert finding.log_size == int(finding.details["size"]) > 0, "what was seen of the log is not forgotten"
        assert [record.code for record in await scene.records("hub") if record.code] == ["audit/fork"]
        assert (await scene.exported()).problems == []


async def test_v1_an_agent_on_an_older_disk_skips_the_epochs_that_are_over(scene: Scene) -> None:
    """The log knows of later epochs than this disk: what waits on it goes on in the one after them."""
    async with running(scene):
        await scene.record("a")
        await scene.drained()
        row = scene.hub.hub.clusters.rows["eu-1"]
        writer = AuditWriter(1, epoch=5)
        writer.uid, writer.cluster = scene.agent.db.uid, "eu-1"
        writer.signer = Ed25519Signer.from_pem(
            (scene.agent.directory / "state" / "statement-key.pem").read_bytes(), None
        )
        records = [one.replace(b"sha256:" + b"ab" * 32, REALM.encode()) for one in writer.write(1)]
        statement = sign_statement(REALM, writer.uid, ChainState(5, 1, record_digest(records[0])), writer.signer)
        ack = await scene.log.ingest("eu-1", row.uid, row.statement_spki, AuditBatchIn(5, 1, tuple(records), statement))
        assert not ack.refused_code
        await scene.record("b")
        await scene.drained()
        assert scene.agent.db.epoch == 6
        assert (await scene.records("agent:"))[-1].object == "b"
        assert (await scene.exported()).problems == []


async def test_v1_a_statement_key_that_was_lost_is_a_finding_and_the_agent_goes_on(scene: Scene) -> None:
    """Invited anew under the new key, it sends what waited under the old one in an epoch of its own."""
    async with running(scene):
        await scene.record("a")
        await scene.drained()
        scene.log._signer, key = Ed25519PrivateKey.generate(), scene.log._signer
        await scene.record("b")
        await until(scene.agent.has_code("audit-push", "link/log-refused"), "nothing is freed")
        scene.log._signer = key
    file = scene.agent.directory / "state" / "statement-key.pem"
    file.unlink()
    rows = scene.hub.hub.clusters.rows
    rows["eu-1"] = replace(rows["eu-1"], statement_spki=StatementKey.load_or_create(file.parent).spki_der)
    async with running(scene):
        await scene.record("c")
        await scene.drained()
        mine = await scene.records("agent:")
        assert {"spool/statement-key-changed", "audit/key-changed"} <= {record.code for record in mine}
        assert {"a", "b", "c"} <= {record.object for record in mine}
        report = await scene.exported()
        assert {problem.code for problem in report.problems} == {"second-key"}


async def test_a_hub_that_refuses_every_epoch_costs_one_now_and_then(scene: Scene) -> None:
    """It says `gap` to everything: the agent begins one epoch, then waits, and stays as it is."""

    async def refuse(cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        refused.append(batch.epoch)
        return telemetry_pb2.AuditAck(epoch=batch.epoch, refused_code="audit/gap", expected_seq=9)

    refused: list[int] = []
    async with running(scene):
        scene.ingest = refuse  # type: ignore[method-assign]
        await scene.record("a")
        await until(lambda: len(refused) >= 6, "it is tried again")
        assert scene.agent.db.epoch == 2
        del scene.ingest
        await scene.drained()
        assert [record.object for record in await scene.records("agent:")][:2] == ["AuditLog//hub", "a"]


async def test_v13_a_record_damaged_on_disk_does_not_keep_the_others(scene: Scene) -> None:
    """No log takes it: the others go on in a new epoch, and that one is missing is on record."""

    async def away(cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        raise ConnectionError("not now")

    async with running(scene):
        scene.ingest = away  # type: ignore[method-assign]
        await scene.record("a", "b", "c")
        await scene.agent.db.audit._writer.run(
            lambda connection: connection.execute("UPDATE audit SET data=x'7b7d' WHERE seq=2").rowcount
        )
        del scene.ingest
        await scene.drained()
        await scene.record("d")
        await scene.drained()
        mine = await scene.records("agent:")
        assert [record.object for record in mine] == ["AuditLog//hub", "a", "c", "audit", "d"]
        assert (mine[3].action, mine[3].details["count"]) == ("audit.lost", "1")
        assert (await scene.exported()).problems == []
