"""Between the wire and the log: the link's ``AuditPort``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cellward.errors import CellwardError
from cellward.wire.v1 import telemetry_pb2
from hub.audit.intake import Intake
from hub.audit.model import AuditBatchIn
from hub.audit.restore import History, RestoreWatch
from hub.audit.service import AuditLog
from hub.store.errors import UNKNOWN_CLUSTER
from hub.store.interfaces import ClusterRow


class AuditIngest:
    """Implements ``hub.sync.interfaces.AuditPort``: the certificate says which cluster, the store what is bound to it.

    Args:
        log: the audit log.
        binding: returns what is bound to a cluster name (``ClusterStore.get``).
        history: names the hub's history (the store).
        intake: how much is taken; None bounds nothing.
    """

    def __init__(
        self,
        log: AuditLog,
        binding: Callable[[str], Awaitable[ClusterRow | None]],
        history: History,
        intake: Intake | None = None,
    ) -> None:
        self._log = log
        self._binding = binding
        self._intake = intake
        self._restore = RestoreWatch(log, history)

    async def hello(self, cluster: str, hub_epoch: str, last_checkpoint: bytes) -> None:
        """Hear which tree head an agent accepted last, before it is welcomed."""
        await self._restore.saw(cluster, hub_epoch, last_checkpoint)

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Make a batch durable and prove it is in the log; raises audit/no-room, audit/too-fast: it was not taken."""
        if self._intake is not None:
            self._intake.admit(cluster, sum(map(len, batch.records)))
        binding = await self._binding(cluster)
        if binding is None or not binding.uid:
            raise _unbound(cluster)
        ack = await self._log.ingest(
            cluster,
            binding.uid,
            binding.statement_spki,
            AuditBatchIn(
                epoch=batch.epoch,
                first_seq=batch.first_seq,
                records=tuple(batch.records),
                checkpoint=batch.checkpoint,
                known_tree_size=batch.known_tree_size,
            ),
        )
        return telemetry_pb2.AuditAck(
            epoch=ack.epoch,
            seq=ack.seq,
            checkpoint=ack.checkpoint,
            leaf_index=ack.leaf_index,
            consistency=ack.consistency,
            refused_code=ack.refused_code,
            expected_seq=ack.expected_seq,
            proved=ack.proved,
            range_proof=ack.range_proof,
        )


def _unbound(cluster: str) -> CellwardError:
    return UNKNOWN_CLUSTER(f"nobody joined as {cluster}", cluster=cluster)
