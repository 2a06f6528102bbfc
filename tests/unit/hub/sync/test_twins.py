"""When streams that follow each other are those of two processes (V7)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hub.sync.twins import FOLLOWS, Twins
from tests.fakes.clock import ManualClock


@pytest.mark.parametrize(("apart", "found"), [(5, True), (120, False)], ids=["taking turns", "reconnecting"])
def test_v7_two_that_take_turns_are_told_from_one_that_reconnects(apart: int, *, found: bool) -> None:
    """Every few seconds, again and again; an agent that is ordered to reconnect now and then is no copy of itself."""
    clock = ManualClock()
    twins = Twins(SimpleNamespace(), SimpleNamespace(), clock)  # type: ignore[arg-type]  # neither is asked
    seen = []
    for _ in range(3 * FOLLOWS):
        clock.advance(apart)
        seen.append(twins.follow_too_often("eu-1"))
    assert not any(seen[: FOLLOWS - 1])
    assert all(seen[FOLLOWS:]) is found
    assert not twins.follow_too_often("us-1")
