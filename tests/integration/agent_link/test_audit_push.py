"""Audit records from the spool into the hub's log, freed only on proof (V13), over the real listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.audit.errors import LOG_REFUSED
from agent.audit.interfaces import Entry
from cellward.audit.chain import ChainState, verify_next
from cellward.audit.record import parse_record
from cellward.documents import canonical, dsse
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import telemetry_pb2
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.merkle_audit import MerkleAudit
from tests.fakes.ports import FakeLinkHub


@dataclass
class Scene:
    """A hub with a log, and an agent that is linked to it."""

    hub: FakeLinkHub
    log: MerkleAudit
    agent: LinkedAgent

    async def record(self, count: int) -> None:
        """Write records."""
        for number in range(count):
            await self.agent.recorder.record(Entry("cell.apply", f"Cell//{number}", "done"))

    async def drained(self) -> None:
        """Wait until the spool is empty."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 30
        while await self.agent.db.audit.depth():
            assert loop.time() < deadline, f"the spool was never freed: {self.agent.condition('audit-push')}"
            await asyncio.sleep(0.01)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A linked agent with an empty spool."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    log = MerkleAudit(REALM)
    hub.ports = replace(hub.ports, audit=log)
    hub.log_origin = log.vkey
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            yield Scene(hub, log, agent)


async def test_v13_records_arrive_in_order_once_and_free_the_spool(scene: Scene) -> None:
    """Every record is in the log, the chain holds, and each batch carries a statement of the agent's own key."""
    await scene.record(25)
    await scene.drained()
    await scene.record(5)
    await scene.drained()
    state = ChainState(1)
    for leaf in scene.log.leaves:
        state = verify_next(state, leaf)
    assert state.seq == 30
    view = await scene.agent.db.audit.log_view()
    assert view.size == 30
    envelope = dsse.parse_envelope(scene.log.batches[-1].checkpoint)
    payload = canonical.decode(envelope.payload)
    assert isinstance(payload, dict)
    assert (payload["seq"], payload["head"], payload["uid"]) == (30, state.head, scene.agent.db.uid)
    spki = scene.hub.hub.clusters.rows["eu-1"].statement_spki
    message = dsse.pae(envelope.payload_type, envelope.payload)
    assert dsse.verify_signature(spki, "ed25519", message, envelope.signatures[0].sig)


async def test_v13_the_next_record_carries_the_checkpoint_seen(scene: Scene) -> None:
    """What the log showed to this agent is part of the chain from then on."""
    await scene.record(3)
    await scene.drained()
    view = await scene.agent.db.audit.log_view()
    await scene.record(1)
    await scene.drained()
    last = parse_record(scene.log.leaves[-1])
    assert (last.log_size, last.log_root) == (view.size, view.root)


async def test_v13_a_lost_acknowledgement_repeats_the_batch_and_nothing_is_twice(scene: Scene) -> None:
    """The hub made it durable and died before it said so: the same batch comes again, the log has it once."""
    scene.log.drop_acks = 2
    await scene.record(4)
    await scene.drained()
    assert len(scene.log.batches) >= 3
    assert [parse_record(leaf).seq for leaf in scene.log.leaves] == [1, 2, 3, 4]


def _smaller(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    other = MerkleAudit(REALM)
    other.key, other.leaves = log.key, log.leaves[-ack.proved :]
    ack.CopyFrom(other.prove(telemetry_pb2.AuditBatch(epoch=ack.epoch), ack.proved - 1, ack.seq, ack.proved))


def _rewritten(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    other = MerkleAudit(REALM)
    other.key, other.leaves = log.key, [b"something else", *log.leaves[1:]]
    batch = telemetry_pb2.AuditBatch(epoch=ack.epoch, known_tree_size=3)
    ack.CopyFrom(other.prove(batch, ack.leaf_index, ack.seq, ack.proved))


def _not_included(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    ack.leaf_index -= 1


def _beyond(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    ack.seq += 1


def _unsigned(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    other = MerkleAudit(REALM)
    other.leaves = log.leaves
    ack.CopyFrom(
        other.prove(telemetry_pb2.AuditBatch(epoch=ack.epoch, known_tree_size=3), ack.leaf_index, ack.seq, ack.proved)
    )


def _only_the_last(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    """Keep the last record of the batch alone, and claim all of them."""
    other = MerkleAudit(REALM)
    other.key, other.leaves = log.key, [*log.leaves[:3], log.leaves[-1]]
    batch = telemetry_pb2.AuditBatch(epoch=ack.epoch, known_tree_size=3)
    claimed = ack.proved
    ack.CopyFrom(other.prove(batch, 3, ack.seq))
    ack.proved = claimed


def _proves_fewer(log: MerkleAudit, ack: telemetry_pb2.AuditAck) -> None:
    """Prove the last record honestly, and acknowledge the whole batch with it."""
    other = MerkleAudit(REALM)
    other.key, other.leaves = log.key, log.leaves
    ack.CopyFrom(other.prove(telemetry_pb2.AuditBatch(epoch=ack.epoch, known_tree_size=3), ack.leaf_index, ack.seq))
    ack.proved = 0


LIES = (_only_the_last, _proves_fewer, _smaller, _rewritten, _not_included, _beyond, _unsigned)


@pytest.mark.parametrize("lie", LIES)
async def test_v13_a_log_that_does_not_prove_it_frees_nothing(
    scene: Scene, lie: Callable[[MerkleAudit, telemetry_pb2.AuditAck], None]
) -> None:
    """Smaller, rewritten, not included, beyond what was sent, signed by another key: refused, kept, and a finding."""
    await scene.record(3)
    await scene.drained()
    honest = scene.log.prove

    def lying(batch: telemetry_pb2.AuditBatch, index: int, seq: int, count: int = 1) -> telemetry_pb2.AuditAck:
        if count < 2:
            # The lies are about two records; which of them came with the first look at the spool is chance.
            raise ConnectionError("the acknowledgement got lost")
        ack = honest(batch, index, seq, count)
        lie(scene.log, ack)
        return ack

    scene.log.prove = lying  # type: ignore[method-assign]
    await scene.record(2)
    await until(scene.agent.has_code("audit-push", LOG_REFUSED.code), "the refusal is visible")
    assert await scene.agent.db.audit.depth() >= 2
    assert (await scene.agent.db.audit.log_view()).size == 3
    scene.log.prove = honest  # type: ignore[method-assign]
    await scene.drained()
    findings = [parse_record(leaf) for leaf in scene.log.leaves if parse_record(leaf).decision == "finding"]
    assert [(finding.action, finding.code) for finding in findings] == [("audit.fork", "link/log-refused")]
    await until(scene.agent.is_ok("audit-push"), "the condition is good again")


async def test_v13_a_changed_log_key_is_a_finding_and_frees_nothing(scene: Scene) -> None:
    """The key is pinned at first contact; another one announced later is not believed."""
    await scene.record(2)
    await scene.drained()
    honest = scene.log.key
    scene.log.key = Ed25519PrivateKey.generate()
    scene.hub.log_origin = scene.log.vkey
    await scene.hub.link.link.send_command("eu-1", "reconnect")
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "the new key was announced")
    await scene.record(1)
    await until(scene.agent.has_code("audit-push", "link/log-key-changed"), "the change is visible")
    assert await scene.agent.db.audit.depth() >= 1
    scene.log.key = honest
    scene.hub.log_origin = scene.log.vkey
    await scene.hub.link.link.send_command("eu-1", "reconnect")
    await scene.drained()
    findings = [parse_record(leaf) for leaf in scene.log.leaves if parse_record(leaf).decision == "finding"]
    # The stream that was open when the key changed may have refused a proof of the new one first.
    assert ("audit.checkpoint", "link/log-key-changed") in [(one.action, one.code) for one in findings]


async def test_a_hub_that_names_no_key_gets_no_proofs_believed(scene: Scene, tmp_path: Path) -> None:
    """Without a key nothing can be checked, so nothing is freed, and the condition says why."""
    scene.hub.log_origin = "cellward.test/log"
    token = await scene.hub.invite("us-1")
    agent = LinkedAgent(tmp_path / "us", REALM, scene.hub.enrolment.address, scene.hub.hub.authority.hub_ca_pem, token)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        await agent.recorder.record(Entry("cell.apply", "Cell//x", "done"))
        await until(agent.has_code("audit-push", "link/log-key-unknown"), "the reason is visible")
        assert await agent.db.audit.depth() == 1
