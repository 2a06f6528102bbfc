"""The machine of one cell with what is seen when something happens: time, chance, policy, and what is in view."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable

from agent.cells.cell import Cell
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine.rules import must_stop, step
from agent.cells.revoked import Revoked
from cellward.runtime.clock import Timer
from cellward.wire.codec import DesiredItem

_chance = random.SystemRandom().random


class CellLife:
    """Steps the machine of one cell.

    ``view`` returns for how many seconds every watch has seen the cluster since the start, or None while one of them
    does not.
    """

    def __init__(self, cell: Cell, timer: Timer, revoked: Revoked, view: Callable[[], float | None]) -> None:
        self._cell = cell
        self._timer = timer
        self._revoked = revoked
        self._view = view

    def sight(self) -> on.Sight:
        """Return what is seen now."""
        cell = self._cell
        return on.Sight(
            at=self._timer.monotonic(),
            chance=_chance(),
            correlation=secrets.token_hex(8),
            kept=cell.present.kept,
            view=self._view(),
            quarantine=self._revoked.why_quarantined(cell.record),
            ground=cell.ground,
            quota=cell.quota,
        )

    def tell(self, event: on.Event) -> tuple[do.Effect, ...]:
        """Take the next step; return what is to be done."""
        self._cell.life, effects = step(self._cell.life, event)
        return effects

    def accepted(self, item: DesiredItem) -> None:
        """Take note that an item is in force."""
        self.tell(on.Accepted(self.sight(), item))

    def must_stop(self) -> bool:
        """Whether what is being done makes way."""
        return must_stop(self._cell.life)
