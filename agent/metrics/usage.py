"""What cells use and what they ask for: read from the metrics API and from live pods, into the agent's gauges.

Each cell's own account reads, in its namespace alone (V12); no right on nodes or kubelets is needed. Where no server
answers for ``metrics.k8s.io`` usage is unknown: its series are absent, those of requests are there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agent.kube.interfaces import KubeApi
from agent.metrics.amounts import Asked, Used, asked_by, used_by
from agent.metrics.registry import AgentMetrics
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.telemetry import metrics as names

_log = structlog.get_logger()

#: Pods of a cell, as the agent makes them.
_MANAGED: Final = "app.kubernetes.io/managed-by=cellward"
_USAGE: Final = ("metrics.k8s.io/v1beta1", "PodMetrics")
#: Least seconds between two cells: whatever their number, they are few requests a second.
_PACE: Final = 0.1
#: Intervals, or whole rounds, after which what was read last counts no more.
_OLD: Final = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one cell; ``at`` is monotonic seconds."""

    asked: Asked
    used: Used | None
    at: float


class UsageReader:
    """Root task that reads one cell after the other, spread over the interval with jitter.

    Args:
        kube: the cluster.
        cells: returns every cell whose namespace was accepted, with that namespace.
        user_of: returns the user name of a cell's account, by its namespace.
        metrics: where it is shown.
        timer: time.
        interval: seconds for one round.
    """

    def __init__(
        self,
        kube: KubeApi,
        cells: Callable[[], Mapping[CellKey, str]],
        user_of: Callable[[str], str],
        metrics: AgentMetrics,
        timer: Timer,
        interval: float,
    ) -> None:
        self._kube, self._cells, self._user_of = kube, cells, user_of
        self._metrics, self._timer, self._interval = metrics, timer, interval
        self._read: dict[CellKey, Reading] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            cells = self._cells()
            pace = max(_PACE, self._interval / max(1, len(cells)))
            for key, namespace in cells.items():
                await self._timer.sleep(pace * random.uniform(0.5, 1.5))  # noqa: S311 - spreads who asks when
                await self._one(key, namespace)
                self._show(_OLD * max(self._interval, pace * len(cells)))
            if not cells:
                self._show(0.0)
                await self._timer.sleep(pace)

    async def _one(self, key: CellKey, namespace: str) -> None:
        user = self._user_of(namespace)
        try:
            pods = await self._kube.list("v1", "Pod", namespace=namespace, label_selector=_MANAGED, as_user=user)
            asked = asked_by(pods)
        except CellwardError as error:
            # Typically a cell that is being made; what was read before counts until it is old.
            _log.debug("requests-unknown", cell=namespace, code=error.code)
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.exception("requests-unreadable", cell=namespace)  # V16: one cell's
            return
        now = self._timer.monotonic()
        try:
            measured = await self._kube.list(*_USAGE, namespace=namespace, as_user=user)
            used = used_by(measured, asked.names)
        except CellwardError as error:
            _log.debug("usage-unknown", cell=namespace, code=error.code)
            used = None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Another server answers for this group, not Kubernetes itself.
            _log.warning("usage-unreadable", cell=namespace, reason=type(error).__name__)
            used = None
        self._read[key] = Reading(replace(asked, names=frozenset()), used, now)

    def _show(self, oldest: float) -> None:
        """Set the gauges; cells that went, and what was read too long ago, leave no series."""
        now, cells = self._timer.monotonic(), self._cells()
        self._read = {key: one for key, one in self._read.items() if key in cells and now - one.at <= oldest}
        read = self._read.items()
        used = [(key, one.used) for key, one in read if one.used is not None]
        put = self._metrics.replace
        put(names.AGENT_CELL_PODS, {key: float(one.asked.pods) for key, one in read})
        put(names.AGENT_CELL_CPU_REQUESTS, {key: one.asked.cpu_requests for key, one in read})
        put(names.AGENT_CELL_MEMORY_REQUESTS, {key: one.asked.memory_requests for key, one in read})
        put(names.AGENT_CELL_CPU_LIMITS, _known({key: one.asked.cpu_limits for key, one in read}))
        put(names.AGENT_CELL_MEMORY_LIMITS, _known({key: one.asked.memory_limits for key, one in read}))
        put(names.AGENT_CELL_CPU, {key: one.cpu for key, one in used})
        put(names.AGENT_CELL_MEMORY, {key: one.memory for key, one in used})
        put(names.AGENT_CELL_MEASURED, {key: one.measured for key, one in used})


def _known(values: Mapping[CellKey, float | None]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in values.items() if value is not None}
