"""Waiting for the first of several things, and for a stop."""

from __future__ import annotations

import asyncio

import pytest

from cellward.runtime.tasks import first_of, stopped_within, to_its_end


async def test_the_first_that_is_done_ends_the_wait() -> None:
    """What was begun for the wait has ended, what was handed in goes on."""
    fast, slow = asyncio.Event(), asyncio.Event()
    mine = asyncio.ensure_future(slow.wait())
    ended: list[str] = []

    async def begun() -> None:
        try:
            await slow.wait()
        finally:
            ended.append("begun")

    fast.set()
    assert await first_of(mine, begun(), fast.wait()) == [False, False, True]
    assert ended == ["begun"]
    assert not mine.done()
    slow.set()
    assert await mine


async def test_the_time_ends_the_wait() -> None:
    """Nothing was done, and nothing is left over."""
    before = asyncio.all_tasks()
    assert await first_of(asyncio.Event().wait(), seconds=0.001) == [False]
    assert asyncio.all_tasks() == before


async def test_what_a_begun_wait_raises_is_raised() -> None:
    """A failure is no silent end."""

    async def fails() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await first_of(fails(), asyncio.Event().wait())


async def test_a_watched_task_may_fail_or_be_cancelled() -> None:
    """Its owner looks at how it ended; the wait was only for its end."""

    async def fails() -> None:
        raise LookupError

    failing, cancelled = asyncio.ensure_future(fails()), asyncio.ensure_future(asyncio.Event().wait())
    cancelled.cancel()
    assert await first_of(failing, asyncio.Event().wait()) == [True, False]
    assert await first_of(cancelled, asyncio.Event().wait()) == [True, False]
    assert isinstance(failing.exception(), LookupError)


async def test_a_cancelled_wait_ends_what_it_began() -> None:
    """Also where the waiting task itself is cancelled."""
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(first_of(asyncio.Event().wait(), asyncio.Event().wait()))
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) > 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == before


async def test_a_stop_ends_a_pause() -> None:
    """Whether it is time to stop is what the pause says."""
    stop = asyncio.Event()
    assert not await stopped_within(stop, 0.001)
    asyncio.get_running_loop().call_soon(stop.set)
    assert await stopped_within(stop, 60)


async def test_what_must_end_goes_on_without_whoever_waits() -> None:
    """Cancelled as often as one likes, the work is done; who waits to the end gets what it returned."""
    gate, done = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        await gate.wait()
        done.set()
        return 7

    waiting = asyncio.ensure_future(to_its_end(work(), "work"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    async with asyncio.timeout(10):
        await done.wait()
        assert await to_its_end(work(), "again") == 7
