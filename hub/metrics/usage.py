"""What cells use, out of the newest snapshots of agents; what an agent does not say any more is unknown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cellward.api.usage import CellUsage
from cellward.telemetry import metrics as names
from hub.metrics.service import CLUSTER_LABEL, FleetMetrics

#: Cluster, project, cell and environment.
UsageKey = tuple[str, str, str, str]
#: Age from which usage is said to be old.
OLD: Final = timedelta(minutes=5)
#: More than any cluster has: what is above says nothing.
_MOST: Final = 1e18
_FIELDS: Final = {
    names.AGENT_CELL_PODS.name: "pods",
    names.AGENT_CELL_CPU.name: "cpu_cores",
    names.AGENT_CELL_MEMORY.name: "memory_bytes",
    names.AGENT_CELL_CPU_REQUESTS.name: "cpu_requests_cores",
    names.AGENT_CELL_MEMORY_REQUESTS.name: "memory_requests_bytes",
    names.AGENT_CELL_CPU_LIMITS.name: "cpu_limits_cores",
    names.AGENT_CELL_MEMORY_LIMITS.name: "memory_limits_bytes",
    names.AGENT_CELL_MEASURED.name: "measured_at",
}
_NAMES: Final = frozenset(_FIELDS)


def usage_of(fleet: FleetMetrics, wanted: frozenset[UsageKey], now: datetime) -> dict[UsageKey, CellUsage]:
    """Return what is known of some cells.

    Only a cluster's own agent speaks of its cells (V3); a number that cannot be is taken as none.
    """
    found: dict[UsageKey, dict[str, Any]] = defaultdict(dict)
    for cluster, name, labels, value in fleet.gauges(_NAMES):
        key = (cluster, *(labels.get(label, "") for label in names.AGENT_CELL_PODS.labels))
        if key in wanted and len(labels) == len(names.AGENT_CELL_PODS.labels) and 0 <= value < _MOST:
            found[key][_FIELDS[name]] = value
    return {key: _usage(key, fields, now) for key, fields in found.items()}


def unknown_usage(key: UsageKey) -> CellUsage:
    """Return the answer about a cell of which nobody says anything."""
    return CellUsage.model_validate(_place(key))


def _place(key: UsageKey) -> dict[str, str]:
    return dict(zip((CLUSTER_LABEL, *names.AGENT_CELL_PODS.labels), key, strict=True))


def _usage(key: UsageKey, fields: Mapping[str, Any], now: datetime) -> CellUsage:
    said = dict(fields)
    measured = _moment(said.pop("measured_at", math.nan))
    if "pods" in said:
        said["pods"] = int(said["pods"])
    known = measured is not None and {"cpu_cores", "memory_bytes"} <= set(said)
    state = "unknown" if measured is None or not known else "old" if now - measured > OLD else "current"
    if not known:
        # Half of it, or without its time, would be read as all of it now.
        measured, used = None, {"cpu_cores", "memory_bytes"}
        said = {name: value for name, value in said.items() if name not in used}
    return CellUsage.model_validate({**_place(key), **said, "state": state, "measured_at": measured})


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
