"""Makes durable what becomes of a cell: its record, with what says so, its floor, and that it was closed (V13)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.objects.model import CellRecord
from agent.spool.interfaces import Also, StateDb
from cellward.documents.floors import Floor
from cellward.documents.keyring import Verified
from cellward.documents.model import Deployment, Tombstone
from cellward.wire.codec import DesiredItem

#: How long the closing of a cell waits for its count to be kept outside the state directory, seconds.
CLOSING_SECONDS: Final = 2.0


class Keeping:
    """Writes to the state directory.

    ``copy_floors`` returns when every floor and closing is also kept outside of it. ``reindex`` is called with a cell
    whose record changed, before the record is relied on.
    """

    def __init__(
        self,
        state: StateDb,
        recorder: RecorderPort,
        copy_floors: Callable[[], Awaitable[None]],
        reindex: Callable[[Cell], None],
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._copy_floors = copy_floors
        self.reindex = reindex

    async def raise_floor(
        self, item: DesiredItem, found: Verified[Deployment] | Verified[Tombstone], fallback: str = ""
    ) -> None:
        """Raise the floor of what is being accepted; durable here and in the copy when it returns.

        A place of the copy that does not answer is the API server, without which nothing could be applied either.
        """
        floor = Floor(found.document.sequence, found.digest, found.document.issued_at)
        await self._state.floors.set(*item.key, floor, fallback)
        await self._copy_floors()

    async def copy_closings(self) -> None:
        """Have it known outside the state directory that a cell is closed, before it is; never stands in the way (V13).

        Closing raises no floor, and a full spool keeps no record of it: an old volume would open the cell again. It was
        counted before its record was saved, so that an agent that is killed in between finds both or neither.
        """
        # What does not come through is a condition, and saved with whatever is saved next.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._copy_floors()

    async def save(self, cell: Cell, record: CellRecord) -> None:
        """Take a record into force and make it durable; raises spool/full, then it holds in memory only."""
        cell.record = record
        self.reindex(cell)
        await self._state.inventory.put(record.namespace, record.to_json())

    async def save_recorded(self, cell: Cell, record: CellRecord, entry: Entry) -> None:
        """Make a record durable together with what tells of it; raises spool/full, then neither holds (V13).

        A process that is killed either finds both at its next start, or neither and does it again.
        """
        await self._recorder.record(entry, also=self.saving(record))
        cell.record = record
        self.reindex(cell)

    async def save_counted(self, cell: Cell, record: CellRecord, entry: Entry) -> None:
        """Like ``save_recorded`` for narrowing and recovery: what the spool has no room for is counted with it."""
        await self._recorder.record_or_count(entry, also=self.saving(record))
        cell.record = record
        self.reindex(cell)

    def saving(self, record: CellRecord) -> Also:
        """Return saving a record as work that joins another write."""
        return self._state.inventory.putting(record.namespace, record.to_json())
