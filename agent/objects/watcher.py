"""One watch per kind over the whole cluster; hands every event on and knows whether the API server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from agent.kube.errors import KUBE_UNAVAILABLE
from agent.kube.interfaces import KubeApi, WatchEvent, WatchType
from agent.objects import fence
from cellward.runtime.clock import Clock
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
#: Namespaces too: any of them may say that it is a cell. Quotas, of which none is ours, for what they refused.
KINDS: Final = (
    Watched("v1", "Namespace", ""),
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
    Watched("v1", "ResourceQuota", ""),
    *(Watched(fence.API_VERSION, kind, "") for kind in fence.KINDS),
)

OnEvent = Callable[[Watched, WatchEvent], Awaitable[None]]


class ClusterWatch:
    """All watches; ``run`` ends only by cancellation.

    Args:
        kube: the cluster.
        health: gets the condition ``api-server``.
        clock: measures how long the cluster is in view.
        on_event: awaited with every event.
        on_synced: called whenever the last waiting watch has come through.
    """

    def __init__(
        self, kube: KubeApi, health: HealthRegistry, clock: Clock, on_event: OnEvent, on_synced: Callable[[], None]
    ) -> None:
        self._kube = kube
        self._health = health
        self._clock = clock
        self._on_event = on_event
        self._on_synced = on_synced
        #: Kinds that are not watched now: the code and the reason of each.
        self._waiting = {watched.kind: (KUBE_UNAVAILABLE.code, "not connected yet") for watched in KINDS}
        #: Seconds for which everything was in view until it was lost last, and since when it is in view again.
        self._viewed = 0.0
        self._since: float | None = None

    @property
    def synced(self) -> bool:
        """Whether every kind was listed and is being watched."""
        return not self._waiting

    def in_view(self) -> float | None:
        """Return for how many seconds every kind was in view since the start; None while one is not."""
        return None if self._since is None else self._viewed + self._clock.monotonic() - self._since

    async def run(self) -> None:
        """Watch every kind."""
        self._tell()
        async with asyncio.TaskGroup() as group:
            for watched in KINDS:
                group.create_task(self._watch(watched), name=f"watch-{watched.kind}")

    async def _watch(self, watched: Watched) -> None:
        async for event in self._kube.watch(watched.api_version, watched.kind, label_selector=watched.selector):
            if event.type is WatchType.INTERRUPTED:
                self._viewed, self._since = self.in_view() or self._viewed, None
                self._waiting[watched.kind] = (event.code or KUBE_UNAVAILABLE.code, event.reason)
                self._tell()
                continue
            if event.type in {WatchType.SYNCED, WatchType.RESUMED} and watched.kind in self._waiting:
                del self._waiting[watched.kind]
                self._tell()
                if not self._waiting:
                    self._since = self._clock.monotonic()
                    self._on_synced()
            try:
                await self._on_event(watched, event)
            except Exception:  # noqa: BLE001 - V16: an object nobody foresaw must not end the watch
                _log.exception("watch-event-failed", kind=watched.kind)

    def _tell(self) -> None:
        kind, (code, reason) = next(iter(self._waiting.items()), ("", ("", "")))
        message = f"{len(self._waiting)} of {len(KINDS)} watches wait; {kind}: {reason}" if kind else ""
        self._health.set(CONDITION, ok=not kind, code=code, message=message)
