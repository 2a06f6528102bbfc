"""What an end deletes, until it is gone: asked for once, then seen off by drift repair (``record.going``)."""

from __future__ import annotations

from collections.abc import Sequence

from agent.cells.cell import Cell
from agent.cells.keeping import Keeping
from agent.objects.cluster import CellCluster, Propagation, not_gone
from agent.objects.every import every
from agent.objects.model import CellRecord, OwnedObject
from agent.objects.order import is_workload
from cellward.errors import CellwardError


class Leaving:
    """Deletes one group of objects after the other."""

    def __init__(self, cluster: CellCluster, keeping: Keeping) -> None:
        self._cluster = cluster
        self._keeping = keeping

    async def ask(self, cell: Cell, objects: Sequence[OwnedObject], propagation: Propagation = "Background") -> None:
        """Ask for the deletion of objects. They are on record as going, so that a killed agent looks after them."""
        cluster = self._cluster
        asked = await every(objects, lambda owned: cluster.delete(cell.record, owned, propagation))
        record: CellRecord = cell.record
        for owned in objects:
            record = record.without(owned.ref)
            cell.forget(owned.ref)
        for going in asked:
            record = record if going is None else record.with_going(going)
        if record is not cell.record:
            await self._keeping.save(cell, record)

    async def check_gone(self, cell: Cell, *, workloads_only: bool = False) -> None:
        """Raise apply/deletion-pending while something that was deleted is there, whichever release it was of."""
        record: CellRecord = cell.record
        left: CellwardError | None = None
        for going in record.going:
            live = await self._cluster.let_go(going)
            if live is None:
                record = record.without_going(going.ref)
            elif is_workload(going) or not workloads_only:
                left = left or not_gone(going.ref, live)
        if record is not cell.record:
            await self._keeping.save(cell, record)
        if left is not None:
            raise left
