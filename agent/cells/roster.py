"""Every cell of this cluster with its worker, and which of them an object, a namespace or an edge is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.cells.cell import Cell
from agent.cells.restamp import is_behind
from agent.cells.worker import CellWorker
from agent.kube.interfaces import ObjectRef, ref_of
from agent.objects.model import Role
from cellward.cells.edges import Offer
from cellward.cells.stamps import Stamps
from cellward.documents.names import CellKey


class Roster:
    """The workers, by what they are looked up by; used by the event loop alone.

    Attributes:
        workers: the worker of every cell.
        by_namespace: the same by the cell's namespace.
        by_ref: the same by every object of a cell, also one that is going.
    """

    def __init__(self) -> None:
        self.workers: dict[CellKey, CellWorker] = {}
        self.by_namespace: dict[str, CellWorker] = {}
        self.by_ref: dict[ObjectRef, CellWorker] = {}
        self._refs_of: dict[CellKey, frozenset[ObjectRef]] = {}
        self._told: dict[CellKey, tuple[Offer, ...] | None] = {}

    def add(self, worker: CellWorker) -> None:
        """Take in a new cell, as its record has it. Nobody is woken: what it offers is what everybody began with."""
        key = CellKey(*worker.cell.record.key)
        self.workers[key] = worker
        self.by_namespace[worker.cell.record.namespace] = worker
        self._index(key, worker)
        self._told[key] = self.offers(key)

    def remove(self, key: CellKey) -> None:
        """Forget a cell that has nothing any more."""
        worker = self.workers.pop(key)
        del self.by_namespace[worker.cell.record.namespace]
        for ref in self._refs_of.pop(key):
            self.by_ref.pop(ref, None)
        self._told.pop(key, None)

    def changed(self, cell: Cell) -> None:
        """Take a record that changed; the edges to the cell are judged again when what it offers did."""
        key = CellKey(*cell.record.key)
        self._index(key, self.workers[key])
        offers = self.offers(key)
        if self._told.get(key) == offers:
            return
        self._told[key] = offers
        for worker in self.workers.values():
            record = worker.cell.record
            if any(CellKey(need.project, need.cell, record.environment) == key for need in record.needs):
                worker.wake()

    def _index(self, key: CellKey, worker: CellWorker) -> None:
        record = worker.cell.record
        refs = frozenset(one.ref for one in (*record.objects, *record.going))
        for ref in self._refs_of.get(key, frozenset()) - refs:
            self.by_ref.pop(ref, None)
        for ref in refs:
            self.by_ref[ref] = worker
        self._refs_of[key] = refs

    def offers(self, key: CellKey) -> tuple[Offer, ...] | None:
        """Return what the accepted release of a cell offers here; None where there is none, or it is going."""
        worker = self.workers.get(CellKey(*key))
        record = None if worker is None else worker.cell.record
        return record.offers if record is not None and record.release_digest and not record.ending else None

    def owns_namespace(self, name: str) -> bool:
        """Whether a namespace is on record as one that was accepted."""
        worker = self.by_namespace.get(name)
        return worker is not None and any(owned.role is Role.NAMESPACE for owned in worker.cell.record.objects)

    def behind(self, stamps: Stamps | None) -> tuple[str, ...]:
        """Return the namespaces of cells that are not wholly written with these stamps."""
        records = [worker.cell.record for worker in self.workers.values()]
        return tuple(record.namespace for record in records if is_behind(record, stamps))

    def saw(self, live: Mapping[str, Any]) -> None:
        """Take note of what a write of our own returned."""
        worker = self.by_ref.get(ref_of(live))
        if worker is not None:
            worker.cell.observe(live)

    def reconsider(self) -> None:
        """Have every cell try again what was refused or waits."""
        for worker in self.workers.values():
            worker.reconsider()

    def wake(self) -> None:
        """Have every cell look."""
        for worker in self.workers.values():
            worker.wake()
