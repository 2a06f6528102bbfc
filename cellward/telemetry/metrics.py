"""Every metric of the agent, once: name, type, help, labels. Code and the reference page take them from here.

Rules: counters are named without ``_total`` here (exposition adds it); units are base units in the name; a label has
few values and is always present. ``cluster`` is never a label here: the hub sets it from the peer certificate (V3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family; ``buckets`` only for histograms, in the metric's unit."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

AGENT_INFO = Metric("cellward_agent_build_info", "gauge", "Version of the agent; always 1.", ("version", "opa_version"))
AGENT_CONDITION = Metric("cellward_agent_condition", "gauge", "1 when a condition is good, else 0.", ("condition",))
AGENT_LINK_CONNECTED = Metric("cellward_agent_link_connected", "gauge", "1 while the hub has welcomed the link.")
AGENT_LINK_SESSIONS = Metric(
    "cellward_agent_link_sessions", "counter", "Sessions with the hub by outcome.", ("outcome",)
)
AGENT_CERTIFICATE_EXPIRY = Metric(
    "cellward_agent_certificate_expiry_timestamp_seconds", "gauge", "When the agent's TLS certificate expires."
)
AGENT_SPOOL_RECORDS = Metric("cellward_agent_spool_records", "gauge", "Audit records waiting for the hub.")
AGENT_AUDIT_RECORDS = Metric("cellward_agent_audit_records", "counter", "Audit records by outcome.", ("outcome",))
AGENT_DECISIONS = Metric("cellward_agent_decisions", "counter", "Policy decisions by result.", ("result",))
AGENT_DECISION_SECONDS = Metric(
    "cellward_agent_decision_seconds", "histogram", "Duration of a policy decision.", (), _LATENCY
)
AGENT_POLICY_VERSION = Metric("cellward_agent_policy_version", "gauge", "Version of verified metadata.", ("role",))
AGENT_POLICY_EXPIRY = Metric(
    "cellward_agent_policy_expiry_timestamp_seconds", "gauge", "When the verified snapshot expires; 0 without one."
)
AGENT_CELLS = Metric("cellward_agent_cells", "gauge", "Cells by phase.", ("phase",))
AGENT_CELL_READY = Metric(
    "cellward_agent_cell_ready", "gauge", "1 when a cell is ready, else 0.", ("project", "cell", "environment")
)
AGENT_CELL_OBJECTS = Metric(
    "cellward_agent_cell_objects", "gauge", "Objects of a cell by state.", ("project", "cell", "environment", "state")
)
AGENT_APPLY_SECONDS = Metric(
    "cellward_agent_apply_seconds", "histogram", "Duration of applying a whole cell.", (), _SLOW
)
AGENT_DRIFT_REPAIRS = Metric(
    "cellward_agent_drift_repairs", "counter", "Repairs of drift.", ("project", "cell", "environment", "kind")
)
AGENT_DRIFT_SECONDS = Metric(
    "cellward_agent_drift_repair_seconds", "histogram", "From the watch event to the repair.", (), _LATENCY
)
AGENT_DRIFT_FAILURES = Metric(
    "cellward_agent_drift_repair_failures", "counter", "Repairs of drift that failed.",
    ("project", "cell", "environment", "kind"),
)  # fmt: skip
AGENT_DRIFT_UNREPAIRED = Metric(
    "cellward_agent_drift_unrepaired", "gauge", "Objects of a cell whose repair failed twice or more.",
    ("project", "cell", "environment"),
)  # fmt: skip
AGENT_ISOLATION = Metric(
    "cellward_agent_isolation", "gauge", "1 for the measured state of a cell's isolation.",
    ("project", "cell", "environment", "state"),
)  # fmt: skip
AGENT_ISOLATION_EDGES = Metric(
    "cellward_agent_isolation_edges", "gauge", "Edges of a cell that were tried, by what is meant and measured.",
    ("project", "cell", "environment", "expected", "measured"),
)  # fmt: skip
AGENT_ISOLATION_PROBED = Metric(
    "cellward_agent_isolation_probe_timestamp_seconds", "gauge", "When a cell's isolation was measured last.",
    ("project", "cell", "environment"),
)  # fmt: skip
AGENT_EGRESS_LAG = Metric(
    "cellward_agent_egress_lag_seconds", "gauge", "How long a new pod of a cell reached what is forbidden to it.",
    ("project", "cell", "environment"),
)  # fmt: skip
_CELL = ("project", "cell", "environment")
AGENT_CELL_PODS = Metric("cellward_agent_cell_pods", "gauge", "Pods of a cell that did not end.", _CELL)
AGENT_CELL_CPU = Metric("cellward_agent_cell_cpu_usage_cores", "gauge", "CPU that a cell's pods use.", _CELL)
AGENT_CELL_MEMORY = Metric("cellward_agent_cell_memory_usage_bytes", "gauge", "Memory that a cell's pods use.", _CELL)
AGENT_CELL_MEASURED = Metric(
    "cellward_agent_cell_usage_timestamp_seconds", "gauge", "When the oldest of a cell's usage was measured.", _CELL
)
AGENT_CELL_CPU_REQUESTS = Metric(
    "cellward_agent_cell_cpu_requests_cores", "gauge", "CPU that a cell's pods ask for.", _CELL
)
AGENT_CELL_MEMORY_REQUESTS = Metric(
    "cellward_agent_cell_memory_requests_bytes", "gauge", "Memory that a cell's pods ask for.", _CELL
)
AGENT_CELL_CPU_LIMITS = Metric(
    "cellward_agent_cell_cpu_limits_cores", "gauge", "CPU limit of a cell's pods; absent if one has none.", _CELL
)
AGENT_CELL_MEMORY_LIMITS = Metric(
    "cellward_agent_cell_memory_limits_bytes", "gauge", "Memory limit of a cell's pods; absent if one has none.", _CELL
)
AGENT_SCRAPE_PODS = Metric(
    "cellward_agent_scrape_pods", "gauge", "Pods whose own metrics were to be read, by result.",
    (*_CELL, "component", "result"),
)  # fmt: skip
AGENT_SCRAPE_SERIES = Metric("cellward_agent_scrape_series", "gauge", "Series of its own a cell has here.", _CELL)
AGENT_SCRAPE_CUT = Metric(
    "cellward_agent_scrape_cut_series", "gauge", "Series of its own that were left out for the bounds.", _CELL
)
AGENT_SCRAPE_UNREADABLE = Metric(
    "cellward_agent_scrape_unreadable_lines", "gauge", "Lines of its own metrics that mean nothing, or come twice.",
    _CELL,
)  # fmt: skip

#: All metrics of the agent, in the order of the reference page.
AGENT_METRICS: tuple[Metric, ...] = (
    AGENT_INFO,
    AGENT_CONDITION,
    AGENT_LINK_CONNECTED,
    AGENT_LINK_SESSIONS,
    AGENT_CERTIFICATE_EXPIRY,
    AGENT_SPOOL_RECORDS,
    AGENT_AUDIT_RECORDS,
    AGENT_DECISIONS,
    AGENT_DECISION_SECONDS,
    AGENT_POLICY_VERSION,
    AGENT_POLICY_EXPIRY,
    AGENT_CELLS,
    AGENT_CELL_READY,
    AGENT_CELL_OBJECTS,
    AGENT_APPLY_SECONDS,
    AGENT_DRIFT_REPAIRS,
    AGENT_DRIFT_SECONDS,
    AGENT_DRIFT_FAILURES,
    AGENT_DRIFT_UNREPAIRED,
    AGENT_ISOLATION,
    AGENT_ISOLATION_EDGES,
    AGENT_ISOLATION_PROBED,
    AGENT_EGRESS_LAG,
    AGENT_CELL_PODS,
    AGENT_CELL_CPU,
    AGENT_CELL_MEMORY,
    AGENT_CELL_MEASURED,
    AGENT_CELL_CPU_REQUESTS,
    AGENT_CELL_MEMORY_REQUESTS,
    AGENT_CELL_CPU_LIMITS,
    AGENT_CELL_MEMORY_LIMITS,
    AGENT_SCRAPE_PODS,
    AGENT_SCRAPE_SERIES,
    AGENT_SCRAPE_CUT,
    AGENT_SCRAPE_UNREADABLE,
)
