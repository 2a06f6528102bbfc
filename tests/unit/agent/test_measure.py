"""What the agent measures of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from agent.link.channels import ChannelHolder
from agent.measure import Gauges
from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import take_snapshot
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.version import VERSION


def test_the_build_names_the_agent_and_its_engine() -> None:
    """The label of the engine's version was always empty."""
    clock = SystemClock()
    parts: Any = SimpleNamespace(written=0, lost=0, current=None)
    gauges = Gauges(AgentMetrics(), HealthRegistry(clock), parts, parts, parts, ChannelHolder(), clock)
    gauges.opa_version = "1.22.0"
    families = {family.name: family for family in take_snapshot(gauges.refreshed())}
    (build,) = families["cellward_agent_build_info"].samples
    assert build.labels == {"version": VERSION, "opa_version": "1.22.0"}
