"""Work that many share: nobody gets an answer older than the question, and nobody loses work of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hub.store.changes import ChangeBus
from hub.store.shared import Pace, Remembered, Together


class Source:
    """A value that changes, read slowly enough to be overtaken."""

    def __init__(self) -> None:
        self.changes = ChangeBus()
        self.value = 1
        self.reads = 0
        self.broken = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, key: str) -> str:
        """Return the value as it was when the read began."""
        self.reads += 1
        value = self.value
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("broken")
        return f"{key}{value}"

    def change(self) -> None:
        """Change it, and tell."""
        self.value += 1
        self.changes.notify(["topic"])


async def test_who_asks_while_a_read_is_under_way_shares_it() -> None:
    """Fifty questions at once are one read, and so are fifty more."""
    source = Source()
    remembered = Remembered(source.read, source.changes, "topic", bound=10)
    for _ in range(2):
        assert await asyncio.gather(*(remembered.get("a") for _ in range(50))) == ["a1"] * 50
    assert source.reads == 1


async def test_a_read_overtaken_by_a_change_is_neither_joined_nor_kept() -> None:
    """Whoever asks after a change gets what it made, even when an older read ends later."""
    source = Source()
    remembered = Remembered(source.read, source.changes, "topic", bound=10)
    source.gate.clear()
    before = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.change()
    after = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.gate.set()
    assert await before == "a1"
    assert await after == "a2"
    assert await remembered.get("a") == "a2"
    assert source.reads == 2
    source.changes.notify_all()
    source.value += 1
    assert await remembered.get("a") == "a3"


async def test_a_failed_read_is_told_and_not_remembered() -> None:
    """V16: a store that did not answer once is asked again."""
    source = Source()
    remembered = Remembered(source.read, source.changes, "topic", bound=10)
    source.broken = True
    results = await asyncio.gather(*(remembered.get("a") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError] * 3
    source.broken = False
    assert await remembered.get("a") == "a1"


async def test_who_goes_away_takes_nobodys_answer_along() -> None:
    """A stream that ends while its question is asked does not fail the others'."""
    source = Source()
    remembered = Remembered(source.read, source.changes, "topic", bound=10)
    source.gate.clear()
    first, second = (asyncio.create_task(remembered.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    source.gate.set()
    assert await second == "a1"


async def test_memory_is_bounded_by_weight_and_what_weighs_none_is_not_kept() -> None:
    """The value used longest ago goes first."""
    source = Source()
    weights = {"a1": 6, "b1": 4, "c1": 3, "d1": None, "e1": 11}
    remembered = Remembered(source.read, source.changes, "topic", bound=10, weigh=lambda value: weights[value])
    for key in "abacaddee":
        await remembered.get(key)
    # b made room for c; neither d nor e is ever kept.
    assert source.reads == 3 + 2 + 2
    await remembered.get("b")
    assert source.reads == 8


async def test_a_run_takes_only_calls_made_before_it_and_each_gets_its_whole_result() -> None:
    """Together: runs never overlap, nobody waits for more than the run under way and the next one."""
    running, seen = 0, list[Sequence[int]]()

    async def run(given: Sequence[int]) -> int:
        nonlocal running
        running += 1
        assert running == 1
        seen.append(given)
        await asyncio.sleep(0)
        running -= 1
        if 13 in given:
            raise RuntimeError("thirteen")
        return sum(given)

    together = Together(run, "sums")
    first = asyncio.create_task(together.join(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(together.join(number)) for number in (2, 3)]
    rest[0].cancel()
    assert (await first, await rest[1]) == (1, 3 if seen[1] == [3] else 5)
    with pytest.raises(RuntimeError):
        await together.join(13)
    assert await together.join(4) == 4


async def test_runs_kept_apart_take_what_trickles_in_together() -> None:
    """A fleet that speaks for a while costs one more run; who comes alone does not wait."""
    runs = list[Sequence[int]]()

    async def run(given: Sequence[int]) -> None:
        runs.append(given)

    together = Together(run, "rows", apart=2.0)
    await together.join(0)
    rest = list[asyncio.Task[None]]()
    for number in range(1, 20):
        rest.append(asyncio.create_task(together.join(number)))
        for _ in range(5):
            await asyncio.sleep(0)
    assert runs == [[0]]
    await asyncio.gather(*rest)
    assert runs == [[0], list(range(1, 20))]


async def test_a_turn_that_is_far_away_is_had_at_once_by_who_is_in_a_hurry() -> None:
    """And the next one has its whole distance from it."""
    pace, hurry = Pace(3600), asyncio.Event()
    await pace.turn()
    waiting = asyncio.create_task(pace.turn(hurry))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    hurry.set()
    async with asyncio.timeout(10):
        await waiting
