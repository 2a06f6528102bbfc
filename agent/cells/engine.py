"""The engine: one worker per cell, and what connects them with the link.

It starts from the durable records alone, so a restart without hub and without policy loses nothing: what was released
is watched and repaired (V1). Desired items come on top.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from agent.cells.cell import Cell
from agent.cells.documents import KeptDocuments
from agent.cells.interfaces import OnReceipt, OnStatus
from agent.cells.overview import Overview
from agent.cells.pods import PodWatches
from agent.cells.proving import Proving
from agent.cells.roster import Roster
from agent.cells.sightings import Sightings
from agent.cells.worker import CellWorker
from agent.isolation.foreign_watch import ForeignPolicies
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.objects.model import CellRecord, record_from_json
from agent.objects.watcher import ClusterWatch
from agent.spool.interfaces import StateDb
from agent.stamps.keeper import StampKeeper
from cellward.cells.network import NetworkIntent
from cellward.cells.render import namespace_of
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()

#: Makes the worker of a cell; the item is the one in force, as it was accepted.
MakeWorker = Callable[[Cell, DesiredItem | None, OnReceipt, OnStatus], CellWorker]


@dataclass(frozen=True, slots=True)
class Watches:
    """What runs beside the workers of cells."""

    cluster: ClusterWatch
    foreign: ForeignPolicies
    stamps: StampKeeper
    pods: PodWatches
    proving: Proving

    @property
    def synced(self) -> bool:
        """Whether every watch has seen the whole cluster."""
        return self.cluster.synced and self.foreign.synced


async def _nobody(_: ReceiptFacts | CellReport) -> None:
    """Stand in until the link is there."""


class CellEngine:
    """Carries out desired items and keeps cells as released.

    Attributes:
        on_receipt: awaited with the outcome of every item.
        on_status: awaited with the newest state of a cell whenever it changed.
    """

    def __init__(
        self,
        state: StateDb,
        documents: KeptDocuments,
        roster: Roster,
        sightings: Sightings,
        watches: Watches,
        overview: Overview,
        make_worker: MakeWorker,
    ) -> None:
        self.on_receipt: OnReceipt = _nobody
        self.on_status: OnStatus = _nobody
        self._state = state
        self._documents = documents
        self._roster = roster
        self._sightings = sightings
        self._watches = watches
        self._overview = overview
        self._make_worker = make_worker
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[CellKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Load what is durable, then watch and work until cancelled."""
        await self._documents.load()
        accepted = {CellKey(*item.key): item for item in await self._state.accepted.list()}
        for namespace in await self._state.inventory.namespaces():
            record = record_from_json(await self._state.inventory.get(namespace))
            key = CellKey(*record.key)
            self._add(record, accepted.get(key))
        for item in await self._state.items.list():
            try:
                self._take(item)
            except CellwardError as error:
                # What a hub once sent must not keep the agent from starting (V16).
                _log.error("desired-item-unusable", cell="/".join(item.key), code=error.code, reason=error.message)
        self._judge()
        await self._watches.stamps.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._watches.stamps.run(), name="stamps")
                group.create_task(self._watches.foreign.run(), name="foreign-policies")
                group.create_task(self._watches.pods.run(), name="pods")
                group.create_task(self._watches.proving.run(), name="proving")
                for key, worker in self._roster.workers.items():
                    self._begin(group, key, worker)
                await self._watches.cluster.run()
        finally:
            self._group = None

    def neighbours(self, namespace: str) -> list[NetworkIntent]:
        """Return what was accepted for the other cells."""
        return self._watches.proving.others(namespace)

    def namespaces(self) -> dict[CellKey, str]:
        """Return the cells whose namespace was accepted, with its name."""
        places = {key: worker.cell.record.namespace for key, worker in self._roster.workers.items()}
        return {key: namespace for key, namespace in places.items() if self._roster.owns_namespace(namespace)}

    def running(self) -> dict[CellKey, tuple[str, str]]:
        """Return namespace and release of the cells that run with their edges open, by digest."""
        found = {}
        for key, worker in self._roster.workers.items():
            record = worker.cell.record
            runs = record.release_digest and not record.quarantined and not record.ending
            if runs and self._roster.owns_namespace(record.namespace):
                found[key] = (record.namespace, record.release_digest)
        return found

    def measure_again(self, place: str) -> str:
        """Have the isolation of a cell, PROJECT/CELL/ENVIRONMENT, measured soon; returns why not, mostly empty."""
        return self._watches.proving.again(place.replace("/", "--"))

    async def submit(self, item: DesiredItem) -> None:
        """Take a desired item; returns at once, the outcome comes by ``on_receipt``."""
        self._take(item)

    async def withdraw(self, item: DesiredItem) -> bool:
        """Forget an item the hub no longer names, if nothing is left of it; return whether it is forgotten.

        What was accepted stays as it is: no item means no change, and only a tombstone ends a cell (V14). Of a cell
        that ended, and has nothing any more, the floor says all there is to say.
        """
        key = CellKey(*item.key)
        worker = self._roster.workers.get(key)
        if worker is None:
            return True
        record = worker.cell.record
        if (record.deployment_digest or record.objects) and not worker.is_over:
            return False
        await self._forget(key, worker)
        return True

    async def make_room(self) -> tuple[CellKey, ...]:
        """Forget every cell that ended and of which nothing is left but its floor; return which."""
        over = [(key, worker) for key, worker in self._roster.workers.items() if worker.is_over]
        for key, worker in over:
            await self._forget(key, worker)
        return tuple(key for key, _ in over)

    async def _forget(self, key: CellKey, worker: CellWorker) -> None:
        namespace = worker.cell.record.namespace
        await self._state.inventory.delete(namespace)
        await self._state.accepted.remove(*key)
        await self._documents.forget(key)
        if self._roster.workers.get(key) is not worker:
            return
        self._roster.remove(key)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
        self._judge()

    def statuses(self) -> Mapping[CellKey, CellReport]:
        """Return the state of every cell."""
        return {key: worker.cell.report() for key, worker in self._roster.workers.items()}

    def reconsider(self) -> None:
        """Try again what was refused or waits; call it when newer policy is active."""
        self._roster.reconsider()

    def resync(self) -> None:
        """Look at every object of every cell again (command RESYNC)."""
        for ref, worker in self._roster.by_ref.items():
            worker.drift.mark(ref)
            worker.wake()
        self.reconsider()

    @property
    def synced(self) -> bool:
        """Whether every watch has seen the whole cluster."""
        return self._watches.synced

    # -- cells --------------------------------------------------------------------------------------------------------

    def _take(self, item: DesiredItem) -> None:
        key = CellKey(*item.key)
        worker = self._roster.workers.get(key)
        if worker is None:
            record = CellRecord(*item.key, namespace=namespace_of(*item.key))
            worker = self._add(record, None)
            if self._group is not None:
                self._begin(self._group, key, worker)
        worker.offer(item)

    def _begin(self, group: asyncio.TaskGroup, key: CellKey, worker: CellWorker) -> None:
        task = group.create_task(worker.run(), name=f"cell-{worker.cell.record.namespace}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: CellKey, task: asyncio.Task[None]) -> None:
        """Sound the alarm when a worker ended although nobody asked it to: a task group does not mind."""
        if self._tasks.get(key) is task and not task.cancelling():
            _log.error("cell-worker-ended", cell="/".join(key))
            self._judge()

    def _add(self, record: CellRecord, accepted: DesiredItem | None) -> CellWorker:
        cell = Cell(record)
        cell.beside = self._sightings.beside(record)
        worker = self._make_worker(cell, accepted, self._receipt, self._status)
        self._roster.add(worker)
        return worker

    # -- reports ------------------------------------------------------------------------------------------------------

    async def _receipt(self, receipt: ReceiptFacts) -> None:
        await self.on_receipt(receipt)

    async def _status(self, report: CellReport) -> None:
        self._judge()
        await self._sightings.judge()
        await self.on_status(report)

    def _judge(self) -> None:
        self._overview.judge([key for key, task in self._tasks.items() if task.done() and not task.cancelling()])
