"""The prober that proves nothing: where no other can be, nothing is ever called enforced."""

from __future__ import annotations

from agent.isolation.interfaces import Evidence
from cellward.cells.network import NetworkIntent
from cellward.runtime.clock import Clock


class UnprovedProber:
    """Says ``unknown`` of every namespace, honestly: no packet was sent. ``why`` says why not."""

    def __init__(self, clock: Clock, why: str) -> None:
        self._clock = clock
        self._why = why

    def due(self, _: NetworkIntent) -> bool:
        """Nothing will ever be known."""
        return False

    def forget(self, _: str) -> bool:
        """There is nothing to forget."""
        return False

    def discard(self, _: str) -> None:
        """There is nothing to discard."""

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Return ``unknown``."""
        return Evidence("unknown", self._clock.now(), "none", f"not measured in {network.namespace}: {self._why}")
