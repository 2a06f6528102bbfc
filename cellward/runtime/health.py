"""Conditions of a process: a small fixed list of named facts, each good or not, with a code and a sentence.

A part sets its own condition and never raises because of it; status frames, readiness and ``cellward check`` read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cellward.runtime.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition.

    Attributes:
        name: kebab-case, from the list of the part that sets it.
        ok: True when it is good.
        code: stable error code when not ok, empty otherwise.
        message: one sentence for a person.
        since: when ``ok`` last changed, UTC.
    """

    name: str
    ok: bool
    code: str = ""
    message: str = ""
    since: datetime | None = None


class HealthRegistry:
    """The conditions of one process.

    Attributes:
        on_change: called with the new condition whenever ``ok``, ``code`` or ``message`` changed; must not block.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._conditions: dict[str, Condition] = {}
        self.on_change: list[Callable[[Condition], None]] = []

    def set(self, name: str, ok: bool, code: str = "", message: str = "") -> None:
        """Set a condition; ``since`` moves only when ``ok`` changes."""
        old = self._conditions.get(name)
        since = old.since if old is not None and old.ok == ok else self._clock.now()
        new = Condition(name, ok, code, message, since)
        if new == old:
            return
        self._conditions[name] = new
        for callback in tuple(self.on_change):
            callback(new)

    def get(self) -> tuple[Condition, ...]:
        """Return all conditions, by name."""
        return tuple(self._conditions[name] for name in sorted(self._conditions))
