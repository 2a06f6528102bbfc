"""Numbers of the benchmarks: percentiles, bars, and that a missing measurement never looks like a good one."""

from __future__ import annotations

import math

import pytest

from bench.numbers import Row, as_json, percentile, shown, table


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0), (0.501, 51.0)])
def test_percentile_is_nearest_rank(share: float, expected: float) -> None:
    """The value returned is one that was measured, and at least that share of all is not above it."""
    assert percentile([float(number) for number in range(100, 0, -1)], share) == expected


def test_percentile_of_nothing_is_missing() -> None:
    """Nothing measured is no number, not zero."""
    assert math.isnan(percentile([], 0.99))


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", "a", 2.0, "s", 2.0), True),
        (Row("a", "a", 2.1, "s", 2.0), False),
        (Row("a", "a", 999, "agents", 1000, "least"), False),
        (Row("a", "a", 1000, "agents", 1000, "least"), True),
        (Row("a", "a", math.nan, "s", 2.0), False),
        (Row("a", "a", math.nan, "agents", 1000, "least"), False),
        (Row("a", "a", 2.0, "s"), None),
    ],
)
def test_a_bar_is_met_on_its_good_side_only(row: Row, met: bool | None) -> None:
    """A bar is met on the right side, and what could not be measured meets none."""
    assert row.met is met


def test_table_says_met_missed_or_nothing() -> None:
    """Each number stands beside its bar with a verdict; one without a bar has none."""
    rows = [
        Row("fast", "fast", 1.5, "s", 2.0),
        Row("slow", "slow", 3.0, "s", 2.0, note="why"),
        Row("lost", "lost", math.nan, "s", 2.0),
        Row("plain", "plain", 12345.6, "MB"),
    ]
    title, fast, slow, lost, plain = table("title", rows).splitlines()
    assert title == "title"
    assert fast.split() == ["fast", "1.50", "s", "≤", "2", "s", "met"]
    assert slow.split() == ["slow", "3", "s", "≤", "2", "s", "MISSED", "why"]
    assert lost.split() == ["lost", "-", "s", "≤", "2", "s", "MISSED"]
    assert plain.split() == ["plain", "12346", "MB"]


def test_json_has_no_number_that_is_none() -> None:
    """NaN is not JSON: what is missing is null."""
    found = as_json([Row("lost", "lost", math.nan, "s", 2.0), Row("plain", "plain", 1.23456, "MB")])
    assert found == {
        "lost": {"value": None, "unit": "s", "bar": 2.0, "met": False},
        "plain": {"value": 1.235, "unit": "MB"},
    }


@pytest.mark.parametrize(("value", "text"), [(0.0123, "0.01"), (7.0, "7"), (123.45, "123.5"), (4321.6, "4322")])
def test_digits_shown(value: float, text: str) -> None:
    """As many digits as mean something."""
    assert shown(value) == text
