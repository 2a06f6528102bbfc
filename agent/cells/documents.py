"""Which verified documents are kept for which cell; what no cell needs any more is dropped as soon as that is so.

A document may be needed by several cells: one release in two environments has one digest.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from agent.objects.model import CellRecord, record_from_json
from agent.spool.interfaces import StateDb
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()


class KeptDocuments:
    """Digests by the cell that needs them; used by the event loop alone."""

    def __init__(self, state: StateDb) -> None:
        self._state = state
        self._needed: dict[CellKey, frozenset[str]] = {}

    async def load(self) -> None:
        """Take what is durable, and drop the rest; before any cell is worked on."""
        accepted = {CellKey(*item.key): item for item in await self._state.accepted.list()}
        for key, item in accepted.items():
            self._needed[key] = _needed(item, None)
        for namespace in await self._state.inventory.namespaces():
            record = record_from_json(await self._state.inventory.get(namespace))
            key = CellKey(*record.key)
            self._needed[key] = _needed(accepted.get(key), record)
        try:
            await self._state.blobs.keep_only(sorted(self._all()))
        except CellwardError as error:
            _log.warning("documents-not-dropped", code=error.code, reason=error.message)

    def need(self, key: CellKey, digests: Iterable[str]) -> None:
        """Have documents kept that are being accepted, beside what the cell needs already."""
        self._needed[key] = self._needed.get(key, frozenset()) | frozenset(digests)

    async def supersede(self, record: CellRecord) -> None:
        """Drop what a cell does not need any more; what cannot be dropped now goes at the next start."""
        key = CellKey(*record.key)
        held = self._needed.get(key, frozenset())
        self._needed[key] = _needed(await self._state.accepted.get(*key), record)
        await self._drop(held)

    async def forget(self, key: CellKey) -> None:
        """Drop what was kept for a cell that is forgotten."""
        await self._drop(self._needed.pop(key, frozenset()))

    async def _drop(self, held: frozenset[str]) -> None:
        gone = sorted(held - self._all())
        if not gone:
            return
        try:
            await self._state.blobs.drop(gone)
        except CellwardError as error:
            _log.warning("documents-not-dropped", code=error.code, reason=error.message)

    def _all(self) -> frozenset[str]:
        return frozenset().union(*self._needed.values())


def _needed(accepted: DesiredItem | None, record: CellRecord | None) -> frozenset[str]:
    """Return what finishes, undoes or repeats what is in force."""
    found: set[str] = set() if accepted is None else {accepted.deployment_digest, *accepted.evidence}
    if record is not None:
        found |= {record.deployment_digest, record.release_digest, record.settled_release}
    return frozenset(found - {""})
