"""Which cluster should have what: a pure choice among documents, by facts that clusters reported.

Only verified documents take part: what nobody could accept must not stand in the way of what somebody can. What comes
out is advice to agents: each verifies signatures, scope, floors and its own facts again. Choosing wrongly can only stop
or delay something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.wire.codec import MAX_EVIDENCE
from hub.fleet.model import IndexEntry, Placement


class DocumentSet:
    """Verified index entries arranged for placement; later ones were kept later."""

    def __init__(self, entries: Iterable[IndexEntry]) -> None:
        self._movers: dict[CellKey, list[IndexEntry]] = defaultdict(list)
        # One approval per set of owners, the newest: no owner crowds out another one.
        self._approvals: dict[tuple[str, str], dict[tuple[str, ...], str]] = defaultdict(dict)
        # Of a cell, and of no other: what an author names besides is not his to have delivered.
        self._releases: set[tuple[str, str, str]] = set()
        for entry in entries:
            if not entry.verified:
                continue
            if entry.kind in {"deployment", "tombstone"}:
                for key in entry.keys:
                    self._movers[key].append(entry)
            elif entry.kind == "approval":
                self._approvals[(entry.subject, entry.environments[0])][entry.owners] = entry.digest
            elif entry.kind == "release":
                self._releases.add((entry.project, entry.cell, entry.digest))

    def keys(self) -> frozenset[CellKey]:
        """Every cell and environment that some document places."""
        return frozenset(self._movers)

    def keys_of(self, entry: IndexEntry) -> frozenset[CellKey]:
        """Cells and environments whose placement a document may change."""
        if entry.kind in {"deployment", "tombstone"}:
            return frozenset(entry.keys)
        if entry.kind == "approval":
            return frozenset(key for key, found in self._movers.items() if _names(found, "digest", entry.subject))
        if entry.kind == "release":
            return frozenset(
                key
                for key, found in self._movers.items()
                if _names(found, "subject", entry.digest) or _names(found, "fallback", entry.digest)
            )
        return frozenset()

    def place(self, facts: ClusterFacts, keys: Iterable[CellKey] | None = None) -> Mapping[CellKey, Placement]:
        """Return what a cluster should have; a key that is absent means no change, never removal (V14)."""
        wanted = self._movers if keys is None else keys
        placed = {key: self._choose(key, facts) for key in wanted}
        return {key: placement for key, placement in placed.items() if placement is not None}

    def _choose(self, key: CellKey, facts: ClusterFacts) -> Placement | None:
        project, _, environment = key
        if environment not in facts.environments or not facts.allows_project(project):
            return None
        here = replace(facts, environments=(environment,))
        matching = [entry for entry in self._movers.get(key, ()) if self._fits(entry, here)]
        if not matching:
            return None
        # Of two with one sequence the smaller digest: stable, and agents refuse whichever they did not see first.
        best = min(matching, key=lambda entry: (-entry.sequence, entry.digest))
        return Placement(key, best.digest, self._evidence(best, environment))

    def _fits(self, entry: IndexEntry, facts: ClusterFacts) -> bool:
        if entry.kind == "tombstone":
            return True
        # A Deployment whose release is still on its way is not handed out: agents could only fail to fetch it.
        return entry.selector is not None and entry.selector.matches(facts) and self._has_release(entry, entry.subject)

    def _has_release(self, entry: IndexEntry, digest: str) -> bool:
        return (entry.project, entry.cell, digest) in self._releases

    def _evidence(self, entry: IndexEntry, environment: str) -> tuple[str, ...]:
        approvals = sorted(self._approvals.get((entry.digest, environment), {}).values())
        if entry.kind == "tombstone":
            return tuple(approvals[:MAX_EVIDENCE])
        fallback = [entry.fallback] if entry.fallback and self._has_release(entry, entry.fallback) else []
        return (entry.subject, *approvals[: MAX_EVIDENCE - 2], *fallback)


def _names(entries: Iterable[IndexEntry], attribute: str, digest: str) -> bool:
    return any(getattr(entry, attribute) == digest for entry in entries)
