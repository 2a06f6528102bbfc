"""How often the agent begins a new epoch because of what a hub says: at once, and then ever more rarely.

A hub that lies may make an agent say so in its chain; it may not make it do nothing else.
"""

from __future__ import annotations

from typing import Final

from cellward.runtime.clock import Timer

#: Seconds after the first time; each further wait is twice as long, up to a day. A day without forgets them all.
FIRST_WAIT: Final = 60.0
LONGEST_WAIT: Final = 24 * 3600.0


class Patience:
    """Allows something at once, then after waits that double."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._count = 0
        self._last = 0.0

    def allows(self) -> bool:
        """Whether it may be done now; asking and being allowed counts as doing it."""
        now = self._timer.monotonic()
        if self._count:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(20, self._count - 1))
            if now - self._last < wait:
                return False
            if now - self._last > LONGEST_WAIT:
                self._count = 0
        self._count, self._last = self._count + 1, now
        return True
