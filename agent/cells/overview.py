"""What is said of all cells together: the conditions and the gauges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from agent.cells.cell import Cell
from agent.cells.errors import WORKER_ENDED
from agent.cells.machine.phase import Phase
from agent.cells.roster import Roster
from agent.metrics.registry import AgentMetrics
from agent.objects.errors import NOT_REPAIRED
from cellward.documents.names import CellKey
from cellward.runtime.health import HealthRegistry
from cellward.telemetry.metrics import (
    AGENT_CELL_OBJECTS,
    AGENT_CELL_READY,
    AGENT_CELLS,
    AGENT_DRIFT_UNREPAIRED,
    AGENT_EGRESS_LAG,
    AGENT_ISOLATION,
    AGENT_ISOLATION_EDGES,
    AGENT_ISOLATION_PROBED,
)

#: Condition about all cells together.
CONDITION: Final = "cells"
#: Condition about what differs from what was released and cannot be brought back.
REPAIRS: Final = "repairs"


class Overview:
    """Judges all cells."""

    def __init__(self, roster: Roster, health: HealthRegistry, metrics: AgentMetrics) -> None:
        self._roster = roster
        self._health = health
        self._metrics = metrics

    def judge(self, dead: Sequence[CellKey]) -> None:
        """Set the conditions and the gauges; ``dead`` are the cells whose worker ended."""
        cells = [worker.cell for worker in self._roster.workers.values()]
        self._judge_repairs(cells)
        if dead:
            message = f"nothing works on {len(dead)} of {len(cells)} cells any more, {'/'.join(dead[0])} for one"
            self._health.set(CONDITION, ok=False, code=WORKER_ENDED.code, message=message)
            _count(self._metrics, cells)
            return
        bad = [cell for cell in cells if cell.phase in {Phase.DEGRADED, Phase.REFUSED} or _stuck(cell)]
        first = f"{bad[0].record.namespace} is {bad[0].phase.value}" if bad else ""
        code = next((one.code for cell in bad for one in cell.life.complaints), "cell/not-healthy") if bad else ""
        message = f"{len(bad)} of {len(cells)} cells need attention; {first}" if bad else ""
        self._health.set(CONDITION, ok=not bad, code=code, message=message)
        _count(self._metrics, cells)

    def _judge_repairs(self, cells: Sequence[Cell]) -> None:
        """Say what only an administrator can mend, with the command of the first."""
        stuck = [found for cell in cells for found in cell.open_repairs]
        more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
        message = f"{stuck[0].subject}: {stuck[0].message}{more}" if stuck else ""
        code = NOT_REPAIRED.code if stuck else ""
        self._health.set(REPAIRS, ok=not stuck, code=code, message=message)


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
    _count_proofs(metrics, cells)
    metrics.replace(AGENT_DRIFT_UNREPAIRED, unrepaired)


def _count_proofs(metrics: AgentMetrics, cells: Sequence[Cell]) -> None:
    """Edges by what was expected and measured, when that was, and how late isolation took hold of a new pod."""
    edges: dict[tuple[str, ...], float] = {}
    probed: dict[tuple[str, ...], float] = {}
    lag: dict[tuple[str, ...], float] = {}
    for cell in cells:
        evidence, key = cell.evidence, cell.record.key
        late = (cell.start_seconds, None if evidence is None else evidence.egress_lag_seconds)
        if found := [one for one in late if one is not None]:
            lag[key] = max(found)
        if evidence is None:
            continue
        probed[key] = evidence.at.timestamp()
        for (expected, measured), count in Counter((one.expected, one.measured) for one in evidence.edges).items():
            edges[(*key, expected, measured)] = float(count)
    metrics.replace(AGENT_ISOLATION_EDGES, edges)
    metrics.replace(AGENT_ISOLATION_PROBED, probed)
    metrics.replace(AGENT_EGRESS_LAG, lag)
