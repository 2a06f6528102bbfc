"""The parts that run beside a session: whatever ends one, it begins again, and it alone."""

from __future__ import annotations

import asyncio

import pytest

from agent.link import client
from cellward.errors import CellwardError
from tests.fakes.clock import ImpatientClock


class EnoughError(BaseException):
    """Ends what would go on for ever."""


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), ValueError("x")], ids=["cancelled", "failed"])
async def test_v16_a_part_that_ends_is_begun_again(failure: BaseException) -> None:
    """Also when it was cancelled by what it waited for: a task group takes that for an ordinary end."""
    runs = 0
    reached = asyncio.Event()

    async def part() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise failure
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(client._endless(part, ImpatientClock()))
    async with asyncio.timeout(30):
        await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_part_that_ran_well_for_long_begins_again_soon() -> None:
    """Failures of last week do not make the next one wait for half a minute."""
    clock = ImpatientClock()
    runs = 0

    async def part() -> None:
        nonlocal runs
        runs += 1
        if runs > 12:
            clock.advance(client.LONG_RUN + 1)
        if runs > 24:
            raise EnoughError
        raise CellwardError("x/y", "", "", "", {})

    with pytest.raises(EnoughError):
        await client._endless(part, clock)
    assert max(clock.waits[:12]) > 1
    assert max(clock.waits[12:]) <= 1
