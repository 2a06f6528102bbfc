"""A hub's audit log in memory with real proofs; satisfies ``hub.sync.interfaces.AuditPort``."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cellward.audit.checkpoint import Checkpoint, log_origin, sign_checkpoint
from cellward.audit.tree import consistency_proof, leaf_hash, range_proof, root_of
from cellward.audit.vkey import format_vkey
from cellward.identity.keys import spki_of
from cellward.wire.v1 import telemetry_pb2


class MerkleAudit:
    """Takes batches of one or more agents. The attributes let a test make it lose, lie or refuse.

    Attributes:
        leaves: exact records in log order.
        batches: every batch that came, also refused and repeated ones.
        drop_acks: answer this many batches with an error after they were made durable.
        key: the tree-head key; replace it to lie.
    """

    def __init__(self, realm: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.origin = log_origin(realm)
        self.leaves: list[bytes] = []
        self.batches: list[telemetry_pb2.AuditBatch] = []
        self.drop_acks = 0
        self._next: dict[tuple[str, int], int] = {}
        self._index: dict[tuple[str, int, int], int] = {}

    @property
    def vkey(self) -> str:
        """What Welcome announces."""
        return format_vkey(self.origin, spki_of(self.key))

    async def hello(self, cluster: str, hub_epoch: str, last_checkpoint: bytes) -> None:
        """Take no notice: this log never says that it was set back."""

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Append what is new, skip what is known, prove the last record of the batch."""
        self.batches.append(batch)
        expected = self._next.get((cluster, batch.epoch), 1)
        if batch.first_seq > expected:
            return telemetry_pb2.AuditAck(epoch=batch.epoch, refused_code="audit/gap", expected_seq=expected)
        for offset, record in enumerate(batch.records):
            seq = batch.first_seq + offset
            if seq >= expected:
                self._index[cluster, batch.epoch, seq] = len(self.leaves)
                self.leaves.append(record)
        last = batch.first_seq + len(batch.records) - 1
        self._next[cluster, batch.epoch] = max(expected, last + 1)
        if self.drop_acks:
            self.drop_acks -= 1
            raise ConnectionError("the acknowledgement got lost")
        return self.prove(batch, self._index[cluster, batch.epoch, last], last, len(batch.records))

    def prove(self, batch: telemetry_pb2.AuditBatch, index: int, seq: int, count: int = 1) -> telemetry_pb2.AuditAck:
        """Make the acknowledgement of ``count`` records that end with one."""
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        known = min(batch.known_tree_size, len(hashes))
        return telemetry_pb2.AuditAck(
            epoch=batch.epoch,
            seq=seq,
            checkpoint=sign_checkpoint(Checkpoint(self.origin, len(hashes), root_of(hashes)), self.key),
            leaf_index=index,
            consistency=consistency_proof(hashes, known),
            proved=count,
            range_proof=range_proof(hashes, index - count + 1, index),
        )
