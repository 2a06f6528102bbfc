"""Brings the namespace and the isolation of one cell to the stamps that hold now, without release, policy or hub (V1).

Nothing of an object changes but its stamps (``Stamps.restamp``), so this is neither a release nor drift. What the API
server refuses is left to drift repair, which goes on trying; the rest of the cell does not wait for it.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from agent.cells.cell import Cell
from agent.cells.drift import DriftControl
from agent.cells.keeping import Keeping
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.repair import Repairer
from agent.stamps.keeper import StampKeeper
from cellward.cells.stamps import Stamps
from cellward.errors import CellwardError

_log = structlog.get_logger()

_STAMPED = frozenset({Role.NAMESPACE, Role.ISOLATION})


def restamped(record: CellRecord, stamps: Stamps) -> tuple[OwnedObject, ...]:
    """Return the objects of a record that other stamps hold for, as they are to be; pure.

    One that has to be written has no baseline: so it is known not to be written yet, also after a restart.
    """
    changed = []
    for owned in record.objects:
        if owned.role not in _STAMPED:
            continue
        manifest = stamps.restamp(owned.manifest)
        opened = stamps.restamp(owned.opened) if owned.opened else {}
        if (manifest, opened) != (owned.manifest, owned.opened):
            baseline = owned.baseline if manifest == owned.manifest else {}
            changed.append(replace(owned, manifest=manifest, opened=opened, baseline=baseline))
    return tuple(changed)


def is_behind(record: CellRecord, stamps: Stamps | None) -> bool:
    """Whether something of a cell is not known to be written with these stamps; pure."""
    ours = [owned for owned in record.objects if owned.role in _STAMPED and owned.uid]
    if stamps is None:
        return bool(ours)
    return any(not owned.baseline for owned in ours) or bool(restamped(record, stamps))


class Restamping:
    """Restamps one cell, in its turn."""

    def __init__(
        self, stamps: StampKeeper, repairer: Repairer, keeping: Keeping, cell: Cell, drift: DriftControl
    ) -> None:
        self._stamps = stamps
        self._repairer = repairer
        self._keeping = keeping
        self._cell = cell
        self._drift = drift
        self._seen: tuple[Stamps | None, tuple[OwnedObject, ...]] = (None, ())

    @property
    def due(self) -> bool:
        """Whether there is something to do; looks closely only when stamps or record are others than last time."""
        stamps, record = self._stamps.current, self._cell.record
        if stamps is None or (self._seen[0] is stamps and self._seen[1] is record.objects):
            return False
        if restamped(record, stamps):
            return True
        self._seen = (stamps, record.objects)
        self._stamps.nudge()
        return False

    async def run(self) -> None:
        """Write what has to be written."""
        stamps, cell = self._stamps.require(), self._cell
        changed = restamped(cell.record, stamps)
        for owned in changed:
            cell.record = cell.record.with_object(owned)
        self._keeping.reindex(cell)
        # In the order of the record: the namespace before what selects it.
        for owned in changed:
            if owned.uid and not owned.baseline and cell.record.ending != "all":
                await self._write(owned)
        try:
            await self._keeping.save(cell, cell.record)
        except CellwardError as error:
            # What the cluster has stands; a restart does it again.
            _log.error("record-not-saved", namespace=cell.record.namespace, code=error.code)
        self._stamps.nudge()

    async def _write(self, owned: OwnedObject) -> None:
        try:
            repair = await self._repairer.check(self._cell.record, owned)
        except CellwardError as error:
            _log.warning("restamp-failed", object=str(owned.ref), code=error.code, reason=error.message)
            self._drift.mark(owned.ref)
            return
        if repair is not None:
            self._cell.record = self._cell.record.with_object(repair.owned)
