"""Full-jitter back-off: a thousand agents that lost one hub must not come back in step."""

from __future__ import annotations

import random
from typing import Final

from cellward.runtime.clock import SystemClock, Timer

_MACHINE: Final = SystemClock()


class FullJitter:
    """Delays drawn uniformly from zero to a ceiling that doubles with every failure.

    Args:
        base: ceiling of the first delay, seconds.
        cap: ceiling that is never exceeded, seconds.
        rng: source of chance, for tests; the default is the system's.
    """

    def __init__(self, base: float = 0.5, cap: float = 30.0, rng: random.Random | None = None) -> None:
        self._base = base
        self._cap = cap
        self._rng: random.Random = rng if rng is not None else random.SystemRandom()
        self._ceiling = base

    def next(self) -> float:
        """Return the delay before the next try, seconds."""
        ceiling = min(self._ceiling, self._cap)
        # Doubling stops at the cap: an endless outage must not overflow a float.
        self._ceiling = min(self._ceiling * 2, self._cap)
        return self._rng.uniform(0.0, ceiling)

    async def wait(self, timer: Timer = _MACHINE) -> None:
        """Wait until the next try may begin, by default on the machine's clock."""
        await timer.sleep(self.next())

    def reset(self) -> None:
        """Start over; call it only after real progress, not after a mere connect."""
        self._ceiling = self._base
