"""What every step of the engine needs, made once by the composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.documents import KeptDocuments
from agent.cells.revoked import Revoked
from agent.isolation.interfaces import Prober
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster
from agent.objects.fence import Fence
from agent.objects.model import CellRecord
from agent.objects.repair import Repairer
from agent.spool.interfaces import Also, StateDb
from agent.stamps.keeper import StampKeeper
from agent.verify.decide import Gate
from agent.verify.intake import Intake
from cellward.cells.edges import Offer
from cellward.documents.facts import ClusterFacts
from cellward.documents.floors import Floor
from cellward.documents.keyring import Verified
from cellward.documents.model import Deployment, Tombstone
from cellward.documents.names import CellKey
from cellward.runtime.clock import Timer
from cellward.wire.codec import DesiredItem

#: How long the narrowing of a cell waits for its count to be kept outside the state directory, seconds.
CLOSING_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The engine's tools.

    ``copy_floors`` returns when every floor and closing is also kept outside the state directory. ``offers`` says what
    the accepted release of a cell offers here, None where there is none. ``reindex`` is told of a cell whose record
    changed, before the record is relied on. ``view`` returns for how many seconds every watch has seen the cluster
    since the start, or None while one of them does not.
    """

    cluster: CellCluster
    intake: Intake
    gate: Gate
    revoked: Revoked
    repairer: Repairer
    prober: Prober
    fence: Fence
    stamps: StampKeeper
    recorder: RecorderPort
    state: StateDb
    documents: KeptDocuments
    timer: Timer
    facts: Callable[[], ClusterFacts]
    metrics: AgentMetrics
    copy_floors: Callable[[], Awaitable[None]]
    offers: Callable[[CellKey], tuple[Offer, ...] | None]
    reindex: Callable[[Cell], None]
    view: Callable[[], float | None]

    async def raise_floor(
        self, item: DesiredItem, found: Verified[Deployment] | Verified[Tombstone], fallback: str = ""
    ) -> None:
        """Raise the floor of what is being accepted; durable here and in the copy when it returns.

        A place of the copy that does not answer is the API server, without which nothing could be applied either.
        """
        floor = Floor(found.document.sequence, found.digest, found.document.issued_at)
        await self.state.floors.set(*item.key, floor, fallback)
        await self.copy_floors()

    async def copy_closings(self) -> None:
        """Have it known outside the state directory that a cell is closed, before it is; never stands in the way (V13).

        Closing raises no floor, and a full spool keeps no record of it: an old volume would open the cell again. It was
        counted before its record was saved, so that an agent that is killed in between finds both or neither.
        """
        # What does not come through is a condition, and saved with whatever is saved next.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSING_SECONDS):
                await self.copy_floors()

    async def save(self, cell: Cell, record: CellRecord) -> None:
        """Take a record into force and make it durable; raises spool/full, then it holds in memory only."""
        cell.record = record
        self.reindex(cell)
        await self.state.inventory.put(record.namespace, record.to_json())

    async def save_recorded(self, cell: Cell, record: CellRecord, entry: Entry) -> None:
        """Make a record durable together with what tells of it; raises spool/full, then neither holds (V13).

        A process that is killed either finds both at its next start, or neither and does it again.
        """
        await self.recorder.record(entry, also=self.saving(record))
        cell.record = record
        self.reindex(cell)

    async def save_counted(self, cell: Cell, record: CellRecord, entry: Entry) -> None:
        """Like ``save_recorded`` for narrowing and recovery: what the spool has no room for is counted with it."""
        await self.recorder.record_or_count(entry, also=self.saving(record))
        cell.record = record
        self.reindex(cell)

    def saving(self, record: CellRecord) -> Also:
        """Return saving a record as work that joins another write."""
        return self.state.inventory.putting(record.namespace, record.to_json())
