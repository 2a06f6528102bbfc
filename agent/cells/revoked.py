"""What the signed set of this cluster revokes, read at every turn: quarantines of cells and locks of the cluster.

Invariants: a signed quarantine holds whatever the hub says of the cell, and while there is no verified set to ask, no
quarantine is lifted; a signed lock lets nothing new in and stops neither enforcement nor repair. Only a newer signed
set lifts either.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.cells.errors import LOCKED
from agent.objects.model import CellRecord
from agent.verify.interfaces import PolicyView
from cellward.documents.facts import ClusterFacts


class Revoked:
    """Signed narrowing, from the policy that was verified last."""

    def __init__(self, policy: PolicyView, facts: Callable[[], ClusterFacts]) -> None:
        self._policy = policy
        self._facts = facts

    def why_quarantined(self, record: CellRecord) -> str:
        """Return why a cell is to be isolated whatever the hub says, empty when nothing signed says so."""
        current = self._policy.current
        if current is None:
            return "no policy set is verified, so a quarantine stays" if record.quarantined else ""
        found = current.revocations.quarantine(*record.key)
        return "" if found is None else f"a signed quarantine holds the cell: {found.reason}"

    def check_lock(self) -> None:
        """Raise apply/locked when a signed lock holds this cluster: then nothing new is accepted."""
        current, facts = self._policy.current, self._facts()
        found = None if current is None else current.revocations.lock_of(uid=facts.uid, cluster=facts.name)
        if found is not None:
            raise LOCKED(f"{found.kind} {found.subject} is locked by signature: {found.reason}")
