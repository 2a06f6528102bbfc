"""Random walks through a pure machine, and which of them a broken variant of its rules does not survive."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: Random walks within which each broken variant is found.
ENOUGH = 4000

#: What happens: its name, then whatever it is about.
Move = tuple[Any, ...]


class Violation(AssertionError):
    """An invariant does not hold."""


def must(holds: object, said: str) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(said)


def drawn(rng: random.Random, kinds: Sequence[tuple[int, Callable[[], Move]]], most: int) -> list[Move]:
    """Return 5 to ``most`` moves, each kind as often as its weight says."""
    weights = [weight for weight, _ in kinds]
    return [rng.choices(kinds, weights)[0][1]() for _ in range(rng.randint(5, most))]


def walks(walk: Callable[[random.Random], list[Move]]) -> Iterable[list[Move]]:
    """Return the same walks every time."""
    return (walk(random.Random(seed)) for seed in range(ENOUGH))


def violated(play: Callable[[list[Move]], object], tried: Iterable[list[Move]]) -> list[Move] | None:
    """Return the first walk on which playing it raises Violation, None when none does."""
    return next((moves for moves in tried if _breaks(play, moves)), None)


def check_found(play: Callable[[list[Move]], object], found: list[Move] | None, name: str) -> None:
    """Fail unless a broken variant was found on a walk that the rules as they are survive."""
    assert found is not None, f"nothing notices: {name}"
    play(found)


def _breaks(play: Callable[[list[Move]], object], moves: list[Move]) -> bool:
    try:
        play(moves)
    except Violation:
        return True
    return False
