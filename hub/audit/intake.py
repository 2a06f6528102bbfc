"""How much of agents' records is taken: a rate for each cluster, and none of the room that the hub itself needs.

Whoever has joined may chain and sign as many records as a processor makes, and all of them are valid. What is refused
here was not taken: it waits in the agent's spool, and the agent comes again (V13). Locks, bindings and the hub's own
records go on, because agents' records stop before the room is gone (V4).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cellward.audit.errors import NO_ROOM, TOO_FAST
from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.health import HealthRegistry
from hub.authority.limits import Limiter, Rate

#: Condition set by this module.
CONDITION: Final = "audit-intake"
#: Seconds for which a refusal is shown.
TOLD_SECONDS: Final = 300.0
#: Bytes of records of one cluster: a week's spool at once, then a steady flow that no honest agent reaches.
DEFAULT_RATE: Final = Rate(64 * 1024**2, 16 * 1024)
#: Bytes that stay free on the volume, and the part of a small volume that is enough.
DEFAULT_RESERVE, MOST_OF_VOLUME = 256 * 1024**2, 0.25


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume's size, and what is free of it for this process, in bytes."""

    size: int
    free: int


def volume_of(path: Path) -> Callable[[], Volume]:
    """Return how the volume that holds ``path`` is measured."""

    def measure() -> Volume:
        found = os.statvfs(path)
        return Volume(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    return measure


class Intake:
    """Says whether a batch is taken.

    Args:
        clock: of the rates.
        health: gets the condition ``audit-intake``.
        volume: measures the database's volume; None where that is a server's to look after. ``Store.check`` asks
            another question: whether one more row can be written.
        rate: bytes of records of one cluster.
        reserve: bytes that are kept free, at most a quarter of the volume.
    """

    def __init__(
        self,
        clock: Clock,
        health: HealthRegistry,
        volume: Callable[[], Volume] | None,
        *,
        rate: Rate = DEFAULT_RATE,
        reserve: int = DEFAULT_RESERVE,
    ) -> None:
        self._clock = clock
        self._health = health
        self._volume = volume
        self._rates = Limiter(rate, clock)
        self._reserve = reserve
        self._last: tuple[float, CellwardError] | None = None

    def admit(self, cluster: str, size: int) -> None:
        """Let a batch of ``size`` bytes in; raises audit/no-room, audit/too-fast."""
        error = self._full()
        if error is None and not self._rates.take(cluster, size):
            error = TOO_FAST(f"cluster {cluster} sends audit records faster than they are taken", cluster=cluster)
        if error is not None:
            self._last = (self._clock.monotonic(), error)
            raise error

    def look(self) -> None:
        """Set the condition; called on a timer. A volume that is full is shown before anybody is refused."""
        error = self._full()
        if error is None and self._last is not None and self._clock.monotonic() - self._last[0] < TOLD_SECONDS:
            error = self._last[1]
        if error is None:
            self._health.set(CONDITION, ok=True)
        else:
            self._health.set(CONDITION, ok=False, code=error.code, message=error.message)

    def _full(self) -> CellwardError | None:
        if self._volume is None:
            return None
        try:
            volume = self._volume()
        except OSError:
            # A volume that is away is the store's to tell.
            return None
        reserve = min(self._reserve, int(volume.size * MOST_OF_VOLUME))
        if volume.free >= reserve:
            return None
        # Rounded: the text is compared to tell changes, and must not be new with every look.
        return NO_ROOM(f"less than {reserve // 1024**2} MiB are free on the volume of the hub's database")
