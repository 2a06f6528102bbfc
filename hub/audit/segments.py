"""Retention: segments of the log that can be exported, pruned, and still verified.

A segment is sealed when the log has grown past its end; its records and hashes never change then. Pruning forgets the
records and keeps every hash of the tree: old tree heads, proofs and repeats of pruned records are answered as before.
Invariants: only the oldest segment that is here can be pruned, so the log is always a whole with one beginning; it was
compared with its own hashes, and whoever asks for it shows the digest of its export, in the same call; that it was
pruned is a record of the log, in the same transaction (V13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from cellward.errors import CellwardError
from hub.audit.damage import PAGE, verify_span
from hub.audit.errors import GONE, NO_REALM, NOT_OLDEST, SEGMENT_DIFFERS, UNKNOWN_SEGMENT
from hub.audit.export import write_segment
from hub.audit.tree import WIDTH
from hub.store.errors import MOVED
from hub.store.interfaces import Commit
from hub.store.log import AuditEntry, AuditRun, AuditStore

#: Records of a segment, a multiple of a tile's; some 15 MB when exported.
RECORDS: Final = 64 * WIDTH


@dataclass(frozen=True, slots=True)
class Segment:
    """Records ``first`` <= index < ``end``; ``pruned``: they are not here any more."""

    number: int
    first: int
    end: int
    pruned: bool


class Segments:
    """The sealed segments of one log.

    Args:
        store: the log at rest.
        realm: asked each time, empty before a root was adopted.
        records: of each segment, a multiple of 256.
    """

    def __init__(self, store: AuditStore, realm: Callable[[], str], records: int = RECORDS) -> None:
        if records % WIDTH:
            raise ValueError("a segment is made of whole tiles")
        self._store = store
        self._realm = realm
        self._records = records

    async def list(self) -> Sequence[Segment]:
        """Return every sealed segment, oldest first."""
        tip = await self._store.tip()
        # One more than fits: the last record of the log stays, so that there is one to append to.
        count = max(0, tip.size - 1) // self._records
        spans = ((number, number * self._records) for number in range(count))
        return [Segment(number, at, at + self._records, at < tip.pruned) for number, at in spans]

    async def get(self, number: int) -> Segment:
        """Return a segment that is here. Raises audit/unknown-segment, audit/pruned, audit/no-realm."""
        if not self._realm():
            raise NO_REALM("a log without a realm has no name")
        found = next((segment for segment in await self.list() if segment.number == number), None)
        if found is None:
            raise UNKNOWN_SEGMENT(f"segment {number} is not sealed")
        if found.pruned:
            raise GONE(f"segment {number}, records {found.first} to {found.end - 1}, was pruned")
        return found

    async def require(self, index: int) -> None:
        """Raise audit/pruned, naming the segment, unless the record of this index is here, or is still to come."""
        if index < (await self._store.tip()).pruned:
            number = index // self._records
            raise GONE(f"record {index} is in segment {number}, which was exported and pruned", segment=number)

    async def export(self, number: int, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write a segment as NDJSON, always the same bytes; raises as ``get``."""
        segment = await self.get(number)
        await write_segment(self._store, self._realm(), segment.first, segment.end, write)

    async def prune(self, number: int, digest: str, commit: Commit[None]) -> Segment:
        """Forget the records of a segment whose export has this digest, ``sha256:<hex>``; recorded by ``commit``.

        Raises audit/not-oldest-segment, audit/segment-differs, store/damaged, store/moved and as ``get``, also when
        another process pruned it meanwhile; then nothing was pruned by this call.
        """
        segment = await self.get(number)
        oldest = next(one for one in await self.list() if not one.pruned)
        if segment != oldest:
            raise NOT_OLDEST(f"segment {oldest.number} is still here", segment=oldest.number)
        await verify_span(self._store, segment.first, segment.end)
        found = sha256()

        async def update(data: bytes) -> None:
            found.update(data)
            await asyncio.sleep(0)

        await self.export(number, update)
        if f"sha256:{found.hexdigest()}" != digest:
            raise SEGMENT_DIFFERS(f"the export of segment {number} has another digest than {digest[:80]}")
        runs: list[AuditRun] = []
        for at in range(segment.first, segment.end, PAGE):
            add_runs(runs, await self._store.entries(at, min(at + PAGE, segment.end)))
        try:
            await commit(lambda tables: tables.audit.prune(segment.first, segment.end, runs))
        except CellwardError as error:
            if error.code == MOVED.code:
                # Somebody else has pruned it meanwhile: that has a name.
                await self.get(number)
            raise
        return replace(segment, pruned=True)


def add_runs(runs: list[AuditRun], entries: Sequence[AuditEntry]) -> None:
    """Add where the next records stand: each run of one writer's records side by side, in order."""
    for entry in entries:
        last = runs[-1] if runs else None
        place = (entry.origin, entry.epoch, entry.seq)
        if last is not None and place == (last.origin, last.epoch, last.seq + last.count):
            runs[-1] = replace(last, count=last.count + 1)
        else:
            runs.append(AuditRun(*place, entry.index, 1))
