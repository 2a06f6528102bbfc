"""Driver and prober of isolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent.kube.interfaces import JSONObject
from cellward.cells.network import NetworkIntent
from cellward.cells.proof import Evidence, IsolationState, MeasuredEdge, Passage

__all__ = ["Evidence", "IsolationDriver", "IsolationState", "MeasuredEdge", "Passage", "Prober"]


class IsolationDriver(Protocol):
    """Writes the isolation objects of one cell as the agent itself."""

    async def apply(self, objects: Sequence[Mapping[str, Any]]) -> tuple[JSONObject, ...]:
        """Make the objects exactly what is given; return them as the API server has them now."""
        ...


class Prober(Protocol):
    """Measures whether a namespace is isolated."""

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Measure what is accepted; never raises for a cluster that cannot be measured, that is ``unknown``."""
        ...

    def due(self, network: NetworkIntent) -> bool:
        """Whether what is known of this intent is old, or nothing is known."""
        ...

    def forget(self, namespace: str) -> bool:
        """Let what is known of a namespace count no longer, unless that is a moment old; return whether it does not."""
        ...

    def discard(self, namespace: str) -> None:
        """Let what is known of a namespace count no longer: the cell changed while it was measured."""
        ...
