"""One owner of all root tasks of a process: they start together, and go down in a fixed order.

The order of ``tasks`` is the order of dependence: what others need comes first (stores, the engine), the edge comes
last (link, listeners, readiness). Going down runs backwards: for each task, last one first, its ``drain`` is awaited
(readiness false, no new streams, tell peers), then the task is cancelled and awaited (it flushes in ``finally``). All
of it shares one grace period; after that everything left is cancelled at once, also what waits in a ``finally``.

Invariants: the first failure takes the rest down in the same order and surfaces as it was raised; a root task that
returns before ``stop`` is an error; no task outlives ``supervise`` unless it ignores cancellation, which is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from cellward.runtime.errors import TASK_RETURNED, TASK_STUCK

_log = structlog.get_logger()

#: Seconds a cancelled task gets after the grace period before it is called stuck.
LAST_CALL_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """A root task.

    Attributes:
        name: for logs and errors.
        run: runs until cancelled; it may also watch ``stop`` itself and return once it is set. What it does then is
            cut off when its turn to be cancelled comes: what takes time belongs into ``drain``.
        drain: awaited before the task is cancelled, may be absent.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]] | None = None


async def supervise(tasks: Sequence[Task], stop: asyncio.Event, *, grace: float = 5.0) -> None:
    """Run ``tasks`` until ``stop`` is set or one of them fails.

    Args:
        tasks: in order of dependence, see the module's text.
        stop: set by a signal handler or a test.
        grace: seconds for the whole orderly way down.

    Raises:
        BaseException: the first failure of a task, unchanged.
        CellwardError: ``runtime/task-returned`` or ``runtime/task-stuck``.
    """
    running = [(task, asyncio.ensure_future(_run(task))) for task in tasks]
    stopping = asyncio.ensure_future(stop.wait())
    failure: BaseException | None = None
    try:
        await asyncio.wait([future for _, future in running] + [stopping], return_when=asyncio.FIRST_COMPLETED)
        failure = _first_failure(running, stopped=stop.is_set())
    finally:
        stopping.cancel()
        later = await _take_down(running, grace)
    if failure is None:
        failure = later
    if failure is not None:
        raise failure


async def _run(task: Task) -> None:
    await task.run()


def _first_failure(running: Sequence[tuple[Task, asyncio.Future[None]]], *, stopped: bool) -> BaseException | None:
    for task, future in running:
        if not future.done():
            continue
        error = _outcome(future)
        if error is not None:
            _log.error("task-failed", task=task.name, error=str(error))
            return error
        if not stopped:
            _log.error("task-returned", task=task.name)
            return TASK_RETURNED(f"the task {task.name!r} ended before the process was asked to stop", task=task.name)
    return None


async def _take_down(running: Sequence[tuple[Task, asyncio.Future[None]]], grace: float) -> BaseException | None:
    """Drain and cancel backwards; return the first failure seen on the way, if any."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    first: BaseException | None = None
    for task, future in reversed(running):
        error = await _end(task, future, deadline)
        if error is not None:
            _log.error("task-failed-while-stopping", task=task.name, error=str(error))
            first = first or error
    left = [(task, future) for task, future in running if not future.done()]
    if left:
        # Again: what still waits in its ``finally``, for a peer that is gone, say, has had its time.
        for _, future in left:
            future.cancel()
        await asyncio.wait([future for _, future in left], timeout=LAST_CALL_SECONDS)
    stuck = [task.name for task, future in left if not future.done()]
    if stuck:
        first = first or TASK_STUCK(f"did not stop within {grace:g} s: {', '.join(stuck)}", tasks=",".join(stuck))
    return first


async def _end(task: Task, future: asyncio.Future[None], deadline: float) -> BaseException | None:
    loop = asyncio.get_running_loop()
    error: BaseException | None = None
    if task.drain is not None and not future.done():
        try:
            async with asyncio.timeout_at(deadline):
                await task.drain()
        except TimeoutError:
            _log.warning("drain-timed-out", task=task.name)
        except Exception as failure:  # noqa: BLE001 - a failed drain must not keep the rest from stopping
            error = failure
    if future.done():
        # Its outcome was reported by _first_failure, or it returned because it watched ``stop``.
        return error
    future.cancel()
    await asyncio.wait([future], timeout=max(0.0, deadline - loop.time()))
    return error or (_outcome(future) if future.done() else None)


def _outcome(future: asyncio.Future[None]) -> BaseException | None:
    return None if future.cancelled() else future.exception()
