"""Looks at the pods of cells in trouble, and says what is wrong with them.

A cell whose workloads are all well has nobody looking at its pods. Of one in trouble they are watched with its own
account, which may read them in its namespace alone (V12): its pods that did not succeed, and warnings about them. How
many cells are looked at at once, and how much is kept of each, is bounded; when more are in trouble they take turns,
and what was found last holds in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

import structlog

from agent.cells.cell import Cell
from agent.cells.worker import CellWorker
from agent.kube.errors import KUBE_FORBIDDEN
from agent.kube.interfaces import JSONObject, KubeApi, WatchEvent, WatchType
from agent.objects.errors import PODS_NOT_READ
from agent.objects.identity import CellIdentity
from agent.objects.pods import EventFacts, PodFacts, conditions_of_pods, event_facts, pod_facts
from agent.objects.watcher import MANAGED
from cellward.cells.conditions import CellCondition
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of

_log = structlog.get_logger()

#: Cells that are looked at at once: two connections to the API server each.
AT_ONCE: Final = 8
#: How long a cell is looked at while others wait, seconds.
TURN_SECONDS: Final = 2.0
#: How long a cell that is well again is looked at if something was found: what crashes now and then is well between.
LINGER_SECONDS: Final = 60.0
#: Changes that come together are said together, seconds.
_TOGETHER: Final = 0.2
#: Pods and events that are kept of one cell.
_MOST: Final = 500
_PODS: Final = "status.phase!=Succeeded"
#: Warnings, without those that come often and say what the pods say themselves.
_EVENTS: Final = "type=Warning,reason!=BackOff,reason!=Failed,reason!=Unhealthy,reason!=FailedScheduling"

T = TypeVar("T")


@dataclass
class _Seen(Generic[T]):
    """What a watch shows, reduced to what ``read`` keeps of each object."""

    read: Callable[[JSONObject], T | None]
    found: dict[Hashable, T] = field(default_factory=dict)
    #: What is being listed again; until that is whole, what was seen before still counts.
    listed: dict[Hashable, T] | None = None
    synced: bool = False
    refused: str = ""

    def take(self, event: WatchEvent) -> bool:
        """Take an event; return whether it may change what is said."""
        if event.type is WatchType.RESTARTED:
            self.listed = {}
            return False
        if event.type is WatchType.INTERRUPTED:
            before, self.refused = self.refused, event.reason if event.code == KUBE_FORBIDDEN.code else ""
            return before != self.refused
        if event.type is WatchType.SYNCED:
            self.found, self.listed = self.listed or {}, None
            self.synced, self.refused = True, ""
            return True
        if event.type is WatchType.RESUMED:
            before, self.refused = self.refused, ""
            return bool(before)
        return self._object(event)

    def _object(self, event: WatchEvent) -> bool:
        into = self.found if self.listed is None else self.listed
        key = event.object["metadata"]["name"]
        kept = None if event.type is WatchType.DELETED else self.read(event.object)
        before = into.pop(key, None)
        if kept is not None:
            into[key] = kept
            if len(into) > _MOST:
                del into[next(iter(into))]
        return self.listed is None and kept != before


@dataclass
class _View:
    """What is seen of the pods of one cell."""

    pods: _Seen[PodFacts]
    events: _Seen[EventFacts]

    @property
    def refused(self) -> str:
        """Why they may not be read, mostly empty."""
        return self.pods.refused or self.events.refused

    def conditions(self, cell: Cell, now: datetime) -> tuple[CellCondition, ...]:
        """Return what is to be said of them; what was said before until they were seen."""
        if self.refused:
            return (CellCondition(PODS_NOT_READ.code, f"Namespace/{cell.record.namespace}", self.refused),)
        if not self.pods.synced:
            return cell.pods
        return conditions_of_pods(cell.troubled_or_told, self.pods.found.values(), self.events.found.values(), now)


@dataclass
class _Look:
    """The look at one cell: who asks for it, and since when the cell is well, monotonic seconds."""

    worker: CellWorker
    news: asyncio.Event = field(default_factory=asyncio.Event)
    well_since: float | None = None

    def matters(self, now: float) -> bool:
        """Whether to go on looking."""
        cell = self.worker.cell
        if cell.troubled:
            self.well_since = None
            return True
        if self.well_since is None:
            self.well_since = now
        return bool(cell.pods) and now - self.well_since < LINGER_SECONDS


class PodWatches:
    """The looks at pods, at most one for each cell.

    Args:
        kube: the cluster.
        identity: returns the accounts of a cell, by its namespace.
        timer: time.
    """

    def __init__(self, kube: KubeApi, identity: Callable[[str], CellIdentity], timer: Timer) -> None:
        self._kube, self._identity, self._timer = kube, identity, timer
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._group: asyncio.TaskGroup | None = None
        self._looks: dict[CellWorker, _Look] = {}

    async def run(self) -> None:
        """Look at what is in trouble until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for look in self._looks.values():
                    self._begin(group, look)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._looks.clear()

    def look(self, worker: CellWorker) -> None:
        """Look at the pods of a cell if it is in trouble; call it whenever one of its objects changed."""
        look = self._looks.get(worker)
        if look is not None:
            look.news.set()
        elif worker.cell.troubled:
            look = self._looks[worker] = _Look(worker)
            if self._group is not None:
                self._begin(self._group, look)

    def _begin(self, group: asyncio.TaskGroup, look: _Look) -> None:
        group.create_task(self._follow(look), name=f"pods-{look.worker.cell.record.namespace}")

    async def _follow(self, look: _Look) -> None:
        """Look at one cell, in turns, until it is well."""
        try:
            while look.matters(self._timer.monotonic()):
                await self._wait_for_turn()
                try:
                    await self._turn(look)
                finally:
                    self._turns.release()
        except Exception:  # noqa: BLE001 - V16: an object nobody foresaw must not end the looks at all cells
            _log.exception("pods-look-failed", cell=look.worker.cell.record.namespace)
        finally:
            self._looks.pop(look.worker, None)
        await _tell(look.worker, ())

    async def _wait_for_turn(self) -> None:
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1

    async def _turn(self, look: _Look) -> None:
        """Look until the cell is well, or others wait and its time is over."""
        namespace = look.worker.cell.record.namespace
        user, watch = self._identity(namespace).user, self._kube.watch
        view = _View(_Seen(pod_facts), _Seen(event_facts))
        pods = watch("v1", "Pod", label_selector=MANAGED, namespace=namespace, field_selector=_PODS, as_user=user)
        events = watch("v1", "Event", namespace=namespace, field_selector=_EVENTS, as_user=user)
        reading = (_read(view.pods, pods, look.news), _read(view.events, events, look.news))
        tasks = [asyncio.create_task(one, name=f"watch-pods-{namespace}") for one in reading]
        begun = self._timer.monotonic()
        try:
            while look.matters(now := self._timer.monotonic()):
                # A watch that shows nothing for so long has had its turn too.
                enough = TURN_SECONDS if view.pods.synced or view.refused else 5 * TURN_SECONDS
                if self._waiting and now - begun >= enough:
                    return
                # As often what is over after a while is looked at again.
                await first_of(look.news.wait(), *tasks, seconds=TURN_SECONDS)
                for task in tasks:
                    if task.done():
                        task.result()
                if look.news.is_set():
                    await asyncio.sleep(_TOGETHER)
                    look.news.clear()
                await _tell(look.worker, view.conditions(look.worker.cell, self._timer.now()))
                opened = [one.open_seconds for one in view.pods.found.values() if one.open_seconds is not None]
                look.worker.cell.start_seconds = max(opened, default=look.worker.cell.start_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(worker: CellWorker, found: tuple[CellCondition, ...]) -> None:
    if found != worker.cell.pods:
        worker.cell.pods = found
        await worker.report()


async def _read(seen: _Seen[T], events: AsyncIterator[WatchEvent], news: asyncio.Event) -> None:
    try:
        async for event in events:
            if seen.take(event):
                news.set()
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
