"""Whether this cluster is fit for anything new: fresh policy, intact guards, stamps made under them (V8, V12)."""

from __future__ import annotations

from agent.objects.fence import Fence
from agent.stamps.keeper import StampKeeper
from agent.verify.decide import Gate


class Ready:
    """Asked before a release is planned, and before one is called failed."""

    def __init__(self, gate: Gate, fence: Fence, stamps: StampKeeper) -> None:
        self._gate = gate
        self._fence = fence
        self._stamps = stamps

    def check(self, *, known: bool) -> None:
        """Raise apply/policy-stale, apply/admission-guard or stamps/pending; ``known`` as in ``Gate.check_fresh``."""
        self._gate.check_fresh(known=known)
        self._fence.check()
        self._stamps.check()

    def check_return(self) -> None:
        """Raise the same, but for the stamps, before a rollback is begun."""
        self._gate.check_fresh(known=True)
        self._fence.check()
