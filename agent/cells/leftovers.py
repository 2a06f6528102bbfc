"""What still runs of a cell that is to be gone, whatever is on record of it: a signed end says no more than is true.

Asked of the cluster, not of the record: records get lost, and whoever may write in a cell takes off what says whose an
object is. What has the labels of the cell and runs pods in its namespace goes with it; where that namespace cannot be
proved to be ours nothing is touched, and the end stays open and names what is there (V14, V15).
"""

from __future__ import annotations

from typing import Final

from agent.cells.adopt import Adoption, found_object, labelled
from agent.cells.cell import Cell
from agent.cells.leaving import Leaving
from agent.kube.interfaces import ObjectRef
from agent.objects.cluster import CellCluster
from agent.objects.errors import NOT_GONE
from agent.objects.model import CellRecord, OwnedObject
from agent.objects.order import WORKLOADS
from cellward.cells.labels import cell_labels
from cellward.cells.manifests import ALLOWED

#: So many objects are named; the rest is counted.
_NAMED: Final = 5


class Leftovers:
    """Looks after an end; keeps nothing."""

    def __init__(self, cluster: CellCluster, adoption: Adoption, leaving: Leaving) -> None:
        self._cluster = cluster
        self._adoption = adoption
        self._leaving = leaving

    async def end(self, cell: Cell) -> None:
        """End the workloads that are left; raises apply/deletion-pending while there are any."""
        if not await self._is_claimed(cell.record):
            return
        left = await self._workloads(cell.record)
        if not left:
            return
        if await self._adoption.proves(cell.record):
            await self._leaving.ask(cell, left, "Foreground")
            await self._leaving.check_gone(cell)
            left = await self._workloads(cell.record)
        if left:
            names = ", ".join(str(owned.ref) for owned in left[:_NAMED])
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            raise NOT_GONE(f"{names}{more} have the labels of the cell and still run", object=str(left[0].ref))

    async def check_gone(self, cell: Cell) -> None:
        """Raise apply/deletion-pending while the namespace is there and says that it is of this cell."""
        if await self._is_claimed(cell.record):
            place = f"Namespace/{cell.record.namespace}"
            raise NOT_GONE(f"namespace {cell.record.namespace} with everything in it is not gone", object=place)

    async def _is_claimed(self, record: CellRecord) -> bool:
        """Whether the namespace is there and has the labels of the cell; without them it is somebody else's."""
        live = await self._cluster.look(ObjectRef("v1", "Namespace", "", record.namespace))
        found = {} if live is None else live["metadata"].get("labels") or {}
        return live is not None and all(found.get(name) == value for name, value in cell_labels(*record.key).items())

    async def _workloads(self, record: CellRecord) -> list[OwnedObject]:
        kinds = sorted((api_version, kind) for api_version, kind in ALLOWED if kind in WORKLOADS)
        kube = self._cluster.kube
        return [
            found_object(seen, "labels")
            for api_version, kind in kinds
            async for seen in labelled(kube, record, api_version, kind)
        ]
