"""Probers. There is one, and it proves nothing: it exists so that nothing unproved is ever called enforced."""

from __future__ import annotations

from agent.isolation.interfaces import Evidence
from cellward.cells.network import NetworkIntent
from cellward.runtime.clock import Clock


class UnprovedProber:
    """Says ``unknown`` of every namespace, honestly: no packet was sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Return ``unknown``."""
        where = network.namespace
        text = f"no probe was run in {where}: this agent has no prober, so nobody knows what the network enforces"
        return Evidence("unknown", self._clock.now(), "none", text)
