"""Supervision of root tasks: order down, first failure, no silent end."""

from __future__ import annotations

import asyncio

import pytest

from cellward.errors import CellwardError
from cellward.runtime.supervise import Task, supervise


class Journal:
    """Records what tasks did, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str) -> Task:
        """Make a task that runs until cancelled and writes down its way out."""

        async def run() -> None:
            self.lines.append(f"start {name}")
            try:
                await asyncio.Event().wait()
            finally:
                self.lines.append(f"end {name}")

        async def drain() -> None:
            self.lines.append(f"drain {name}")

        return Task(name, run, drain)


async def test_going_down_runs_backwards_and_drains_before_it_cancels() -> None:
    """The edge goes first, the store last, and each is drained before it is cancelled."""
    journal, stop = Journal(), asyncio.Event()
    running = asyncio.ensure_future(supervise([journal.task("store"), journal.task("edge")], stop))
    while len(journal.lines) < 2:
        await asyncio.sleep(0)
    stop.set()
    await running
    assert journal.lines[2:] == ["drain edge", "end edge", "drain store", "end store"]


async def test_first_failure_surfaces_unchanged_and_takes_the_rest_down() -> None:
    """The original exception object comes out, and no task is left behind."""
    journal, failure = Journal(), RuntimeError("boom")

    async def fail() -> None:
        raise failure

    with pytest.raises(RuntimeError) as caught:
        await supervise([journal.task("store"), Task("bad", fail)], asyncio.Event())
    assert caught.value is failure
    assert "end store" in journal.lines


async def test_a_root_task_that_returns_before_stop_is_an_error() -> None:
    """A part that ends by itself must not leave a process that looks alive."""

    async def leave() -> None:
        return

    with pytest.raises(CellwardError) as caught:
        await supervise([Task("leaver", leave)], asyncio.Event())
    assert caught.value.code == "runtime/task-returned"


async def test_a_task_that_watches_stop_may_return() -> None:
    """Returning after stop is good order."""
    stop = asyncio.Event()

    async def watch() -> None:
        await stop.wait()

    running = asyncio.ensure_future(supervise([Task("watcher", watch)], stop))
    await asyncio.sleep(0)
    stop.set()
    await running


async def test_what_takes_time_on_the_way_out_is_finished_in_drain() -> None:
    """A task that watches stop and then waits is let finish by its drain, while others are still there."""
    stop, finished = asyncio.Event(), asyncio.Event()
    journal = Journal()

    async def serve() -> None:
        await stop.wait()
        journal.lines.append("last words")
        await asyncio.sleep(0.05)
        journal.lines.append("said")
        finished.set()

    edge = Task("edge", serve, lambda: _wait_for(finished))
    running = asyncio.ensure_future(supervise([journal.task("store"), edge], stop))
    while not journal.lines:
        await asyncio.sleep(0)
    stop.set()
    await running
    assert journal.lines == ["start store", "last words", "said", "drain store", "end store"]


async def test_who_waits_for_ever_on_the_way_out_is_cut_off_after_the_grace() -> None:
    """A finally that waits for a peer which is gone ends with the grace period: in good order, and nobody is stuck."""
    journal, stop = Journal(), asyncio.Event()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            journal.lines.append("saying goodbye")
            await asyncio.Event().wait()

    running = asyncio.ensure_future(supervise([journal.task("store"), Task("edge", run)], stop, grace=0.05))
    while not journal.lines:
        await asyncio.sleep(0)
    stop.set()
    await running
    assert journal.lines[1:] == ["saying goodbye", "drain store", "end store"]


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_failed_drain_does_not_keep_the_rest_from_stopping() -> None:
    """The failure surfaces, after everything was taken down."""
    journal, stop = Journal(), asyncio.Event()

    async def wait() -> None:
        await asyncio.Event().wait()

    async def drain() -> None:
        raise RuntimeError("cannot drain")

    running = asyncio.ensure_future(supervise([journal.task("store"), Task("edge", wait, drain)], stop))
    while not journal.lines:
        await asyncio.sleep(0)
    stop.set()
    with pytest.raises(RuntimeError, match="cannot drain"):
        await running
    assert "end store" in journal.lines


async def test_a_task_that_ignores_cancellation_is_named() -> None:
    """The process ends anyway and says who was stuck."""
    release, started = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    stop = asyncio.Event()
    running = asyncio.ensure_future(supervise([Task("stubborn", stubborn)], stop, grace=0.0))
    await started.wait()
    stop.set()
    with pytest.raises(CellwardError) as caught:
        await running
    release.set()
    assert caught.value.code == "runtime/task-stuck"
    assert caught.value.details["tasks"] == "stubborn"


async def test_cancelling_the_supervisor_takes_all_tasks_down() -> None:
    """An outer cancellation leaves nothing running."""
    journal = Journal()
    running = asyncio.ensure_future(supervise([journal.task("store")], asyncio.Event()))
    while not journal.lines:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "end store" in journal.lines
