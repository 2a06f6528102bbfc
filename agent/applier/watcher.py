"""One watch per kind over the whole cluster; hands every event on and knows whether the API server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from agent.applier import fence
from agent.kube.errors import KUBE_UNAVAILABLE
from agent.kube.interfaces import KubeApi, WatchEvent, WatchType
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

CONDITION: Final = "api-server"
MANAGED: Final = "app.kubernetes.io/managed-by=cellward"


@dataclass(frozen=True, slots=True)
class Watched:
    """One kind and which of its objects."""

    api_version: str
    kind: str
    selector: str = MANAGED


#: NetworkPolicies are watched whole: one of somebody else in a cell would widen it and carries no label of ours.
KINDS: Final = (
    Watched("v1", "Namespace"),
    Watched("networking.k8s.io/v1", "NetworkPolicy", ""),
    Watched("rbac.authorization.k8s.io/v1", "RoleBinding"),
    Watched("v1", "ServiceAccount"),
    Watched("v1", "ConfigMap"),
    Watched("v1", "PersistentVolumeClaim"),
    Watched("v1", "Service"),
    Watched("apps/v1", "Deployment"),
    Watched("apps/v1", "StatefulSet"),
    Watched("apps/v1", "DaemonSet"),
    Watched("batch/v1", "Job"),
    Watched("batch/v1", "CronJob"),
    Watched("autoscaling/v2", "HorizontalPodAutoscaler"),
    Watched("policy/v1", "PodDisruptionBudget"),
    *(Watched(fence.API_VERSION, kind, "") for kind in fence.KINDS),
)

OnEvent = Callable[[Watched, WatchEvent], Awaitable[None]]


class ClusterWatch:
    """All watches; ``run`` ends only by cancellation.

    Args:
        kube: the cluster.
        health: gets the condition ``api-server``.
        on_event: awaited with every event.
        on_synced: called whenever the last waiting watch has come through.
    """

    def __init__(
        self, kube: KubeApi, health: HealthRegistry, on_event: OnEvent, on_synced: Callable[[], None] = lambda: None
    ) -> None:
        self._kube = kube
        self._health = health
        self._on_event = on_event
        self._on_synced = on_synced
        #: Kinds that are not watched now: the code and the reason of each.
        self._waiting = {watched.kind: (KUBE_UNAVAILABLE.code, "not connected yet") for watched in KINDS}
        self._spells = 0

    @property
    def synced(self) -> bool:
        """Whether every kind was listed and is being watched."""
        return not self._waiting

    @property
    def spell(self) -> int:
        """Number of the unbroken spell in which every kind is in view; 0 while one is not."""
        return 0 if self._waiting else self._spells

    async def run(self) -> None:
        """Watch every kind."""
        self._tell()
        async with asyncio.TaskGroup() as group:
            for watched in KINDS:
                group.create_task(self._watch(watched), name=f"watch-{watched.kind}")

    async def _watch(self, watched: Watched) -> None:
        async for event in self._kube.watch(watched.api_version, watched.kind, label_selector=watched.selector):
            if event.type is WatchType.INTERRUPTED:
                self._waiting[watched.kind] = (event.code or KUBE_UNAVAILABLE.code, event.reason)
                self._tell()
                continue
            if event.type in {WatchType.SYNCED, WatchType.RESUMED} and watched.kind in self._waiting:
                del self._waiting[watched.kind]
                self._tell()
                if not self._waiting:
                    self._spells += 1
                    self._on_synced()
            try:
                await self._on_event(watched, event)
            except Exception:  # noqa: BLE001 - V16: an object nobody foresaw must not end the watch
                _log.exception("watch-event-failed", kind=watched.kind)

    def _tell(self) -> None:
        kind, (code, reason) = next(iter(self._waiting.items()), ("", ("", "")))
        message = f"{len(self._waiting)} of {len(KINDS)} watches wait; {kind}: {reason}" if kind else ""
        self._health.set(CONDITION, ok=not kind, code=code, message=message)
