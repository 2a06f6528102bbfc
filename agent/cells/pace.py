"""How a cell waits without standing in anybody's way, its own repairs and narrowing least of all (V13).

Whatever takes its time, the hub's documents, a turn among the releases of other cells, an object that does not go, is
waited for beside the repairs of drift; an item that narrows what runs is waited for by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agent.cells.drift import DriftControl
from agent.cells.restamp import Restamping
from agent.cells.slots import Slots
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of

T = TypeVar("T")


class SupersededError(Exception):
    """A newer item came, and what was being done for the one before makes way for it."""


class Pace:
    """The waiting of one cell; ``must_stop`` says whether what is being done makes way."""

    def __init__(
        self, timer: Timer, slots: Slots, drift: DriftControl, restamping: Restamping, must_stop: Callable[[], bool]
    ) -> None:
        self._restamping = restamping
        self._timer = timer
        self._slots = slots
        self._drift = drift
        self._must_stop = must_stop
        self._wake = asyncio.Event()
        self._has_turn = False

    def wake(self) -> None:
        """Ask for a look."""
        self._wake.set()

    @property
    def woken(self) -> bool:
        """Whether somebody asked for a look that did not begin yet."""
        return self._wake.is_set()

    async def sleep(self, until: float | None) -> None:
        """Return when woken, when a repair is due, or at a monotonic time."""
        known = [time for time in (until, self._drift.due_at()) if time is not None]
        delay = max(0.0, min(known) - self._timer.monotonic()) if known else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wake.wait()
        self._wake.clear()

    async def repair(self) -> None:
        """Repair what is due, stamps first; waits for nothing but repairs of other cells."""
        if self._restamping.due:
            async with self._slots.repair:
                await self._restamping.run()
        due = self._drift.due_at()
        if due is not None and due <= self._timer.monotonic():
            await self._drift.repair_due()

    async def yield_point(self) -> None:
        """Between two steps of a release: repair what is due. Raises SupersededError to make way."""
        await self.repair()
        self._make_way()

    async def fetch(self, fetching: Coroutine[Any, Any, T], *, accepted: bool) -> T:
        """Await what depends on the hub. Raises SupersededError when a newer item comes.

        What is ``accepted`` is kept here and waits for no turn: all turns may be taken by what a hub does not deliver.
        """

        async def in_turn() -> T:
            async with self._slots.fetch:
                return await fetching

        try:
            return await self.beside(fetching if accepted else in_turn())
        finally:
            fetching.close()

    async def take_turn(self) -> None:
        """Take a turn among the other cells. Raises SupersededError when a newer item comes first."""

        async def take() -> None:
            await self._slots.work.acquire()
            self._has_turn = True

        await self.beside(take())

    def give_turn(self) -> None:
        """Give the turn back, if there is one."""
        if self._has_turn:
            self._has_turn = False
            self._slots.work.release()

    def _make_way(self) -> None:
        if self._must_stop():
            self.wake()
            raise SupersededError

    async def beside(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Await something that changes nothing of the cell, and repair drift meanwhile.

        Raises SupersededError when a newer item comes.
        """
        task = asyncio.ensure_future(waiting)
        try:
            while True:
                self._wake.clear()
                await self.repair()
                self._make_way()
                if task.done():
                    return task.result()
                await self._news_or(task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _news_or(self, task: asyncio.Future[Any]) -> None:
        """Return when the task is done, when woken, or when a repair is due."""
        due = self._drift.due_at()
        delay = None if due is None else max(0.0, due - self._timer.monotonic())
        await first_of(task, self._wake.wait(), seconds=delay)
