"""What an agent measures and what the hub serves speak of the same names."""

from __future__ import annotations

from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import take_snapshot
from cellward.telemetry.metrics import AGENT_METRICS
from cellward.wire.v1 import telemetry_pb2
from hub.metrics.service import FleetMetrics
from tests.fakes.clock import ManualClock


async def test_everything_the_agent_measures_is_taken_by_the_hub() -> None:
    """No metric of the agent is refused by the hub's allow-list, and none is lost on the way."""
    measured = AgentMetrics()
    for metric in AGENT_METRICS:
        labels = dict.fromkeys(metric.labels, "x")
        if metric.type == "counter":
            measured.increment(metric, **labels)
        elif metric.type == "gauge":
            measured.set(metric, 1, **labels)
        else:
            measured.observe(metric, 1)
    snapshot = take_snapshot(measured.registry)
    batch = telemetry_pb2.MetricsBatch(seq=1)
    for family in snapshot:
        message = batch.families.add(name=family.name, type=family.type, help=family.help)
        for sample in family.samples:
            message.samples.add(name=sample.name, labels=sample.labels, value=sample.value)
    metrics = FleetMetrics(ManualClock())
    assert await metrics.push("eu-1", batch) == 0
    served = {family.name for family in metrics.collect()}
    assert {metric.name for metric in AGENT_METRICS} <= served
