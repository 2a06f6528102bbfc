"""Policy of a simulated agent: the real acceptance of TUF content, without an engine that decides on it.

A real agent also compiles the bundle, starts an OPA process and asks it a canary before it switches; a thousand OPA
processes would measure this machine, not the hub. The single agent's benchmark has the real engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from agent.policy.bridge import SourceFetch
from agent.policy.interfaces import ContentSource
from agent.policy.store import PolicyStore
from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError
from cellward.policy.errors import ENGINE_UNAVAILABLE, NO_VERIFIED_SET
from cellward.policy.model import Binding, Evaluator, Staleness, VerifiedSet, staleness_of
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock


class AcceptedPolicy:
    """The last accepted set; satisfies ``agent.verify.interfaces.PolicyView``."""

    def __init__(self, store: PolicyStore, source: ContentSource, facts: Callable[[], ClusterFacts]) -> None:
        self._store = store
        self._source = source
        self._facts = facts
        self._clock = SystemClock()
        self._wake = asyncio.Event()
        self._backoff = FullJitter()
        self.current: VerifiedSet | None = None
        self.missing: CellwardError = NO_VERIFIED_SET("no policy was verified yet")
        #: Awaited with each new set.
        self.on_accepted: Callable[[VerifiedSet], Awaitable[None]] | None = None
        self.on_failed: Callable[[CellwardError], None] | None = None

    @property
    def evaluator(self) -> Evaluator:
        """None here; see the module's text. Raises policy/engine-unavailable."""
        raise ENGINE_UNAVAILABLE("a simulated agent has no engine")

    def staleness(self, now: datetime) -> Staleness | None:
        """How stale the set is."""
        return staleness_of(self.current, self._facts(), now) if self.current is not None else None

    def notice(self) -> None:
        """Hear that there is something newer."""
        self._wake.set()

    async def run(self) -> None:
        """Refresh on every notice, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._refresh()
            except CellwardError as error:
                if self.on_failed is not None:
                    self.on_failed(error)
                self._wake.set()
                await self._backoff.wait()

    async def _refresh(self) -> None:
        fetch = SourceFetch(self._source, 0 if self.current is None else self.current.snapshot_version)
        candidate = await asyncio.to_thread(self._store.fetch, fetch, self._wanted, self._clock.now())
        if self._store.changed(candidate):
            await asyncio.to_thread(self._store.commit, candidate, self._clock.now())
        self._backoff.reset()
        self.current = candidate.verified
        if self.on_accepted is not None:
            await self.on_accepted(candidate.verified)

    def _wanted(self, binding: Binding) -> bool:
        return binding.selects(self._facts())
