"""A snapshot of the registry as the link carries it.

Values only, no messages: gRPC and its types stay in ``agent/link``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

#: Samples in one snapshot at most; what is above is left out and counted.
MAX_SAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class SampleValue:
    """One sample with its full name."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """One family of samples."""

    name: str
    type: str
    help: str
    samples: tuple[SampleValue, ...]


@dataclass(frozen=True, slots=True)
class PodSeries:
    """What one pod of a cell said of itself; whose it is says the agent, beside the series."""

    project: str
    cell: str
    environment: str
    component: str
    pod: str
    series: tuple[SampleValue, ...]


def take_snapshot(registry: CollectorRegistry, *, limit: int = MAX_SAMPLES) -> tuple[Family, ...]:
    """Collect every family once, and no more than ``limit`` samples of all.

    ``_created`` samples are left out, they only double the number of series.
    """
    families: list[Family] = []
    room = limit
    for family in registry.collect():
        samples = [
            SampleValue(sample.name, dict(sample.labels), float(sample.value))
            for sample in family.samples
            if not sample.name.endswith("_created")
        ][:room]
        room -= len(samples)
        if samples:
            families.append(Family(family.name, family.type, family.documentation, tuple(samples)))
    return tuple(families)
