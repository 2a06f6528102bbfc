"""What agents measured: newest snapshot per cluster, bounded, with the ``cluster`` label that only the hub sets.

Snapshots are transient by nature and live in memory; a restart of the hub loses at most one push interval. What is
refused is counted, answered to the agent, and never takes the rest of its snapshot along (V16).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cellward.runtime.clock import Clock

if TYPE_CHECKING:
    from cellward.wire.v1 import telemetry_pb2

#: Names agents may push; everything else is refused.
ALLOWED_PREFIX = "cellward_"
#: Names that only the hub itself may use.
RESERVED_PREFIX = "cellward_hub_"
#: Label that comes from the certificate (V3).
CLUSTER_LABEL = "cluster"
#: Most series kept for one cluster, families of one snapshot, labels of one sample, characters of a value.
DEFAULT_SERIES, MAX_FAMILIES, MAX_LABELS, MAX_LABEL_VALUE, MAX_HELP = 20_000, 512, 16, 256, 512
#: Seconds after which a silent cluster's snapshot is no longer served.
STALE_SECONDS = 300.0

_NAME = re.compile(r"[a-z][a-z0-9_]{0,199}\Z")
_TYPES = frozenset({"counter", "gauge", "histogram"})
_SUFFIXES = {"counter": ("_total", "_created"), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count", "_created")}


@dataclass(frozen=True, slots=True)
class Series:
    """One sample as it will be served."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """A family of one cluster."""

    type: str
    help: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest snapshot of a cluster; ``taken`` is the hub's monotonic clock in seconds."""

    taken: float
    families: Mapping[str, Family]


class FleetMetrics(Collector):
    """Takes snapshots of agents (``MetricsPort``) and serves them as a Prometheus collector."""

    def __init__(self, clock: Clock, *, series_limit: int = DEFAULT_SERIES) -> None:
        self._clock = clock
        self._limit = series_limit
        self._snapshots: dict[str, Snapshot] = {}
        self._refused: dict[str, int] = {}

    async def push(self, cluster: str, batch: telemetry_pb2.MetricsBatch) -> int:
        """Take a snapshot of a cluster, named by its certificate; returns how many samples were refused."""
        families: dict[str, Family] = {}
        room, refused = self._limit, 0
        for position, message in enumerate(batch.families):
            name = family_name(message.name, message.type)
            if position >= MAX_FAMILIES or name is None or name in families:
                refused += len(message.samples)
                continue
            accepted = [sample for sample in message.samples if _acceptable(name, message.type, sample)]
            kept = tuple(Series(s.name, dict(s.labels), s.value) for s in accepted[:room])
            refused += len(message.samples) - len(kept)
            room -= len(kept)
            families[name] = Family(message.type, message.help[:MAX_HELP], kept)
        self._snapshots[cluster] = Snapshot(self._clock.monotonic(), families)
        self._refused[cluster] = self._refused.get(cluster, 0) + refused
        return refused

    def forget(self, cluster: str) -> None:
        """Drop what a cluster pushed; for one that was removed."""
        self._snapshots.pop(cluster, None)
        self._refused.pop(cluster, None)

    def series_count(self) -> int:
        """How many series of agents are served now."""
        return sum(len(family.series) for _, snapshot in self._fresh() for family in snapshot.families.values())

    def collect(self) -> Iterator[Metric]:
        """Yield one family per name over all clusters; a cluster that disagrees on the type is left out of it."""
        merged: dict[str, Metric] = {}
        for cluster, snapshot in self._fresh():
            for name, family in snapshot.families.items():
                metric = merged.get(name)
                if metric is None:
                    metric = merged[name] = Metric(name, family.help, family.type)
                if metric.type != family.type:
                    continue
                for series in family.series:
                    metric.add_sample(series.name, {CLUSTER_LABEL: cluster, **series.labels}, series.value)
        yield from merged.values()
        yield self._own()

    def _fresh(self) -> Iterator[tuple[str, Snapshot]]:
        oldest = self._clock.monotonic() - STALE_SECONDS
        for cluster in sorted(self._snapshots):
            snapshot = self._snapshots[cluster]
            if snapshot.taken >= oldest:
                yield cluster, snapshot

    def _own(self) -> Metric:
        name = RESERVED_PREFIX + "refused_samples"
        metric = Metric(name, "Samples of agents that were refused (name, labels or cardinality).", "counter")
        for cluster in sorted(self._refused):
            metric.add_sample(name + "_total", {CLUSTER_LABEL: cluster}, float(self._refused[cluster]))
        return metric


def family_name(name: str, kind: str) -> str | None:
    """Return the family's name without a counter's suffix, or None when it is not allowed."""
    if kind not in _TYPES or not _NAME.match(name) or not name.startswith(ALLOWED_PREFIX):
        return None
    if name.startswith(RESERVED_PREFIX):
        return None
    return name.removesuffix("_total") if kind == "counter" else name


def _acceptable(family: str, kind: str, sample: telemetry_pb2.Sample) -> bool:
    labels = cast("Mapping[str, str]", sample.labels)
    if sample.name not in {family + suffix for suffix in _SUFFIXES[kind]}:
        return False
    if CLUSTER_LABEL in labels or len(labels) > MAX_LABELS:
        return False
    if kind != "gauge" and math.isnan(sample.value):
        return False
    return all(
        _NAME.match(label) and not label.startswith("__") and len(value) <= MAX_LABEL_VALUE
        for label, value in labels.items()
    )
