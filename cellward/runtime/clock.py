"""Time as a dependency: logic takes a Clock, so that tests decide what time it is.

Invariants: ``now`` is always aware and in UTC; ``monotonic`` never goes back; neither is ever the hub's clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Where logic gets the time from."""

    def now(self) -> datetime:
        """Return the wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean anything."""
        ...


@runtime_checkable
class Timer(Clock, Protocol):
    """A clock one can also wait on; loops take this, decisions only need a Clock."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of this clock; zero or less only yields."""
        ...


class SystemClock:
    """The machine's clock; satisfies Clock and Timer."""

    def now(self) -> datetime:
        """Return the wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic clock in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(max(0.0, seconds))
