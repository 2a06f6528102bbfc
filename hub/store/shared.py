"""When a thousand agents want the same thing of the store: one transaction, one read.

Invariants: ``Together`` returns after a run that began after the call was made, so what it wrote is durable and what it
read is not older than the call. ``Remembered`` returns what was read while nothing changed: not older than the call,
except for what another process wrote in the half second before it is noticed (ADR 0004). A caller that goes away takes
its answer along, never anybody else's work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from cellward.runtime.tasks import heard
from hub.store.changes import ChangeBus

In = TypeVar("In")
Out = TypeVar("Out")
Key = TypeVar("Key")


class Pace:
    """Keeps what is repeated ``apart`` seconds apart, from beginning to beginning; the first one does not wait."""

    def __init__(self, apart: float) -> None:
        self._apart = apart
        self._next = 0.0

    async def turn(self, hurry: asyncio.Event | None = None) -> None:
        """Wait for the next turn, or until somebody is in a ``hurry``, and take it."""
        now = asyncio.get_running_loop().time
        left = self._next - now()
        if left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await (hurry or asyncio.Event()).wait()
        self._next = now() + self._apart


class Together(Generic[In, Out]):
    """Gathers calls while a run is in flight; the next run takes them all, and each gets the run's whole result.

    Args:
        run: the work for many; runs of one instance never overlap.
        name: of its tasks.
        apart: least seconds between the beginnings of two runs: a fleet that speaks for a second must not cost a
            transaction for every few of its messages. A call that comes alone does not wait.
    """

    def __init__(self, run: Callable[[Sequence[In]], Awaitable[Out]], name: str, *, apart: float = 0.0) -> None:
        self._run = run
        self._name = name
        self._pace = Pace(apart)
        self._waiting: list[In] = []
        self._next: asyncio.Task[Out] | None = None
        self._turn = asyncio.Lock()

    async def join(self, one: In) -> Out:
        """Take part in the next run and return what it returned, or raise what it raised."""
        self._waiting.append(one)
        task = self._next
        if task is None:
            task = self._next = asyncio.create_task(self._go(), name=self._name)
            task.add_done_callback(heard)
        return await asyncio.shield(task)

    async def _go(self) -> Out:
        async with self._turn:
            await self._pace.turn()
            # From here on a newcomer needs a run of its own.
            self._next = None
            waiting, self._waiting = self._waiting, []
            return await self._run(waiting)


class Batch(Generic[In, Out]):
    """Transactions of many callers in one: each job is durable, or refused, as if it had been alone.

    Where one raises, nothing of that transaction is written and each is run in one of its own; so a job has no effect
    but its writes, as any job of a store.

    Args:
        transact: runs a job in one transaction of the store; called again for each.
        name: of its tasks.
        most: jobs of one transaction: whoever else writes waits for its end.
    """

    def __init__(
        self, transact: Callable[[Callable[[In], Awaitable[Any]]], Awaitable[Any]], name: str, *, most: int = 50
    ) -> None:
        self._transact = transact
        self._most = most
        self._runs: Together[Callable[[In], Awaitable[Out]], dict[object, Out | Exception]]
        self._runs = Together(self._all, name)

    async def run(self, job: Callable[[In], Awaitable[Out]]) -> Out:
        """Run ``job`` and return its result once it is durable; raises what it raises, then nothing of it is."""
        found = (await self._runs.join(job))[job]
        if isinstance(found, Exception):
            raise found
        return found

    async def _all(self, jobs: Sequence[Callable[[In], Awaitable[Out]]]) -> dict[object, Out | Exception]:
        done: dict[object, Out | Exception] = {}
        for start in range(0, len(jobs), self._most):
            done |= await self._some(jobs[start : start + self._most])
        return done

    async def _some(self, jobs: Sequence[Callable[[In], Awaitable[Out]]]) -> dict[object, Out | Exception]:
        async def all_of_them(tables: In) -> dict[object, Out | Exception]:
            return {job: await job(tables) for job in jobs}

        if len(jobs) > 1:
            # Whoever raised, and what, is found out below.
            with contextlib.suppress(Exception):
                done: dict[object, Out | Exception] = await self._transact(all_of_them)
                return done
        alone: dict[object, Out | Exception] = {}
        for job in jobs:
            try:
                alone[job] = await self._transact(job)
            except Exception as error:  # noqa: BLE001 - raised to whose job it is
                alone[job] = error
        return alone


def one_each(_: object) -> int | None:
    """Weigh every value alike."""
    return 1


class Remembered(Generic[Key, Out]):
    """What was read from the store, until any of ``topics`` changes; who asks for the same meanwhile shares the read.

    Args:
        read: reads one value; what it raises reaches everybody who waits, and is not remembered.
        changes: says when something changed.
        topics: what the values are read from.
        bound: greatest weight of all that is kept; what was used longest ago goes first.
        weigh: weight of a value; None for one that is not to be kept.
    """

    def __init__(
        self,
        read: Callable[[Key], Awaitable[Out]],
        changes: ChangeBus,
        *topics: str,
        bound: int,
        weigh: Callable[[Out], int | None] = one_each,
    ) -> None:
        self._read = read
        self._changes = changes
        self._topics = topics
        self._bound = bound
        self._weigh = weigh
        self._stamp: tuple[int, ...] = ()
        self._kept: OrderedDict[Key, tuple[Out, int]] = OrderedDict()
        self._weight = 0
        self._reading: dict[Key, asyncio.Task[Out]] = {}

    async def get(self, key: Key) -> Out:
        """Return the value as it is now."""
        stamp = self._changes.stamp(*self._topics)
        if stamp != self._stamp:
            self._stamp, self._weight = stamp, 0
            self._kept.clear()
            # Reads in flight go on for those who wait for them; nobody new joins one.
            self._reading = {}
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._fetch(key, stamp), name="store-read")
            task.add_done_callback(heard)
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Read everything again: a change is known of that was not announced yet."""
        self._stamp = ()
        self._reading = {}

    async def _fetch(self, key: Key, stamp: tuple[int, ...]) -> Out:
        reading = self._reading
        try:
            value = await self._read(key)
        finally:
            reading.pop(key, None)
        # Read before a change and kept after it would be wrong for ever.
        if self._changes.stamp(*self._topics) == stamp == self._stamp and reading is self._reading:
            self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Out) -> None:
        weight = self._weigh(value)
        if weight is None or weight > self._bound or key in self._kept:
            return
        self._kept[key] = (value, weight)
        self._weight += weight
        while self._weight > self._bound:
            self._weight -= self._kept.popitem(last=False)[1][1]
