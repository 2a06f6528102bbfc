"""Amounts of CPU and memory as Kubernetes writes them, summed over pods; pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

_QUANTITY: Final = re.compile(
    r"([0-9]{1,24}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)\Z"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_RESOURCES: Final = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class Asked:
    """Pods that did not end, and what they ask for: cores and bytes. A limit is None if a container has none."""

    pods: int
    names: frozenset[str]
    cpu_requests: float
    memory_requests: float
    cpu_limits: float | None
    memory_limits: float | None


@dataclass(frozen=True, slots=True)
class Used:
    """What pods use: cores, bytes, and when the oldest of it was measured, seconds since the epoch."""

    cpu: float
    memory: float
    measured: float


def quantity(text: object) -> float:
    """Return an amount like "250m", "1.5Gi" or "12e6"; raises ValueError for what is none."""
    found = _QUANTITY.match(str(text))
    if found is None:
        raise ValueError("not an amount")
    number, exponent, suffix = found.groups()
    if exponent is not None:
        return float(f"{number}e{exponent}")
    if suffix in _BINARY:
        return float(number) * 1024.0 ** (_BINARY.index(suffix) + 1)
    return float(f"{number}e{_DECIMAL[suffix or '']}")


def asked_by(pods: Iterable[Mapping[str, Any]]) -> Asked:
    """Sum what live pods ask for, as the scheduler counts it."""
    live = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in _ENDED]
    requests = {one: sum(_of_pod(pod, "requests", one) or 0.0 for pod in live) for one in _RESOURCES}
    limits: dict[str, float | None] = {}
    for one in _RESOURCES:
        each = [_of_pod(pod, "limits", one) for pod in live]
        known = [amount for amount in each if amount is not None]
        limits[one] = sum(known) if known and len(known) == len(each) else None
    named = frozenset(pod["metadata"]["name"] for pod in live)
    return Asked(len(live), named, requests["cpu"], requests["memory"], limits["cpu"], limits["memory"])


def used_by(measured: Iterable[Mapping[str, Any]], pods: Collection[str]) -> Used | None:
    """Sum what pods of these names use; None where none of them was measured."""
    mine = [one for one in measured if one["metadata"]["name"] in pods]
    if not mine:
        return None
    used = [container["usage"] for one in mine for container in one["containers"]]
    oldest = min(datetime.fromisoformat(one["timestamp"]) for one in mine)
    cpu, memory = (sum(quantity(one[resource]) for one in used) for resource in _RESOURCES)
    return Used(cpu, memory, oldest.timestamp())


def _of_pod(pod: Mapping[str, Any], what: str, resource: str) -> float | None:
    """What one pod asks for: what runs at once, or what its largest init container needs before; with overhead.

    Of requests a container without one asks for nothing; of limits one without makes the pod's unknown.
    """
    spec = pod["spec"]
    beside = 0.0  # Init containers that go on running count with all that start after them.
    largest = 0.0
    for container in spec.get("initContainers") or ():
        amount = _of_container(container, what, resource)
        if amount is None:
            return None
        if container.get("restartPolicy") == "Always":
            beside += amount
        largest = max(largest, beside + (0.0 if container.get("restartPolicy") == "Always" else amount))
    together = beside
    for container in spec["containers"]:
        amount = _of_container(container, what, resource)
        if amount is None:
            return None
        together += amount
    overhead = (spec.get("overhead") or {}).get(resource)
    return max(together, largest) + (quantity(overhead) if overhead is not None else 0.0)


def _of_container(container: Mapping[str, Any], what: str, resource: str) -> float | None:
    said = ((container.get("resources") or {}).get(what) or {}).get(resource)
    if said is None:
        return 0.0 if what == "requests" else None
    return quantity(said)
