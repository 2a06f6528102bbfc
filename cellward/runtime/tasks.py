"""Waiting: for the first of several things, for a stop, for an end, and for tasks that others may have cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
#: What goes on without whoever began it: a task that nobody holds may be collected.
_going_on: Final[set[asyncio.Task[Any]]] = set()


def is_being_cancelled() -> bool:
    """Whether somebody asked the current task to end; ask this where CancelledError was caught.

    Awaiting something that others cancelled raises CancelledError too, in a task that nobody cancelled. Passing it on
    would end that task as if in good order, and neither a task group nor its owner would notice.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def heard(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended: whoever waited may be gone, and its failure must not be reported as forgotten."""
    if not task.cancelled():
        task.exception()


async def first_of(*waits: Coroutine[Any, Any, Any] | asyncio.Future[Any], seconds: float | None = None) -> list[bool]:
    """Wait until one of them is done, or the time is over; return which are done, in their order.

    A future (or task) is watched and left as it is, however it ends. A coroutine is begun here and has ended when this
    returns; what it raises is raised.
    """
    futures = [asyncio.ensure_future(wait) for wait in waits]
    begun = [future for future, wait in zip(futures, waits, strict=True) if future is not wait]
    try:
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for future in begun:
            if future.done() and not future.cancelled():
                future.result()
        return [future.done() for future in futures]
    finally:
        for future in begun:
            future.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def to_its_end(work: Coroutine[Any, Any, T], name: str) -> T:
    """Wait for ``work``, which goes on to its end also when whoever waits is cancelled.

    For what must happen once something is over: a cancellation that comes while it is awaited in a ``finally`` would
    leave it half done.
    """
    task = asyncio.create_task(work, name=name)
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    task.add_done_callback(heard)
    return await asyncio.shield(task)


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until ``stop`` is set, at most so long; return whether it is. The pause between two turns of a loop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
