"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import time
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Satisfies Clock and Timer; ``advance`` moves both clocks and wakes sleepers whose time has come."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now if now is not None else datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0
        self._order = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the time the test set."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds advanced so far."""
        return self._monotonic

    @property
    def sleepers(self) -> int:
        """How many tasks wait on this clock; tests poll this before they advance."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    def advance(self, seconds: float) -> None:
        """Move time forward and wake whoever is due."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def step(self, seconds: float) -> None:
        """Move only the wall clock, forward or back, as a bad time source would."""
        self._now += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait until the test advanced far enough."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._order, future))
        await future


class ImpatientClock(ManualClock):
    """A clock on which every wait is over at once; ``waits`` says how long each would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Be done."""
        self.waits.append(seconds)
        await asyncio.sleep(0)


class ShiftedClock:
    """The machine's clock moved by the test: for real parts that must run while hours pass for one side.

    It begins ``shift`` seconds ahead, or behind.

    Satisfies Clock and Timer; ``advance`` moves it and wakes whoever is due.
    """

    def __init__(self, shift: float = 0.0) -> None:
        self._shift = shift
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """Return the machine's time plus what the test advanced."""
        return datetime.now(UTC) + timedelta(seconds=self._shift)

    def monotonic(self) -> float:
        """Return the machine's monotonic time, unmoved: to the peer of a real stream no time has passed."""
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Move time forward."""
        self._shift += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait for real time to pass or for the test to advance far enough."""
        deadline = time.monotonic() + self._shift + seconds
        while (left := deadline - time.monotonic() - self._shift) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._moved.wait()
        await asyncio.sleep(0)


def a_second() -> float:
    """A second of a machine that has nothing else to do: on a busy one it takes that much longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
