"""What ends is told in time: at a quarter of its life, and red at a tenth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.checks.errors import ROOT_ENDS
from cellward.checks.lifetimes import Life, life_line
from cellward.checks.runner import status_of, table_lines

BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = Life(BEGINS, BEGINS + timedelta(days=100))


@pytest.mark.parametrize(
    ("day", "status"),
    [(0, "ok"), (74, "ok"), (75, "warning"), (89, "warning"), (90, "failed"), (100, "failed"), (400, "failed")],
)
def test_a_life_is_told_at_a_quarter_and_red_at_a_tenth(day: int, status: str) -> None:
    """The line says when it ends and what to do about it, from the first warning on."""
    line = life_line("policy", "policy/root", LIFE, BEGINS + timedelta(days=day), ROOT_ENDS)
    assert status_of(line) == status
    assert bool(line.hint) == (status != "ok")
    text = "\n".join(table_lines([line]))
    assert text.splitlines()[2][0] == {"ok": "✓", "warning": "!", "failed": "✗"}[status]
    assert (ROOT_ENDS.hint in text) == (status != "ok")


@given(st.integers(-10, 400), st.integers(0, 400), st.integers(0, 400))
def test_nothing_gets_better_with_time(life: int, day: int, later: int) -> None:
    """Neither a life that is none, nor a step of the clock, turns a red line green."""
    found = Life(BEGINS, BEGINS + timedelta(days=life))
    order = ("green", "yellow", "red")
    at, after = (found.level(BEGINS + timedelta(days=days)) for days in (day, day + later))
    assert order.index(at) <= order.index(after)
    assert life <= day or found.level(BEGINS + timedelta(days=life)) == "red"
