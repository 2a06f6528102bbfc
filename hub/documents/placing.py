"""Reads what is current, asks ``hub.placement``, and writes what changed: inside the transaction it is given.

Invariants: what is decided on is read in the same transaction; desired items are only ever added or moved, an item that
nothing places any more stays as it is (V14); what an upload costs does not grow with what was kept before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from cellward.documents import canonical
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.documents.numbers import newest_number
from hub.documents import rows
from hub.documents.index import is_key
from hub.placement.choice import Candidates
from hub.placement.delivery import Invited, deliverable, reported
from hub.placement.model import IndexEntry
from hub.store.interfaces import ClusterRow, DesiredChange, DesiredRow, Tables

if TYPE_CHECKING:
    from cellward.runtime.clock import Clock

#: Changes whenever the same facts and documents are placed in another way, so that everything is placed again.
_METHOD: Final = 1
_log = structlog.get_logger()


class Placer:
    """Places documents on clusters."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._facts: dict[str, tuple[object, ClusterFacts | None]] = {}
        self._unusable: set[tuple[CellKey, str]] = set()

    async def place(
        self,
        tables: Tables,
        clusters: Iterable[ClusterRow],
        keys: Collection[CellKey],
        *,
        again: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Write what changed of some keys for these clusters and return their names.

        Items that name a document of ``again`` get a new revision: what an agent refused may be enough now.
        """
        if not keys:
            return ()
        facts = {row.name: facts for row in clusters if (facts := self._facts_of(row)) is not None}
        candidates = await self._candidates(tables, keys)
        present = {(item.cluster, item.key): item for item in await tables.desired.of(keys)}
        return await _write(tables, _changes(facts, candidates, present, frozenset(again)))

    async def place_on(self, tables: Tables, cluster: ClusterRow, *, renumber: bool = False) -> None:
        """Place everything on one cluster, and note by which facts; ``renumber`` gives every item a new revision."""
        facts = self._facts_of(cluster)
        if facts is None:
            return
        candidates = await self._candidates(tables, None, facts.environments)
        present = {(item.cluster, item.key): item for item in await tables.desired.items(cluster.name)}
        await _write(tables, _changes({cluster.name: facts}, candidates, present, None if renumber else frozenset()))
        # What was passed over for its number may count later.
        if not await tables.documents.ahead(newest_number(self._clock.now())):
            await tables.clusters.set_placed(cluster.name, mark_of(cluster))

    def usable(self, key: CellKey, digest: str) -> bool:
        """Whether agents take this name at all; logged once for each that they do not."""
        if is_key(key):
            return True
        if (key, digest) not in self._unusable:
            self._unusable.add((key, digest))
            _log.warning("unusable-document-kept", document=digest, key="/".join(key)[:200])
        return False

    def forget(self, cluster: str) -> None:
        """The cluster was removed."""
        self._facts.pop(cluster, None)

    async def _candidates(
        self, tables: Tables, keys: Collection[CellKey] | None, environments: Collection[str] | None = None
    ) -> Candidates:
        newest = newest_number(self._clock.now())
        movers: dict[CellKey, Sequence[IndexEntry]] = {}
        read: dict[str, IndexEntry] = {}
        for key, found in (await tables.documents.current(newest, keys, environments)).items():
            for row in found:
                if row.digest not in read:
                    read[row.digest] = rows.entry_of(row)
            movers[key] = [read[row.digest] for row in found if self.usable(key, row.digest)]
        approvals = [rows.entry_of(row) for row in await tables.documents.approvals(read.keys())]
        wanted = {entry.fallback: entry for entry in read.values() if entry.fallback}
        fallbacks = [
            digest
            for digest, row in (await tables.documents.entries(wanted.keys())).items()
            if row.kind == "release"
            and row.standing == "verified"
            and (row.project, row.cell) == (wanted[digest].project, wanted[digest].cell)
        ]
        return Candidates(movers, approvals, fallbacks)

    def _facts_of(self, row: ClusterRow) -> ClusterFacts | None:
        """Facts that choose what a cluster is given, read strictly once as long as it and its invite say the same."""
        said = (row.report.get("facts"), row.invited)
        known = self._facts.get(row.name)
        if known is None or known[0] != said:
            facts = reported(row.report)
            found = None if facts is None else deliverable(Invited.from_json(row.invited), facts)
            known = self._facts[row.name] = (said, found)
        return known[1]


async def present_clusters(tables: Tables) -> Sequence[ClusterRow]:
    """Return all clusters that were not removed."""
    return [row for row in await tables.clusters.list() if row.removed_at is None]


def mark_of(cluster: ClusterRow) -> str:
    """Return the digest of what a cluster is placed by: what it says of itself, and its invite."""
    said = {"method": _METHOD, "facts": cluster.report.get("facts"), "invited": dict(cluster.invited)}
    return canonical.digest(canonical.encode(said))


def _changes(
    clusters: Mapping[str, ClusterFacts],
    candidates: Candidates,
    present: Mapping[tuple[str, CellKey], DesiredRow],
    again: frozenset[str] | None,
) -> list[DesiredChange]:
    """What is to be written; all of it again with None."""
    changes: list[DesiredChange] = []
    for name, facts in clusters.items():
        for key, placement in candidates.place(facts).items():
            before = present.get((name, key))
            after = (placement.deployment_digest, placement.evidence)
            told = again is None or not again.isdisjoint((placement.deployment_digest, *placement.evidence))
            if before is None or (before.deployment_digest, tuple(before.evidence)) != after or told:
                state, role = (before.hub_state, before.hub_state_role) if before is not None else ("run", "")
                changes.append(DesiredChange(name, key, *after, hub_state=state, hub_state_role=role, again=told))
    return changes


async def _write(tables: Tables, changes: Sequence[DesiredChange]) -> tuple[str, ...]:
    if changes:
        await tables.desired.upsert_many(changes)
        _log.info("desired-changed", count=len(changes))
    return tuple(sorted({change.cluster for change in changes}))
