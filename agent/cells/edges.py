"""Closes the edges of a cell whose callee, as it was accepted on this cluster, offers something else; opens them again.

Judged when either side's accepted release changes. What is closed is one NetworkPolicy, as in quarantine; the rest of
the cell runs, and says which edge is closed and why (V15). Closing is narrowing: it waits for no room (V13).
"""

from __future__ import annotations

from dataclasses import replace

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.cells.cell import Cell
from agent.cells.keeping import Keeping
from agent.cells.narrow import Narrowing, half_written
from agent.cells.sides import Offers, refused_edges
from agent.objects.model import CellRecord


class Edges:
    """Judges the edges of one cell, in its turn."""

    def __init__(
        self, recorder: RecorderPort, keeping: Keeping, offers: Offers, cell: Cell, narrowing: Narrowing
    ) -> None:
        self._recorder = recorder
        self._keeping = keeping
        self._offers = offers
        self._cell = cell
        self._narrowing = narrowing
        #: Edges whose closing is on record since the start.
        self._told: tuple[str, ...] = ()

    def look(self) -> tuple[tuple[RefusalText, ...], bool]:
        """Return why edges are to be closed, and whether one is to be closed, opened or recorded yet."""
        refused = self._refused()
        names = tuple(sorted(refused))
        return tuple(refused.values()), self._judged and (names != self._told or self._changed(names))

    async def judge(self) -> None:
        """Close and open what has to be. Raises what the API server does."""
        cell, refused = self._cell, self._refused()
        names = tuple(sorted(refused))
        changed = self._changed(names)
        entry = self._entry(cell.record, refused)
        if set(cell.record.shut) - set(names):
            await self._recorder.record(entry)
            await self._rewrite(names)
            await self._keeping.save(cell, cell.record)
        elif changed:
            await self._rewrite(names)
            await self._keeping.save_counted(cell, cell.record, entry)
        else:
            # Closed when the release was applied, or before the agent started.
            await self._recorder.record_or_count(entry)
        self._told = names

    @property
    def _judged(self) -> bool:
        """Whether there is a whole release whose edges are to be judged."""
        return self._cell.record.settled and not self._cell.record.ending

    def _refused(self) -> dict[str, RefusalText]:
        record = self._cell.record
        return refused_edges(record.needs, record.environment, self._offers) if self._judged else {}

    def _changed(self, names: tuple[str, ...]) -> bool:
        record = self._cell.record
        return names != record.shut or (bool(names) and bool(half_written(record)))

    async def _rewrite(self, names: tuple[str, ...]) -> None:
        cell, before = self._cell, self._cell.record
        cell.record = replace(before, shut=names)
        try:
            await self._narrowing.rewrite(cell, quarantined=before.quarantined)
        finally:
            cell.record = replace(cell.record, unrecorded=before.unrecorded)

    @staticmethod
    def _entry(record: CellRecord, refused: dict[str, RefusalText]) -> Entry:
        first = next(iter(refused.values()), None)
        return Entry(
            "cell.isolate",
            f"Cell/{record.namespace}",
            "allow" if first is None else "deny",
            code="" if first is None else first.code,
            rule="" if first is None else first.rule,
            reason="the callee offers again what was signed" if first is None else f"{first.object}: {first.reason}",
            details={"deploymentDigest": record.deployment_digest, "count": str(len(refused))},
        )
