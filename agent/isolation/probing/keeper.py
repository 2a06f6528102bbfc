"""Remembers what was measured, and measures again when it is old or its subject changed.

Invariants:

- What is remembered counts for the very intent it was measured of, and for no longer than ``max_age`` seconds.
- ``forget_all`` (a node is new) lets nothing that was measured before count for a new release, nor what is being
  measured just then.
- What nobody asked for since it grew old is not kept: cells come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agent.isolation.interfaces import Evidence
from cellward.cells.network import NetworkIntent
from cellward.runtime.clock import Timer

#: What is not proved is measured again soon, an engine may have been late; then after twice as long each time.
RETRY_SECONDS: Final = 10.0
#: A hub that asks for a measurement gets one no more often than this.
_ASKED_SECONDS: Final = 30.0
#: How often the time between two tries is doubled; a number of years' tries would be none at all (V16).
_DOUBLINGS: Final = 10


Neighbours = Callable[[str], Sequence[NetworkIntent]]


class NeighbourlyProber(Protocol):
    """A prober that measures each time it is asked, edges to other cells too."""

    neighbours: Neighbours

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Measure."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    network: NetworkIntent
    evidence: Evidence
    at: float
    unproved: int


class RememberingProber:
    """A prober that measures no more often than it must.

    Args:
        prober: measures.
        timer: time.
        max_age: seconds for which a measurement counts.
    """

    def __init__(self, prober: NeighbourlyProber, timer: Timer, max_age: float) -> None:
        self._prober = prober
        self._timer = timer
        self._max_age = max_age
        self._known: dict[str, _Known] = {}
        #: Raised by ``forget_all``.
        self._age = 0

    @property
    def neighbours(self) -> Neighbours:
        """Returns the other cells of a cluster as they were accepted."""
        return self._prober.neighbours

    @neighbours.setter
    def neighbours(self, found: Neighbours) -> None:
        self._prober.neighbours = found

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Return what is known of this very intent, or measure it."""
        known = self._known.get(network.namespace)
        if known is not None and known.network == network and not self._is_old(known):
            return known.evidence
        age = self._age
        evidence = await self._prober.probe(network)
        again = known is not None and known.network == network and known.evidence.state == evidence.state
        unproved = 0 if evidence.state == "enforced" else known.unproved + 1 if known is not None and again else 1
        now = self._timer.monotonic()
        for namespace in [name for name, one in self._known.items() if now - one.at > 2 * self._max_age]:
            del self._known[namespace]
        if age == self._age:
            self._known[network.namespace] = _Known(network, evidence, now, unproved)
        return evidence

    def due(self, network: NetworkIntent) -> bool:
        """Whether a probe of this intent would measure."""
        known = self._known.get(network.namespace)
        return known is None or known.network != network or self._is_old(known)

    def forget(self, namespace: str) -> bool:
        """Let what was measured of a namespace count no longer, unless it was a moment ago: a hub may ask for it."""
        known = self._known.get(namespace)
        if known is None or self._timer.monotonic() - known.at < _ASKED_SECONDS:
            return False
        self.discard(namespace)
        return True

    def discard(self, namespace: str) -> None:
        """Let what was measured of a namespace count no longer, however new it is."""
        self._known.pop(namespace, None)

    def forget_all(self) -> None:
        """Let nothing that was measured, or is being measured, count any longer: a node is new."""
        self._age += 1
        self._known.clear()

    def _is_old(self, known: _Known) -> bool:
        """Whether it counts no longer; ``unproved`` says how often in a row the same was found wanting."""
        wait = RETRY_SECONDS * 2.0 ** min(known.unproved - 1, _DOUBLINGS) if known.unproved else self._max_age
        return self._timer.monotonic() - known.at > min(wait, self._max_age)
