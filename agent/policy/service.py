"""PolicyService: holds the last verified set and the engine that decides on it.

Seam: signatures are final, bodies follow.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from agent.policy.interfaces import ContentSource
from cellward.documents.facts import ClusterFacts
from cellward.policy.model import Evaluator, Staleness, VerifiedSet
from cellward.runtime.clock import Clock
from cellward.runtime.health import HealthRegistry


class PolicyService:
    """Accepts policy, switches engines, answers decisions."""

    def __init__(
        self,
        *,
        state_dir: Path,
        root: bytes,
        realm: str,
        facts: ClusterFacts,
        opa_binary: Path,
        clock: Clock,
        health: HealthRegistry,
    ) -> None: ...

    async def start(self) -> None:
        """Load the accepted set from disk, offline, and start OPA on it."""

    async def refresh(self, source: ContentSource) -> VerifiedSet | None:
        """Accept newer policy; the new set, or None when nothing changed but the timestamp. Raises policy/*."""

    @property
    def current(self) -> VerifiedSet | None:
        """The last verified set."""

    @property
    def evaluator(self) -> Evaluator:
        """Decides on the current set; valid over switches."""

    def staleness(self, now: datetime) -> Staleness | None:
        """How stale the current set is; None without a set."""

    async def close(self) -> None:
        """Stop the engine."""
