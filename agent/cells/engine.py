"""The engine: one worker per cell, the watches, and what connects them.

It starts from the durable records alone, so a restart without hub and without policy loses nothing: what was released
is watched and repaired (V1). Desired items come on top.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from agent.audit.interfaces import RecorderPort
from agent.cells.cell import Cell
from agent.cells.documents import KeptDocuments
from agent.cells.errors import WORKER_ENDED
from agent.cells.interfaces import OnReceipt, OnStatus
from agent.cells.keeping import Keeping
from agent.cells.machine.phase import Phase
from agent.cells.parts import Parts
from agent.cells.restamp import is_behind
from agent.cells.revoked import Revoked
from agent.cells.slots import Slots
from agent.cells.worker import CellWorker
from agent.isolation.foreign import Place
from agent.isolation.foreign_watch import ABSENT_SECONDS, ForeignPolicies
from agent.isolation.interfaces import IsolationDriver, Prober
from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef, WatchEvent, WatchType, ref_of
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.metrics.registry import AgentMetrics
from agent.objects import fence
from agent.objects.cluster import CellCluster
from agent.objects.errors import NOT_REPAIRED
from agent.objects.fence import Fence
from agent.objects.impostors import Impostors
from agent.objects.model import CellRecord, Role, record_from_json
from agent.objects.ownership import drift_of, flexible_of
from agent.objects.repair import Repairer, is_foreign_policy
from agent.objects.watcher import ClusterWatch, Watched
from agent.spool.interfaces import StateDb
from agent.stamps.copy import StampCopy
from agent.stamps.keeper import SETTLE_SECONDS, StampKeeper
from agent.verify.decide import Gate
from agent.verify.intake import Intake
from agent.verify.interfaces import DocumentSource, PolicyView
from cellward.cells.edges import Offer
from cellward.cells.labels import cell_labels
from cellward.cells.render import namespace_of
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.telemetry.metrics import (
    AGENT_CELL_OBJECTS,
    AGENT_CELL_READY,
    AGENT_CELLS,
    AGENT_DRIFT_UNREPAIRED,
    AGENT_ISOLATION,
)
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()

#: Condition about all cells together.
CONDITION: Final = "cells"
#: Condition about what differs from what was released and cannot be brought back.
REPAIRS: Final = "repairs"
#: Cells that are worked on at once.
CONCURRENCY: Final = 8


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What the composition root gives the engine.

    ``facts`` returns this cluster's facts, from its own configuration; ``guards`` are the chart's admission policies
    (``fence.load_guards``); ``copy_floors`` returns when every floor and closing is also kept outside the state
    directory; ``agent_namespace`` is where the accounts of cells live; ``settle_seconds`` is how long guards that came
    back may take to bite, ``absent_seconds`` how often a network plugin's kind that is not there is asked for.
    """

    kube: KubeApi
    driver: IsolationDriver
    prober: Prober
    policy: PolicyView
    source: DocumentSource
    state: StateDb
    recorder: RecorderPort
    health: HealthRegistry
    metrics: AgentMetrics
    timer: Timer
    facts: Callable[[], ClusterFacts]
    realm: str
    guards: Sequence[JSONObject]
    copy_floors: Callable[[], Awaitable[None]]
    agent_namespace: str = "cellward-system"
    settle_seconds: float = SETTLE_SECONDS
    absent_seconds: float = ABSENT_SECONDS


async def _nobody(_: ReceiptFacts | CellReport) -> None:
    """Stand in until the link is there."""


class CellEngine:
    """Carries out desired items and keeps cells as released.

    Attributes:
        on_receipt: awaited with the outcome of every item.
        on_status: awaited with the newest state of a cell whenever it changed.
    """

    def __init__(self, given: EngineParts) -> None:
        self.on_receipt: OnReceipt = _nobody
        self.on_status: OnStatus = _nobody
        self._given = given
        cluster = CellCluster(given.kube, given.driver, given.timer, given.agent_namespace, self._seen)
        self._fence = Fence(given.guards, given.recorder, given.health)
        self._stamps = StampKeeper(
            given.state.meta, StampCopy(given.kube, given.agent_namespace), given.recorder, given.health, given.timer,
            self._behind, settle=given.settle_seconds,
        )  # fmt: skip
        self._stamps.on_step = self._on_synced
        self._foreign = ForeignPolicies(
            given.kube, given.recorder, given.health, given.timer, self._places, self._look_beside, given.absent_seconds
        )
        self._impostors = Impostors(given.recorder, given.health, self._owns_namespace, self._stamps.proof)
        # An API server that comes back refuses everybody until it has read its roles: what it refused is asked again.
        self._watch = ClusterWatch(given.kube, given.health, given.timer, self._on_event, self._on_synced)
        self._documents = KeptDocuments(given.state)
        self._parts = Parts(
            cluster=cluster,
            intake=Intake(
                policy=given.policy, source=given.source, state=given.state, clock=given.timer, facts=given.facts,
                realm=given.realm,
            ),
            gate=Gate(policy=given.policy, clock=given.timer, facts=given.facts, realm=given.realm),
            revoked=Revoked(given.policy, given.facts),
            repairer=Repairer(cluster, self._stamps.check_proof),
            prober=given.prober,
            fence=self._fence,
            stamps=self._stamps,
            recorder=given.recorder,
            state=given.state,
            documents=self._documents,
            timer=given.timer,
            facts=given.facts,
            metrics=given.metrics,
            keeping=Keeping(given.state, given.recorder, given.copy_floors, self._reindex),
            offers=self._offers,
            view=self._watch.in_view,
        )  # fmt: skip
        self._workers: dict[CellKey, CellWorker] = {}
        self._by_namespace: dict[str, CellWorker] = {}
        self._by_ref: dict[ObjectRef, CellWorker] = {}
        self._told: dict[CellKey, tuple[Offer, ...] | None] = {}
        self._refs_of: dict[CellKey, frozenset[ObjectRef]] = {}
        self._seen_refs: dict[str, set[ObjectRef]] = {}
        self._slots = Slots.of(CONCURRENCY)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[CellKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Load what is durable, then watch and work until cancelled."""
        await self._documents.load()
        accepted = {CellKey(*item.key): item for item in await self._given.state.accepted.list()}
        for namespace in await self._given.state.inventory.namespaces():
            record = record_from_json(await self._given.state.inventory.get(namespace))
            key = CellKey(*record.key)
            self._reindex(self._worker(key, record, accepted.get(key)).cell)
        for item in await self._given.state.items.list():
            try:
                self._take(item)
            except CellwardError as error:
                # What a hub once sent must not keep the agent from starting (V16).
                _log.error("desired-item-unusable", cell="/".join(item.key), code=error.code, reason=error.message)
        self._judge()
        await self._stamps.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._stamps.run(), name="stamps")
                group.create_task(self._foreign.run(), name="foreign-policies")
                for key, worker in self._workers.items():
                    self._begin(group, key, worker)
                await self._watch.run()
        finally:
            self._group = None

    async def submit(self, item: DesiredItem) -> None:
        """Take a desired item; returns at once, the outcome comes by ``on_receipt``."""
        self._take(item)

    async def withdraw(self, item: DesiredItem) -> bool:
        """Forget an item the hub no longer names, if nothing is left of it; return whether it is forgotten.

        What was accepted stays as it is: no item means no change, and only a tombstone ends a cell (V14). Of a cell
        that ended, and has nothing any more, the floor says all there is to say.
        """
        key = CellKey(*item.key)
        worker = self._workers.get(key)
        if worker is None:
            return True
        record = worker.cell.record
        if (record.deployment_digest or record.objects) and not worker.is_over:
            return False
        await self._forget(key, worker)
        return True

    async def make_room(self) -> tuple[CellKey, ...]:
        """Forget every cell that ended and of which nothing is left but its floor; return which."""
        over = [(key, worker) for key, worker in self._workers.items() if worker.is_over]
        for key, worker in over:
            await self._forget(key, worker)
        return tuple(key for key, _ in over)

    async def _forget(self, key: CellKey, worker: CellWorker) -> None:
        namespace = worker.cell.record.namespace
        await self._given.state.inventory.delete(namespace)
        await self._given.state.accepted.remove(*key)
        await self._documents.forget(key)
        if self._workers.get(key) is not worker:
            return
        del self._workers[key], self._by_namespace[namespace]
        self._refs_of.pop(key, None)
        self._told.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
        self._judge()

    def statuses(self) -> Mapping[CellKey, CellReport]:
        """Return the state of every cell."""
        return {key: worker.cell.report() for key, worker in self._workers.items()}

    def reconsider(self) -> None:
        """Try again what was refused or waits; call it when newer policy is active."""
        for worker in self._workers.values():
            worker.reconsider()

    def resync(self) -> None:
        """Look at every object of every cell again (command RESYNC)."""
        for ref, worker in self._by_ref.items():
            worker.drift.mark(ref)
            worker.wake()
        self.reconsider()

    @property
    def synced(self) -> bool:
        """Whether every watch has seen the whole cluster."""
        return self._watch.synced and self._foreign.synced

    # -- cells --------------------------------------------------------------------------------------------------------

    def _take(self, item: DesiredItem) -> None:
        key = CellKey(*item.key)
        worker = self._workers.get(key)
        if worker is None:
            record = CellRecord(*item.key, namespace=namespace_of(*item.key))
            worker = self._worker(key, record)
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

    def _worker(self, key: CellKey, record: CellRecord, accepted: DesiredItem | None = None) -> CellWorker:
        worker = CellWorker(Cell(record), self._parts, self._slots, self._receipt, self._status, accepted)
        self._workers[key] = worker
        self._by_namespace[record.namespace] = worker
        worker.cell.beside = self._foreign.selecting(self._place(record))
        return worker

    def _reindex(self, cell: Cell) -> None:
        key = CellKey(*cell.record.key)
        worker, refs = self._workers[key], frozenset(one.ref for one in (*cell.record.objects, *cell.record.going))
        for ref in self._refs_of.get(key, frozenset()) - refs:
            self._by_ref.pop(ref, None)
        for ref in refs:
            self._by_ref[ref] = worker
        self._refs_of[key] = refs
        self._tell_callers(key)

    def _offers(self, key: CellKey) -> tuple[Offer, ...] | None:
        """Return what the accepted release of a cell offers here; None where there is none, or it is going."""
        worker = self._workers.get(CellKey(*key))
        record = None if worker is None else worker.cell.record
        return record.offers if record is not None and record.release_digest and not record.ending else None

    def _tell_callers(self, key: CellKey) -> None:
        """Have the edges to a cell judged again when what it offers changed."""
        offers = self._offers(key)
        if self._told.get(key) == offers:
            return
        self._told[key] = offers
        # Before there is a group nobody works; everybody does when everything is in view.
        for worker in self._workers.values() if self._group is not None else ():
            record = worker.cell.record
            if any(CellKey(need.project, need.cell, record.environment) == key for need in record.needs):
                worker.wake()

    # -- events -------------------------------------------------------------------------------------------------------

    async def _on_event(self, watched: Watched, event: WatchEvent) -> None:
        if watched.kind in fence.KINDS:
            changed = await self._fence.handle(watched.kind, event)
            self._stamps.saw_guards(self._fence.fingerprint)
            if changed and self._fence.intact:
                self.reconsider()
            return
        if watched.kind == "Namespace":
            await self._impostors.handle(event)
            own = self._by_namespace.get(event.object["metadata"]["name"]) if event.object else None
            if own is not None:
                await self._foreign.judge()
                self._look_beside()
                own.ground_changed()
        if event.type is WatchType.RESTARTED:
            self._seen_refs[watched.kind] = set()
        elif event.type is WatchType.SYNCED:
            self._missing(watched, self._seen_refs.pop(watched.kind, set()))
        elif event.type in {WatchType.ADDED, WatchType.MODIFIED, WatchType.DELETED}:
            self._object(watched, event)

    def _on_synced(self) -> None:
        """Everything is in view again, or other stamps hold: what waited for that goes on, and rollouts are judged."""
        self.reconsider()
        for worker in self._workers.values():
            worker.wake()

    def _behind(self) -> tuple[str, ...]:
        """Return the namespaces of cells that are not wholly written with the stamps that hold now."""
        stamps = self._stamps.current
        records = [worker.cell.record for worker in self._workers.values()]
        return tuple(record.namespace for record in records if is_behind(record, stamps))

    def _place(self, record: CellRecord) -> Place:
        """Return a cell's namespace with the labels it has, or is to get."""
        return Place(record.namespace, self._impostors.labels_of(record.namespace) or cell_labels(*record.key))

    def _places(self) -> tuple[Place, ...]:
        return tuple(self._place(worker.cell.record) for worker in self._workers.values())

    def _look_beside(self) -> None:
        """Take note of what else isolates each cell."""
        for worker in self._workers.values():
            found = self._foreign.selecting(self._place(worker.cell.record))
            if found != worker.cell.beside:
                worker.cell.beside = found
                worker.reconsider()
                worker.wake()

    def _owns_namespace(self, name: str) -> bool:
        worker = self._by_namespace.get(name)
        return worker is not None and any(owned.role is Role.NAMESPACE for owned in worker.cell.record.objects)

    def _missing(self, watched: Watched, seen: set[ObjectRef]) -> None:
        """After a whole list: what we own and did not see is gone."""
        for ref, worker in self._by_ref.items():
            if (ref.api_version, ref.kind) == (watched.api_version, watched.kind) and ref not in seen:
                worker.cell.forget(ref)
                worker.drift.mark_deleted(ref)
                worker.wake()

    def _object(self, watched: Watched, event: WatchEvent) -> None:
        ref = ref_of(event.object)
        if watched.kind in self._seen_refs:
            self._seen_refs[watched.kind].add(ref)
        worker = self._by_ref.get(ref)
        if worker is None:
            self._stranger(event)
            return
        if event.type is WatchType.DELETED:
            worker.cell.forget(ref, event.object)
            worker.drift.mark_deleted(ref)
            worker.wake()
            return
        changed = worker.cell.observe(event.object)
        if self._looks_drifted(worker.cell, event.object):
            worker.drift.mark(ref)
            changed = True
        if changed:
            worker.wake()

    def _stranger(self, event: WatchEvent) -> None:
        live = event.object
        worker = self._by_namespace.get(live["metadata"].get("namespace", ""))
        if worker is not None and event.type is WatchType.DELETED:
            worker.ground_changed()
            return
        if worker is None or not is_foreign_policy(worker.cell.record, live):
            return
        # Before there is isolation of our own, the namespace is not ours to clean.
        if any(owned.uid for owned in worker.cell.record.objects):
            worker.drift.mark_stranger(ref_of(live), live["metadata"]["uid"])
            worker.wake()

    def _looks_drifted(self, cell: Cell, live: JSONObject) -> bool:
        """Cheap look at an event; whoever repairs reads the object again before believing it."""
        owned, going = cell.record.by_ref().get(ref_of(live)), cell.record.going_at(ref_of(live))
        if going is not None:
            return True  # whether it may go now, whoever looks after it sees
        if owned is None:
            return False  # pruned between the event and now
        if not owned.uid:
            return True  # it was written a moment ago, and there is nothing to compare with yet
        flexible = flexible_of([other.manifest for other in cell.record.objects], owned.manifest)
        manager = self._parts.cluster.identity(cell.record.namespace).manager_of(owned.role)
        return live["metadata"]["uid"] != owned.uid or bool(drift_of(live, owned.baseline, manager, flexible))

    def _seen(self, live: Mapping[str, Any]) -> None:
        """Take note of what a write of our own returned."""
        worker = self._by_ref.get(ref_of(live))
        if worker is not None:
            worker.cell.observe(live)

    # -- reports ------------------------------------------------------------------------------------------------------

    async def _receipt(self, receipt: ReceiptFacts) -> None:
        await self.on_receipt(receipt)

    async def _status(self, report: CellReport) -> None:
        self._judge()
        await self._impostors.judge()
        await self.on_status(report)

    def _judge(self) -> None:
        """Set the condition and the gauges."""
        cells = [worker.cell for worker in self._workers.values()]
        self._judge_repairs(cells)
        dead = ["/".join(key) for key, task in self._tasks.items() if task.done() and not task.cancelling()]
        if dead:
            message = f"nothing works on {len(dead)} of {len(cells)} cells any more, {dead[0]} for one"
            self._given.health.set(CONDITION, ok=False, code=WORKER_ENDED.code, message=message)
            _count(self._given.metrics, cells)
            return
        bad = [cell for cell in cells if cell.phase in {Phase.DEGRADED, Phase.REFUSED} or _stuck(cell)]
        first = f"{bad[0].record.namespace} is {bad[0].phase.value}" if bad else ""
        code = next((one.code for cell in bad for one in cell.life.complaints), "cell/not-healthy") if bad else ""
        message = f"{len(bad)} of {len(cells)} cells need attention; {first}" if bad else ""
        self._given.health.set(CONDITION, ok=not bad, code=code, message=message)
        _count(self._given.metrics, cells)

    def _judge_repairs(self, cells: Sequence[Cell]) -> None:
        """Say what only an administrator can mend, with the command of the first."""
        stuck = [found for cell in cells for found in cell.open_repairs]
        more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
        message = f"{stuck[0].subject}: {stuck[0].message}{more}" if stuck else ""
        code = NOT_REPAIRED.code if stuck else ""
        self._given.health.set(REPAIRS, ok=not stuck, code=code, message=message)


def _stuck(cell: Cell) -> bool:
    obstacle = cell.life.obstacle
    return obstacle is not None and obstacle.waiting and bool(obstacle.refusals)


def _count(metrics: AgentMetrics, cells: Sequence[Cell]) -> None:
    phases: dict[tuple[str, ...], float] = {(phase.value,): 0.0 for phase in Phase}
    ready: dict[tuple[str, ...], float] = {}
    objects: dict[tuple[str, ...], float] = {}
    isolation: dict[tuple[str, ...], float] = {}
    unrepaired: dict[tuple[str, ...], float] = {}
    for cell in cells:
        report = cell.report()
        phases[(report.phase,)] += 1
        ready[cell.record.key] = float(cell.phase is Phase.READY)
        objects[(*cell.record.key, "ready")] = report.objects_ready
        objects[(*cell.record.key, "not-ready")] = report.objects_total - report.objects_ready
        isolation[(*cell.record.key, report.isolation)] = 1.0
        unrepaired[cell.record.key] = float(len(cell.unrepaired))
    metrics.replace(AGENT_CELLS, phases)
    metrics.replace(AGENT_CELL_READY, ready)
    metrics.replace(AGENT_CELL_OBJECTS, objects)
    metrics.replace(AGENT_ISOLATION, isolation)
    metrics.replace(AGENT_DRIFT_UNREPAIRED, unrepaired)
