"""An anchor in memory; satisfies ``agent.spool.interfaces.Anchor``."""

from __future__ import annotations

from agent.spool.interfaces import AnchorState


class FakeAnchor:
    """Keeps the last state saved; ``error`` makes the next calls fail as an API server that is down would."""

    def __init__(self, state: AnchorState | None = None) -> None:
        self.state = state
        self.error: Exception | None = None
        self.saves = 0

    async def load(self) -> AnchorState | None:
        """Return what was saved."""
        if self.error is not None:
            raise self.error
        return self.state

    async def save(self, state: AnchorState) -> None:
        """Keep it."""
        if self.error is not None:
            raise self.error
        self.state = state
        self.saves += 1
