"""In which order objects are applied and removed; pure.

Applied: what others refer to comes first. Removed: workloads first, so that nothing runs without its isolation, its
configuration or its address; policies last of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.kube.interfaces import JSONObject
from agent.objects.model import OwnedObject, Role

_APPLY: Final = (
    ("Namespace",),
    ("NetworkPolicy",),
    ("ServiceAccount", "RoleBinding", "ConfigMap", "Secret"),
    ("PersistentVolumeClaim",),
    ("Service",),
    ("PodDisruptionBudget",),
    ("StatefulSet",),
    ("Deployment", "DaemonSet"),
    ("HorizontalPodAutoscaler",),
    ("Job", "CronJob"),
)
_APPLY_RANK: Final = {kind: rank for rank, kinds in enumerate(_APPLY) for kind in kinds}
_LAST: Final = len(_APPLY)

#: Kinds that run pods.
WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"})
#: Kinds that hold data: never pruned, only ended by a tombstone that says so.
DATA: Final = frozenset({"PersistentVolumeClaim"})


def waves(objects: Iterable[JSONObject]) -> tuple[tuple[JSONObject, ...], ...]:
    """Group objects into waves; those of one wave do not need each other, their order is kept."""
    groups: dict[int, list[JSONObject]] = {}
    for obj in objects:
        groups.setdefault(apply_rank(obj["kind"]), []).append(obj)
    return tuple(tuple(groups[rank]) for rank in sorted(groups))


def removal(objects: Iterable[OwnedObject]) -> tuple[OwnedObject, ...]:
    """Order objects for removal."""
    return tuple(sorted(objects, key=lambda owned: (_removal_rank(owned), -apply_rank(owned.ref.kind), owned.ref)))


def apply_rank(kind: str) -> int:
    """Return the place of a kind in the order of applying."""
    return _APPLY_RANK.get(kind, _LAST)


def is_workload(owned: OwnedObject) -> bool:
    """Whether the object runs pods."""
    return owned.ref.kind in WORKLOADS


def _removal_rank(owned: OwnedObject) -> int:
    if owned.role is Role.NAMESPACE:
        return 5
    if owned.role is Role.ISOLATION:
        return 4
    if owned.role is Role.RIGHTS:
        return 3
    if owned.ref.kind == "HorizontalPodAutoscaler":
        return 0  # it would scale what is going
    if is_workload(owned):
        return 1
    return 2
