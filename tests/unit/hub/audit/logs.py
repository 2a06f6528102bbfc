"""The hub's log as tests make it, and short ways to send to it and to verify what it answers."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.checkpoint import Checkpoint, log_origin, verify_checkpoint
from cellward.audit.record import Record, parse_record
from cellward.audit.tree import leaf_hash, verify_consistency, verify_range
from cellward.wire.v1 import telemetry_pb2
from hub.audit.model import AuditAckOut, AuditBatchIn
from hub.audit.service import AuditLog
from hub.store.log import AuditFilter, AuditStore
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock

KEY = Ed25519PrivateKey.generate()

SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


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
