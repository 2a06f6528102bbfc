"""Series of the cells' own programs, as one agent pushed them: checked, bounded, and labelled by the hub; pure.

An agent is believed what it says of its own cluster, and nothing about the page: no name of Cellward's own, no label
that is set here, no series twice, so that one cluster costs no other the reading of its own (V3, V16).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellward.telemetry.series import CLUSTER_SERIES, OWN_LABELS, is_name, own_labels

if TYPE_CHECKING:
    from cellward.wire.v1 import telemetry_pb2

#: Names of projects, cells, environments, components and pods (RFC 1123).
_PLACE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PodsSeries:
    """What is served of one cluster.

    Attributes:
        series: name and labels of each, without the cluster.
        values: of each.
        refused: how many were pushed and not taken.
    """

    series: tuple[tuple[str, _Labels], ...]
    values: array[float]
    refused: int


def checked(pods: Iterable[telemetry_pb2.PodSeries], limit: int = CLUSTER_SERIES) -> PodsSeries:
    """Keep what may be served, at most ``limit`` series."""
    kept: dict[tuple[str, _Labels], float] = {}
    pushed = 0
    for pod in pods:
        pushed += len(pod.series)
        whose = (
            ("project", pod.project), ("cell", pod.cell), ("environment", pod.environment),
            ("component", pod.component), ("pod", pod.pod),
        )  # fmt: skip
        if len(kept) >= limit or not all(_PLACE.match(value) for _, value in whose):
            continue
        for sample in pod.series:
            if len(kept) >= limit:
                break
            labels = _taken(sample)
            if labels is not None:
                kept.setdefault((sample.name, (*whose, *sorted(labels.items()))), sample.value)
    return PodsSeries(tuple(kept), array("d", kept.values()), pushed - len(kept))


def _taken(sample: telemetry_pb2.Sample) -> Mapping[str, str] | None:
    labels = dict(sample.labels)
    return own_labels(labels) if is_name(sample.name) and not OWN_LABELS & labels.keys() else None


def served(found: PodsSeries) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of each."""
    for (name, labels), value in zip(found.series, found.values, strict=True):
        yield name, dict(labels), value
