"""What the watches see, brought to the cells it is about."""

from __future__ import annotations

from agent.cells.cell import Cell
from agent.cells.pods import PodWatches
from agent.cells.roster import Roster
from agent.isolation.foreign import Place
from agent.isolation.foreign_watch import ForeignPolicies
from agent.kube.interfaces import JSONObject, ObjectRef, WatchEvent, WatchType, ref_of
from agent.objects import fence
from agent.objects.cluster import CellCluster
from agent.objects.fence import Fence
from agent.objects.impostors import Impostors
from agent.objects.model import CellRecord
from agent.objects.ownership import drift_of, flexible_of
from agent.objects.repair import is_foreign_policy
from agent.objects.watcher import Watched
from agent.stamps.keeper import StampKeeper
from cellward.cells.conditions import CellCondition
from cellward.cells.labels import cell_labels


class Sightings:
    """Takes what is seen of the cluster."""

    def __init__(
        self,
        roster: Roster,
        cluster: CellCluster,
        fence: Fence,
        stamps: StampKeeper,
        foreign: ForeignPolicies,
        impostors: Impostors,
        pods: PodWatches,
    ) -> None:
        self._roster = roster
        self._cluster = cluster
        self._fence = fence
        self._stamps = stamps
        self._foreign = foreign
        self._impostors = impostors
        self._pods = pods
        #: What was seen of a kind since it is listed again.
        self._seen_refs: dict[str, set[ObjectRef]] = {}

    async def judge(self) -> None:
        """Say which namespaces claim to be cells and are none."""
        await self._impostors.judge()

    async def on_event(self, watched: Watched, event: WatchEvent) -> None:
        """Take what a watch saw."""
        if watched.kind in fence.KINDS:
            changed = await self._fence.handle(watched.kind, event)
            self._stamps.saw_guards(self._fence.fingerprint)
            if changed and self._fence.intact:
                self._roster.reconsider()
            return
        if watched.kind == "Namespace":
            await self._impostors.handle(event)
            own = self._roster.by_namespace.get(event.object["metadata"]["name"]) if event.object else None
            if own is not None:
                await self._foreign.judge()
                self.look_beside()
                own.ground_changed()
        if watched.kind == "ResourceQuota":
            self._quota(event)
            return
        if event.type is WatchType.RESTARTED:
            self._seen_refs[watched.kind] = set()
        elif event.type is WatchType.SYNCED:
            self._missing(watched, self._seen_refs.pop(watched.kind, set()))
        elif event.type in {WatchType.ADDED, WatchType.MODIFIED, WatchType.DELETED}:
            self._object(watched, event)

    def on_synced(self) -> None:
        """Everything is in view again, or other stamps hold: what waited for that goes on, and rollouts are judged."""
        self._roster.reconsider()
        self._roster.wake()

    def _place(self, record: CellRecord) -> Place:
        """Return a cell's namespace with the labels it has, or is to get."""
        return Place(record.namespace, self._impostors.labels_of(record.namespace) or cell_labels(*record.key))

    def places(self) -> tuple[Place, ...]:
        """Return the namespace of every cell."""
        return tuple(self._place(worker.cell.record) for worker in self._roster.workers.values())

    def look_beside(self) -> None:
        """Take note of what else isolates each cell."""
        for worker in self._roster.workers.values():
            found = self.beside(worker.cell.record)
            if found != worker.cell.beside:
                worker.cell.beside = found
                worker.reconsider()
                worker.wake()

    def beside(self, record: CellRecord) -> tuple[CellCondition, ...]:
        """Return what else isolates a cell."""
        return self._foreign.selecting(self._place(record))

    def _missing(self, watched: Watched, seen: set[ObjectRef]) -> None:
        """After a whole list: what we own and did not see is gone."""
        for ref, worker in self._roster.by_ref.items():
            if (ref.api_version, ref.kind) == (watched.api_version, watched.kind) and ref not in seen:
                worker.cell.forget(ref)
                worker.drift.mark_deleted(ref)
                worker.wake()
                self._pods.look(worker)

    def _object(self, watched: Watched, event: WatchEvent) -> None:
        ref = ref_of(event.object)
        if watched.kind in self._seen_refs:
            self._seen_refs[watched.kind].add(ref)
        worker = self._roster.by_ref.get(ref)
        if worker is None:
            self._stranger(event)
            return
        if event.type is WatchType.DELETED:
            worker.cell.forget(ref, event.object)
            worker.drift.mark_deleted(ref)
            worker.wake()
            self._pods.look(worker)
            return
        changed = worker.cell.observe(event.object)
        self._pods.look(worker)
        if self._looks_drifted(worker.cell, event.object):
            worker.drift.mark(ref)
            changed = True
        if changed:
            worker.wake()

    def _quota(self, event: WatchEvent) -> None:
        if event.type not in {WatchType.ADDED, WatchType.MODIFIED, WatchType.DELETED}:
            return
        worker = self._roster.by_namespace.get(event.object["metadata"]["namespace"])
        if worker is not None and worker.cell.saw_quota(event.object, gone=event.type is WatchType.DELETED):
            worker.wake()

    def _stranger(self, event: WatchEvent) -> None:
        live = event.object
        worker = self._roster.by_namespace.get(live["metadata"].get("namespace", ""))
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
        manager = self._cluster.identity(cell.record.namespace).manager_of(owned.role)
        return live["metadata"]["uid"] != owned.uid or bool(drift_of(live, owned.baseline, manager, flexible))
