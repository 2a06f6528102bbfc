"""Fetches and verifies the documents of one cell, beside its repairs."""

from __future__ import annotations

from agent.cells.cell import Cell
from agent.cells.machine.state import Purpose, Work
from agent.cells.pace import Pace
from agent.cells.ready import Ready
from agent.cells.revoked import Revoked
from agent.verify.intake import Intake, VerifiedCell, VerifiedEnd


class Papers:
    """The documents of one cell."""

    def __init__(self, cell: Cell, pace: Pace, intake: Intake, revoked: Revoked, ready: Ready) -> None:
        self._cell = cell
        self._pace = pace
        self._intake = intake
        self._revoked = revoked
        self._ready = ready

    async def verify(self, work: Work) -> VerifiedCell | VerifiedEnd:
        """Return the verified documents of an item; raises apply/locked, and as ``Intake.verify`` does."""
        record = self._cell.record
        running = record.deployment_digest == work.item.deployment_digest
        if not running:
            self._revoked.check_lock()
        verifying = self._intake.verify(work.item, record.release_digest, record.settled_release)
        return await self._pace.fetch(verifying, accepted=running)

    async def recall(self, work: Work) -> VerifiedCell | None:
        """Return the fallback that was kept, None when there is none; raises as ``Intake.fallback`` does."""
        return await self._pace.fetch(self._intake.fallback(work.item), accepted=True)

    def check_return(self, work: Work) -> None:
        """Raise unless a release may be called failed now: only where its fallback may be applied.

        Until then it may still get well.
        """
        if work.purpose is Purpose.RETURN:
            self._ready.check_return()
