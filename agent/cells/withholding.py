"""Carries out what is withheld from one cell, by the hub, by signatures, and by what other cells offer."""

from __future__ import annotations

from functools import partial

from agent.cells.cell import Cell
from agent.cells.drift import DriftControl
from agent.cells.edges import Edges
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.narrow import Narrowing, half_written
from agent.cells.outcomes import Outcome
from agent.spool.interfaces import Floors
from cellward.errors import CellwardError


class Withholding:
    """Narrows one cell, in its turn."""

    def __init__(self, cell: Cell, narrowing: Narrowing, edges: Edges, drift: DriftControl, floors: Floors) -> None:
        self._cell = cell
        self._narrowing = narrowing
        self._edges = edges
        self._drift = drift
        self._floors = floors

    async def narrow(self, effect: do.Narrow) -> Outcome:
        """Withhold; what runs goes on running, under quarantine without any connection."""
        work = effect.work
        if work.item.hub_state != "quarantine":
            # Hold says nothing about isolation: a quarantine before it is lifted to what was released.
            await self._narrowing.lift(self._cell, work.item, work.correlation)
            return on.Narrowed
        try:
            await self._narrowing.quarantine(self._cell, work.item, work.correlation)
        except CellwardError:
            # What could not be closed is repaired from now on, at the pace of the ground.
            for owned in half_written(self._cell.record):
                self._drift.mark(owned.ref)
            raise
        return on.Narrowed

    async def lift(self, effect: do.Lift) -> Outcome:
        """Give back what was released; says whether that is what is in force."""
        work = effect.work
        await self._narrowing.lift(self._cell, work.item, work.correlation)
        # What is on record may be older than the floor, which decides.
        floor = await self._floors.get(*work.item.key)
        return partial(on.Lifted, in_force=floor is None or floor.digest == work.item.deployment_digest)

    async def judge_edges(self, _: do.JudgeEdges) -> Outcome:
        """Close and open the edges to other cells."""
        await self._edges.judge()
        return on.Noted
