"""The metrics of an idle agent, as its link would push them, for the light load to send."""

from __future__ import annotations

from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import take_snapshot
from cellward.wire.v1 import telemetry_pb2


def metrics_batch() -> bytes:
    """Return a serialised ``MetricsBatch`` without number and time."""
    batch = telemetry_pb2.MetricsBatch()
    for family in take_snapshot(AgentMetrics().registry):
        message = batch.families.add(name=family.name, type=family.type, help=family.help)
        for sample in family.samples:
            message.samples.add(name=sample.name, labels=sample.labels, value=sample.value)
    return batch.SerializeToString()
