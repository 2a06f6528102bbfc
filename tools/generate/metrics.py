"""``metrics.md``: what agents push and what the hub measures about itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family

from cellward.runtime.clock import SystemClock
from cellward.telemetry import metrics
from cellward.telemetry.metrics import AGENT_METRICS, Metric
from hub.metrics.own import Facts, FactsCollector, HubMetrics
from hub.metrics.service import CLUSTER_LABEL, STALE_SECONDS, FleetMetrics
from tools.generate.page import Page, code, sources

#: Labels Prometheus' own exposition adds.
_EXPOSITION = {"le"}


def page(out: Path) -> None:
    """Write ``metrics.md``."""
    page = Page("Metrics", "cellward/telemetry/metrics.py and hub/metrics")
    page.text(
        "The hub serves the fleet at `/metrics` on `listen.metrics` ([settings](config-hub.md)). Counters end in "
        "`_total` there, histograms in `_bucket`, `_sum` and `_count`. Times and durations are seconds."
    )
    page.heading("Of agents")
    page.text(
        f"Every series carries `{CLUSTER_LABEL}` too; the hub sets it from the agent's certificate, so an agent cannot "
        f"write another's. A cluster that is silent for {STALE_SECONDS:.0f} seconds is no longer served. With "
        "`metrics_listen` ([settings](config-agent.md)) an agent also serves its own on loopback."
    )
    page.table(
        ("metric", "type", "labels", "meaning"),
        ((code(m.name), m.type, ", ".join(map(code, m.labels)), m.help) for m in AGENT_METRICS),
    )
    idle = ", ".join(code(metric.name) for metric in _idle())
    if idle:
        page.text(f"Declared, but filled in by nothing in this version: {idle}.")
    page.heading("Of the hub")
    page.table(("metric", "type", "labels", "meaning"), map(_row, _hub_families()))
    page.write(out, "metrics.md")


def _idle() -> list[Metric]:
    """Metrics whose constant the agent's code never names."""
    text = sources("agent")
    names = {id(value): name for name, value in vars(metrics).items() if isinstance(value, Metric)}
    return [metric for metric in AGENT_METRICS if not re.search(rf"\b{names[id(metric)]}\b", text)]


def _hub_families() -> Iterable[Family]:
    """Every family of the hub, each with one sample, so that its labels can be read."""
    registry = CollectorRegistry()
    own = HubMetrics(registry, version="")
    own.observe_rpc("", "")
    own.observe_request("", "", 0, 0.0)
    fleet = FleetMetrics(SystemClock())
    facts = Facts(connected_agents=0, clusters=0, desired_items=0, audit_size=0, certificates={"": 0.0})
    families = [*registry.collect(), *FactsCollector(lambda: facts).collect(), *fleet.collect()]
    return sorted(families, key=lambda family: family.name)


def _row(family: Family) -> tuple[str, str, str, str]:
    labels = sorted({label for sample in family.samples for label in sample.labels} - _EXPOSITION)
    if family.name.endswith("refused_samples"):
        labels = [CLUSTER_LABEL]
    return code(family.name), family.type, ", ".join(map(code, labels)), family.documentation
