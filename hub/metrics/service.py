"""What agents measured: newest snapshot per cluster, bounded, with the ``cluster`` label that only the hub sets.

Snapshots are transient by nature and live in memory; a restart of the hub loses at most one push interval. What is
refused is counted, answered to the agent, and never takes the rest of its snapshot along (V16).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cellward.runtime.clock import Clock
from cellward.telemetry.metrics import AGENT_METRICS
from hub.metrics.pods import PodsSeries, checked, served

if TYPE_CHECKING:
    from cellward.wire.v1 import telemetry_pb2

#: Families agents may push, with the type and help they are served under; what an agent says of them is compared only.
#: So no cluster's snapshot says anything about another's series, and nobody writes under the hub's own names.
ALLOWED = {metric.name: metric for metric in AGENT_METRICS}
#: Names that only the hub itself uses.
RESERVED_PREFIX = "cellward_hub_"
#: Label that comes from the certificate (V3).
CLUSTER_LABEL = "cluster"
#: Most series kept for one cluster, families of one snapshot, labels of one sample, characters of a value.
DEFAULT_SERIES, MAX_FAMILIES, MAX_LABELS, MAX_LABEL_VALUE, MAX_HELP = 20_000, 512, 16, 256, 512
#: Seconds after which a silent cluster's snapshot is no longer served.
STALE_SECONDS = 300.0
#: Largest snapshot that is checked on the event loop, bytes: a fraction of a millisecond.
SMALL_BYTES = 8 * 1024

_NAME = re.compile(r"[a-z][a-z0-9_]{0,199}\Z")
_SUFFIXES = {"counter": ("_total", "_created"), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count", "_created")}


_OF_A_CELL = "Of a program of cells, as it says itself; its type is not kept."

#: What a snapshot says apart from its values: per family name, type, help, how many samples were pushed and, of as many
#: of them as may be kept, name and labels.
_Key = tuple[tuple[str, str, str, int, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]], ...]
#: Stands for more labels than a sample may have.
_TOO_MANY = (("", ""),) * (MAX_LABELS + 1)


@dataclass(frozen=True, slots=True)
class Family:
    """A family as it will be served: each series by its name and labels."""

    name: str
    type: str
    help: str
    series: tuple[tuple[str, Mapping[str, str]], ...]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Shape:
    """What a snapshot consists of apart from its values; clusters that push the same series share one.

    Attributes:
        families: accepted ones, with their accepted series.
        positions: of the accepted series among all samples pushed.
        refused: how many samples were not accepted.
    """

    families: tuple[Family, ...]
    positions: tuple[int, ...]
    refused: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest snapshot of a cluster.

    Attributes:
        taken: the hub's monotonic clock, seconds.
        skeleton: digest of all of it but values, number and time: who pushes the same again is not looked at again.
        values: one per accepted series of the shape, in order.
        absurd: how many of them are not served because only a gauge may be not a number.
        pods: what pods of cells say of themselves.
    """

    taken: float
    shape: Shape
    skeleton: bytes
    values: array[float]
    absurd: int
    pods: PodsSeries

    @property
    def refused(self) -> int:
        """How many samples were pushed and are not served."""
        return self.shape.refused + self.absurd + self.pods.refused


class FleetMetrics(Collector):
    """Takes snapshots of agents (``MetricsPort``) and serves them as a Prometheus collector.

    A fleet pushes the same series again and again, so names and labels are checked and kept once per shape, and a
    snapshot is little more than its values.
    """

    def __init__(self, clock: Clock, *, series_limit: int = DEFAULT_SERIES) -> None:
        self._clock = clock
        self._limit = series_limit
        self._shapes: WeakValueDictionary[_Key, Shape] = WeakValueDictionary()
        self._snapshots: dict[str, Snapshot] = {}
        self._refused: dict[str, int] = {}
        # One for all: whatever agents push, checking it takes one thread, and of the event loop a moment.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="fleet-metrics")

    async def push(self, cluster: str, batch: telemetry_pb2.MetricsBatch) -> int:
        """Take a snapshot of a cluster, named by its certificate; returns how many samples were refused."""
        taken = self._clock.monotonic()
        last = self._snapshots.get(cluster)
        if batch.ByteSize() <= SMALL_BYTES:
            # What an agent mostly pushes: to hand it to a thread and back costs as much again.
            snapshot = self._check(batch, taken, last)
        else:
            loop = asyncio.get_running_loop()
            snapshot = await loop.run_in_executor(self._checker, self._check, batch, taken, last)
        self._snapshots[cluster] = snapshot
        self._refused[cluster] = self._refused.get(cluster, 0) + snapshot.refused
        return snapshot.refused

    def _check(self, batch: telemetry_pb2.MetricsBatch, taken: float, last: Snapshot | None) -> Snapshot:
        skeleton = _skeleton_of(batch)
        shape = last.shape if last is not None and last.skeleton == skeleton else self._shape_of(batch)
        pushed = [sample.value for family in batch.families for sample in family.samples]
        values = array("d", (pushed[position] for position in shape.positions))
        absurd = _absurd(shape, values) if any(map(math.isnan, values)) else 0
        return Snapshot(taken, shape, skeleton, values, absurd, checked(batch.pods))

    def _shape_of(self, batch: telemetry_pb2.MetricsBatch) -> Shape:
        key = _key_of(batch, self._limit)
        shape = self._shapes.get(key)
        if shape is None:
            shape = _checked(key, self._limit)
            if not shape.refused:
                # Only then: what is refused must not stay in memory as part of a key.
                self._shapes[key] = shape
        return shape

    def series_count(self) -> int:
        """How many series of agents are served now."""
        fresh = (snapshot for _, snapshot in self._fresh())
        return sum(len(one.values) - one.absurd + len(one.pods.values) for one in fresh)

    def gauges(self, names: frozenset[str]) -> Iterator[tuple[str, str, Mapping[str, str], float]]:
        """Yield cluster, name, labels and value of every series of some gauges that is served now."""
        for cluster, snapshot in self._fresh():
            for family, values in _by_family(snapshot.shape, snapshot.values):
                if family.name in names:
                    for (name, labels), value in zip(family.series, values, strict=True):
                        yield cluster, name, labels, value

    def collect(self) -> Iterator[Metric]:
        """Yield one family per name over all clusters."""
        merged: dict[str, Metric] = {}
        for cluster, snapshot in self._fresh():
            for family, values in _by_family(snapshot.shape, snapshot.values):
                metric = merged.get(family.name)
                if metric is None:
                    metric = merged[family.name] = Metric(family.name, family.help, family.type)
                for (name, labels), value in zip(family.series, values, strict=True):
                    if family.type == "gauge" or not math.isnan(value):
                        metric.add_sample(name, {CLUSTER_LABEL: cluster, **labels}, value)
            for name, labels, value in served(snapshot.pods):
                metric = merged.get(name)
                if metric is None:
                    metric = merged[name] = Metric(name, _OF_A_CELL, "untyped")
                metric.add_sample(name, {CLUSTER_LABEL: cluster, **labels}, value)
        yield from merged.values()
        yield self._own()

    def _fresh(self) -> Iterator[tuple[str, Snapshot]]:
        oldest = self._clock.monotonic() - STALE_SECONDS
        for cluster in sorted(self._snapshots):
            snapshot = self._snapshots[cluster]
            if snapshot.taken >= oldest:
                yield cluster, snapshot
            else:
                # An agent that comes back brings all of it again.
                del self._snapshots[cluster]

    def _own(self) -> Metric:
        name = RESERVED_PREFIX + "refused_samples"
        metric = Metric(name, "Samples of agents that were refused (name, labels or cardinality).", "counter")
        for cluster in sorted(self._refused):
            metric.add_sample(name + "_total", {CLUSTER_LABEL: cluster}, float(self._refused[cluster]))
        return metric


def family_name(name: str, kind: str) -> str | None:
    """Return the family's name without a counter's suffix, or None when it is not one of the allowed, of that type."""
    known = ALLOWED.get(name.removesuffix("_total") if kind == "counter" else name)
    return known.name if known is not None and known.type == kind else None


def _skeleton_of(batch: telemetry_pb2.MetricsBatch) -> bytes:
    """Return a digest of the families without their values; protobuf does most of it, out of Python."""
    bare = type(batch)(families=batch.families)
    for family in bare.families:
        for sample in family.samples:
            sample.value = 0.0
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


def _key_of(batch: telemetry_pb2.MetricsBatch, limit: int) -> _Key:
    """Read what may be kept and no more: of the first ``limit`` samples in families that are allowed."""
    key = []
    for place, family in enumerate(batch.families):
        count, wanted = len(family.samples), 0
        if place < MAX_FAMILIES and family_name(family.name, family.type) is not None:
            wanted = min(count, limit)
            limit -= wanted
        samples = tuple((sample.name, _labels_of(sample)) for sample in islice(family.samples, wanted))
        key.append((family.name, family.type, family.help[:MAX_HELP], count, samples))
    return tuple(key)


def _labels_of(sample: telemetry_pb2.Sample) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(sample.labels.items())) if len(sample.labels) <= MAX_LABELS else _TOO_MANY


def _by_family(shape: Shape, values: array[float]) -> Iterator[tuple[Family, array[float]]]:
    """Yield each family with its part of the values."""
    start = 0
    for family in shape.families:
        yield family, values[start : start + len(family.series)]
        start += len(family.series)


def _absurd(shape: Shape, values: array[float]) -> int:
    """Count what is not a number where that means nothing."""
    parts = ((family, part) for family, part in _by_family(shape, values) if family.type != "gauge")
    return sum(math.isnan(value) for _, part in parts for value in part)


def _checked(key: _Key, limit: int) -> Shape:
    """Keep what is allowed, at most ``limit`` series."""
    families: dict[str, Family] = {}
    positions: list[int] = []
    seen = 0
    for place, (pushed, kind, _, count, samples) in enumerate(key):
        name = family_name(pushed, kind)
        if place < MAX_FAMILIES and name is not None and name not in families:
            # The first of several that are one series: two would cost everybody the whole scrape.
            first = {sample: index for index, sample in reversed(list(enumerate(samples)))}
            good = [index for sample, index in first.items() if _acceptable(name, kind, *sample)]
            good = sorted(good)[: limit - len(positions)]
            series = tuple((samples[index][0], dict(samples[index][1])) for index in good)
            families[name] = Family(name, kind, ALLOWED[name].help, series)
            positions += (seen + index for index in good)
        seen += count
    return Shape(tuple(families.values()), tuple(positions), seen - len(positions))


def _acceptable(family: str, kind: str, name: str, labels: tuple[tuple[str, str], ...]) -> bool:
    if name not in {family + suffix for suffix in _SUFFIXES[kind]}:
        return False
    if len(labels) > MAX_LABELS or not _has_bound(name, labels):
        return False
    return all(
        _NAME.match(label) and label != CLUSTER_LABEL and not label.startswith("__") and len(value) <= MAX_LABEL_VALUE
        for label, value in labels
    )


def _has_bound(name: str, labels: tuple[tuple[str, str], ...]) -> bool:
    """Whether a bucket has a bound that is a number, and nothing else has one."""
    bounds = [value for label, value in labels if label == "le"]
    if not name.endswith("_bucket"):
        return not bounds
    try:
        return len(bounds) == 1 and not math.isnan(float(bounds[0]))
    except ValueError:
        return False
