"""The task that goes round: cells some at a time, each within its own time and its own share of series.

What one cell does to it is bounded: so many pods, so many seconds, so many series. What does not fit is counted and
shown (V16). What was read is kept until the next round alone; nothing of a pod that fails is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from agent.kube.conditions import is_ready
from agent.kube.interfaces import KubeApi
from agent.metrics.registry import AgentMetrics
from agent.metrics.scrape.aims import Aim, Aimed, KeptAims
from agent.metrics.scrape.fetch import Pages, is_pod_address
from agent.metrics.scrape.select import select
from agent.metrics.snapshot import PodSeries, SampleValue
from cellward.cells import labels
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.telemetry import metrics as names
from cellward.telemetry.series import CELL_SERIES, CLUSTER_SERIES, POD_SERIES

_log = structlog.get_logger()

#: Pods of a cell that are read; the rest is counted.
MOST_PODS: Final = 100
#: Longest time for one cell, seconds.
CELL_SECONDS: Final = 15.0
#: Cells, and pods of one cell, that are read at once.
CELLS_AT_ONCE: Final = 4
PODS_AT_ONCE: Final = 4


@dataclass(slots=True)
class Read:
    """What one round found of a cell.

    Attributes:
        pods: what each pod said.
        results: how many pods of a component were read, and how many were not.
        cut: how many series did not fit; of pods that were left out nobody knows.
        unreadable: how many lines meant nothing.
    """

    pods: list[PodSeries] = field(default_factory=list)
    results: dict[tuple[str, str], int] = field(default_factory=dict)
    cut: int = 0
    unreadable: int = 0

    def count(self, component: str, result: str) -> None:
        """Count a pod."""
        self.results[component, result] = self.results.get((component, result), 0) + 1


@dataclass(frozen=True, slots=True)
class Target:
    """A pod that is to be read."""

    component: str
    name: str
    address: str


class Scraper:
    """Root task.

    Args:
        kube: the cluster.
        aims: where and what is read.
        pages: reads one page.
        user_of: returns the user name of a cell's account, by its namespace.
        metrics: where it is shown how that went.
        timer: time.
        interval: seconds between two rounds.
    """

    def __init__(
        self,
        kube: KubeApi,
        aims: KeptAims,
        pages: Pages,
        user_of: Callable[[str], str],
        metrics: AgentMetrics,
        timer: Timer,
        interval: float,
    ) -> None:
        self._kube, self._aims, self._pages, self._user_of = kube, aims, pages, user_of
        self._metrics, self._timer, self._interval = metrics, timer, interval
        self._read: dict[CellKey, Read] = {}

    def found(self) -> tuple[PodSeries, ...]:
        """Return what the last round found."""
        return tuple(pod for read in self._read.values() for pod in read.pods)

    async def run(self) -> None:
        """Go round until cancelled."""
        try:
            while True:
                try:
                    await self.once()
                except CellwardError as error:
                    _log.warning("metrics-of-cells-not-read", code=error.code, reason=error.message)
                await self._timer.sleep(self._interval)
        finally:
            await self._pages.close()

    async def once(self) -> None:
        """Read every cell once."""
        aimed = await self._aims.now()
        share = min(CELL_SERIES, CLUSTER_SERIES // max(1, len(aimed)))
        places = asyncio.Semaphore(CELLS_AT_ONCE)

        async def one(key: CellKey, what: Aimed) -> tuple[CellKey, Read]:
            async with places:
                return key, await self._cell(key, what, share)

        self._read = dict(await asyncio.gather(*(one(key, what) for key, what in aimed.items())))
        self._show()

    async def _cell(self, key: CellKey, aimed: Aimed, share: int) -> Read:
        read = Read()
        try:
            async with asyncio.timeout(CELL_SECONDS):
                await self._pods(key, aimed, share, read)
        except TimeoutError:
            _log.debug("metrics-of-cell-too-slow", cell=aimed.namespace)
        except CellwardError as error:
            _log.debug("metrics-of-cell-not-read", cell=aimed.namespace, code=error.code)
        except Exception:  # noqa: BLE001 - V16: what nobody foresaw of one cell must not cost the others theirs
            _log.exception("metrics-of-cell-not-read", cell=aimed.namespace)
        return read

    async def _pods(self, key: CellKey, aimed: Aimed, share: int, read: Read) -> None:
        found = await self._kube.list(
            "v1",
            "Pod",
            namespace=aimed.namespace,
            label_selector=f"{labels.COMPONENT},{labels.NAME}",
            as_user=self._user_of(aimed.namespace),
        )
        wanted = targets(found, aimed.aims)
        for left_out in wanted[MOST_PODS:]:
            read.count(left_out.component, "left out")
        places = asyncio.Semaphore(PODS_AT_ONCE)

        async def one(target: Target) -> None:
            async with places:
                await self._pod(key, target, aimed.aims[target.component], share, read)

        await asyncio.gather(*(one(target) for target in wanted[:MOST_PODS]))

    async def _pod(self, key: CellKey, target: Target, aim: Aim, share: int, read: Read) -> None:
        try:
            page = await self._pages.get(target.address, aim.port, aim.path)
        except CellwardError as error:
            _log.debug("metrics-of-pod-not-read", cell="/".join(key), pod=target.name, reason=error.message)
            read.count(target.component, "failed")
            return
        # In a thread: a page may be long, and an event loop has other things to do.
        selected = await asyncio.to_thread(select, page, aim.names, limit=POD_SERIES)
        kept: tuple[SampleValue, ...] = selected.series[: max(0, share - sum(len(pod.series) for pod in read.pods))]
        read.cut += selected.cut + len(selected.series) - len(kept)
        read.unreadable += selected.unreadable
        read.count(target.component, "read")
        if kept:
            read.pods.append(PodSeries(*key, target.component, target.name, kept))

    def _show(self) -> None:
        put, read = self._metrics.replace, self._read
        put(
            names.AGENT_SCRAPE_PODS,
            {(*key, *kind): float(count) for key, one in read.items() for kind, count in one.results.items()},
        )
        put(
            names.AGENT_SCRAPE_SERIES,
            {key: float(sum(len(pod.series) for pod in one.pods)) for key, one in read.items()},
        )
        put(names.AGENT_SCRAPE_CUT, {key: float(one.cut) for key, one in read.items()})
        put(names.AGENT_SCRAPE_UNREADABLE, {key: float(one.unreadable) for key, one in read.items()})


def targets(pods: Sequence[Mapping[str, Any]], aims: Mapping[str, Aim]) -> list[Target]:
    """Return the pods that are read, in an order that stays; pure.

    Ready ones with an address of their own: one in the node's network would have the agent ask the node.
    """
    found = []
    for pod in pods:
        metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        component = str((metadata.get("labels") or {}).get(labels.COMPONENT, ""))
        if component not in aims or spec.get("hostNetwork") or not is_ready(pod):
            continue
        if is_pod_address(status.get("podIP")):
            found.append(Target(component, str(metadata["name"]), str(status["podIP"])))
    return sorted(found, key=lambda one: (one.component, one.name))
