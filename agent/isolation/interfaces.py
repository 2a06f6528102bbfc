"""Driver and prober of isolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from agent.kube.interfaces import JSONObject

IsolationState = Literal["enforced", "not-enforced", "unknown"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured: state, when (agent's clock), by which prober, and one sentence for a person."""

    state: IsolationState
    at: datetime
    prober: str
    text: str


class IsolationDriver(Protocol):
    """Writes the isolation objects of one cell as the agent itself."""

    async def apply(self, objects: Sequence[Mapping[str, Any]]) -> tuple[JSONObject, ...]:
        """Make the objects exactly what is given; return them as the API server has them now."""
        ...


class Prober(Protocol):
    """Measures whether a namespace is isolated."""

    async def probe(self, namespace: str) -> Evidence:
        """Measure; never raises for a cluster that cannot be measured, that is ``unknown``."""
        ...
