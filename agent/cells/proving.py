"""Measures again whether cells are isolated while they run: when what is known is old, or its subject changed.

What is found changes nothing that runs (a policy decides on the next release with it): it is reported, recorded when it
is another, and shown as a condition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from agent.audit.interfaces import RecorderPort
from agent.cells.cell import Cell
from agent.cells.evidence import in_force, is_isolated, measured
from agent.cells.roster import Roster
from agent.cells.worker import CellWorker
from agent.isolation.interfaces import Evidence, Prober
from agent.isolation.kept import aged, bounded, wrong_of
from agent.spool.interfaces import Blobs
from cellward.cells.network import NetworkIntent, intent
from cellward.documents.kept import kept_release
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of

_log = structlog.get_logger()

#: Between two looks whether something is due, seconds.
LOOK_SECONDS: Final = 5.0
#: After so many seconds what was measured counts no longer, unless the installation says otherwise.
MAX_AGE_SECONDS: Final = 1800.0


class Proving:
    """The proofs of all cells of a cluster; what is older than ``max_age`` seconds is ``unknown`` (V9)."""

    def __init__(
        self,
        prober: Prober,
        roster: Roster,
        blobs: Blobs,
        recorder: RecorderPort,
        timer: Timer,
        max_age: float = MAX_AGE_SECONDS,
    ) -> None:
        self._prober = prober
        self._roster = roster
        self._blobs = blobs
        self._recorder = recorder
        self._timer = timer
        self._max_age = max_age
        #: Set when somebody asks for a measurement.
        self._asked = asyncio.Event()
        #: Cells that are being measured, by namespace.
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for ever; how many cells are measured at once is the prober's affair."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._asked.clear()
                for namespace, worker in list(self._roster.by_namespace.items()):
                    if namespace not in self._under_way:
                        await self._safely(worker, self._begin(group, worker))
                await first_of(self._timer.sleep(LOOK_SECONDS), self._asked.wait())

    async def _safely(self, worker: CellWorker, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except CellwardError as error:
            _log.warning("isolation-not-measured", code=error.code, reason=error.message)
        except Exception:  # noqa: BLE001 - V16: what nobody foresaw of one cell must not end the looks at all
            _log.exception("isolation-not-measured", cell=worker.cell.record.namespace)

    def others(self, namespace: str) -> list[NetworkIntent]:
        """Return what was accepted for the other cells, as far as it is known since the start."""
        cells = [worker.cell for name, worker in self._roster.by_namespace.items() if name != namespace]
        return [in_force(cell, cell.network) for cell in cells if cell.network is not None and cell.record.settled]

    def again(self, namespace: str) -> str:
        """Let what was measured of a cell count no longer; returns why nothing will be measured, mostly empty."""
        worker = self._roster.by_namespace.get(namespace)
        if worker is None or worker.cell.network is None:
            return f"nothing is known of {namespace} here"
        network = in_force(worker.cell, worker.cell.network)
        if not self._prober.forget(network.namespace) and not self._prober.due(network):
            return "what was measured a moment ago still counts, or there is no prober"
        self._asked.set()
        return ""

    async def _begin(self, group: asyncio.TaskGroup, worker: CellWorker) -> None:
        """Look whether a cell is due, and measure it beside everything else if it is."""
        network = await self._due(worker)
        if network is None:
            return
        namespace = worker.cell.record.namespace
        task = group.create_task(self._safely(worker, self._measure(worker, network)), name=f"proving-{namespace}")
        self._under_way[namespace] = task
        task.add_done_callback(lambda _: self._under_way.pop(namespace, None))

    async def _due(self, worker: CellWorker) -> NetworkIntent | None:
        """Return the intent of a cell that is to be measured now, and let what is known of it grow old."""
        cell = worker.cell
        if not _has_ground(cell):
            return None
        if cell.evidence is not None:
            await self._told(worker, aged(cell.evidence, self._timer.now(), self._max_age))
        if cell.network is None:
            cell.network = await self._kept(cell)
        if cell.network is None:
            return None
        network = in_force(cell, cell.network)
        return network if self._prober.due(network) else None

    async def _measure(self, worker: CellWorker, network: NetworkIntent) -> None:
        cell = worker.cell
        evidence = await self._prober.probe(network)
        if cell.network is None or in_force(cell, cell.network) != network or not _has_ground(cell):
            # The cell changed meanwhile. What was measured across that is not reported, so nothing may count on it.
            self._prober.discard(network.namespace)
            return
        await self._told(worker, bounded(evidence))

    async def _told(self, worker: CellWorker, evidence: Evidence) -> None:
        """Take evidence as what holds now; the worker makes it durable in its turn."""
        cell = worker.cell
        if evidence == cell.evidence:
            return
        state, wrong = cell.isolation, wrong_of(cell.evidence)
        cell.evidence = evidence
        if cell.isolation != state or wrong_of(evidence) != wrong:
            await self._recorder.record_or_count(measured(cell, evidence))
        if cell.isolation != state:
            # What was refused for want of a proof is decided again.
            worker.reconsider()
        worker.wake()
        await worker.report()

    async def _kept(self, cell: Cell) -> NetworkIntent | None:
        """Read the intent of what runs from the release that was kept when it was accepted."""
        release = kept_release(await self._blobs.get(cell.record.release_digest))
        return None if release is None else intent(release, cell.record.environment)


def _has_ground(cell: Cell) -> bool:
    """Whether isolation is written and nothing is being done, so that there is something to be measured."""
    return is_isolated(cell.record) and cell.life.work is None
