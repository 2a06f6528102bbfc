"""Which cluster should have what: a pure choice among current documents, by facts that clusters reported.

Only verified documents take part: what nobody could accept must not stand in the way of what somebody can. What comes
out is advice to agents: each verifies signatures, scope, floors and its own facts again. Choosing wrongly can only stop
or delay something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.wire.codec import MAX_EVIDENCE
from hub.placement.model import IndexEntry, Placement


class Candidates:
    """What may be placed.

    Args:
        movers: verified Deployments and tombstones by what they place; a Deployment's release is verified too. Of those
            that choose clusters alike the newest is enough.
        approvals: verified approvals of them; later ones were kept later.
        fallbacks: digests of their fallback releases that are verified, and of their cell.
    """

    def __init__(
        self,
        movers: Mapping[CellKey, Sequence[IndexEntry]],
        approvals: Iterable[IndexEntry] = (),
        fallbacks: Iterable[str] = (),
    ) -> None:
        self._movers = movers
        # One approval per set of owners, the newest: no owner crowds out another one.
        self._approvals: dict[tuple[str, str], dict[tuple[str, ...], str]] = defaultdict(dict)
        for entry in approvals:
            self._approvals[(entry.subject, entry.environments[0])][entry.owners] = entry.digest
        self._fallbacks = frozenset(fallbacks)

    def place(self, facts: ClusterFacts) -> Mapping[CellKey, Placement]:
        """Return what a cluster should have; a key that is absent means no change, never removal (V14)."""
        placed = {key: self._choose(key, facts) for key in self._movers}
        return {key: placement for key, placement in placed.items() if placement is not None}

    def _choose(self, key: CellKey, facts: ClusterFacts) -> Placement | None:
        project, _, environment = key
        if environment not in facts.environments or not facts.allows_project(project):
            return None
        here = replace(facts, environments=(environment,))
        matching = [entry for entry in self._movers.get(key, ()) if _fits(entry, here)]
        if not matching:
            return None
        # Of two with one sequence the smaller digest: stable, and agents refuse whichever they did not see first.
        best = min(matching, key=lambda entry: (-entry.sequence, entry.digest))
        return Placement(key, best.digest, self._evidence(best, environment))

    def _evidence(self, entry: IndexEntry, environment: str) -> tuple[str, ...]:
        approvals = sorted(self._approvals.get((entry.digest, environment), {}).values())
        if entry.kind == "tombstone":
            return tuple(approvals[:MAX_EVIDENCE])
        fallback = [entry.fallback] if entry.fallback in self._fallbacks else []
        return (entry.subject, *approvals[: MAX_EVIDENCE - 2], *fallback)


def _fits(entry: IndexEntry, facts: ClusterFacts) -> bool:
    return entry.kind == "tombstone" or (entry.selector is not None and entry.selector.matches(facts))
