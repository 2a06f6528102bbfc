"""What verification needs from the rest of the agent, as narrow as it uses it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cellward.errors import CellwardError
from cellward.policy.model import Evaluator, Staleness, VerifiedSet


class PolicyView(Protocol):
    """The verified policy; ``agent.policy.service.PolicyService`` satisfies it."""

    @property
    def current(self) -> VerifiedSet | None:
        """The last verified set, None before the first."""
        ...

    @property
    def missing(self) -> CellwardError:
        """Why there is no current set, while there is none."""
        ...

    @property
    def evaluator(self) -> Evaluator:
        """Decides on the current set."""
        ...

    def staleness(self, now: datetime) -> Staleness | None:
        """How stale the current set is; None without a set."""
        ...


class DocumentSource(Protocol):
    """Fetches documents by digest; nothing it returns is trusted. ``agent.policy.interfaces.ContentSource`` fits."""

    async def fetch_digest(self, digest: str, limit: int) -> bytes | None:
        """Return the envelope of a digest, at most ``limit`` bytes, or None when absent."""
        ...
