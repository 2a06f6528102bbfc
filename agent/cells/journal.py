"""What a rollout records and keeps: durable before it acts (V13); a rollback goes on without."""

from __future__ import annotations

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.change import Change
from agent.cells.documents import KeptDocuments
from agent.cells.keeping import Keeping
from agent.objects.model import CellRecord
from agent.spool.interfaces import Blobs
from cellward.documents.names import CellKey
from cellward.errors import CellwardError

_log = structlog.get_logger()


class Journal:
    """Records and state of rollouts. A fallback is recovery: a full spool does not block it, the loss is counted."""

    def __init__(self, recorder: RecorderPort, documents: KeptDocuments, blobs: Blobs, keeping: Keeping) -> None:
        self._recorder = recorder
        self._documents = documents
        self._blobs = blobs
        self._keeping = keeping

    async def note(self, change: Change, entry: Entry) -> None:
        """Record a step before it is done."""
        if change.fallback:
            await self._recorder.record_or_count(entry)
        else:
            await self._recorder.record(entry)

    async def save(self, cell: Cell, change: Change, record: CellRecord) -> None:
        """Take a record into force and make it durable."""
        try:
            await self._keeping.save(cell, record)
        except CellwardError as error:
            self._only_on_the_way_back(change, error)

    async def save_noted(self, cell: Cell, change: Change, record: CellRecord, entry: Entry) -> None:
        """Make a record durable together with what tells of it."""
        if change.fallback:
            await self._keeping.save_counted(cell, record, entry)
        else:
            await self._keeping.save_recorded(cell, record, entry)

    async def keep(self, change: Change) -> None:
        """Keep the documents. Only what is accepted takes room, not what is merely offered, however well signed."""
        self._documents.need(CellKey(*change.item.key), change.verified.envelopes)
        for digest, envelope in change.verified.envelopes.items():
            try:
                await self._blobs.put(digest, envelope)
            except CellwardError as error:
                self._only_on_the_way_back(change, error)

    def _only_on_the_way_back(self, change: Change, error: CellwardError) -> None:
        if not change.fallback or not error.code.startswith("spool/"):
            raise error
        _log.error("fallback-not-saved", namespace=change.rendered.namespace, code=error.code)
