"""Costs as multiples of the floor: what was not measured meets no bar, and idle CPU is not billed to a round."""

from __future__ import annotations

import math

import pytest

from bench.fleet.costs import Costs, agent_rows


def _rows(costs: Costs) -> dict[str, float]:
    return {row.key: row.value for row in costs.rows()}


def test_a_cost_is_told_as_a_multiple_of_the_floor_of_its_kind() -> None:
    """Release and policy by a round, join by a handshake, idle by idle."""
    costs = Costs(
        10, handshake=0.001, rounds=[0.0002, 0.0001, 0.0002], join=0.012, releases=[0.001], policies=[0.0018],
        idle=0.1, idle_floor=0.05, base=100.0, rss=101.0,
    )  # fmt: skip
    found = _rows(costs)
    assert found["ratio_release"] == pytest.approx(5)
    assert found["ratio_policy"] == pytest.approx(9)
    assert found["ratio_join"] == pytest.approx(12)
    assert found["ratio_idle"] == pytest.approx(2)
    assert found["agent_kb"] == pytest.approx(100)


def test_a_round_of_the_floor_that_failed_makes_no_number() -> None:
    """Sorted among others it would stand anywhere, and the ratio say anything."""
    costs = Costs(10, rounds=[0.0002, math.nan, 0.0001], releases=[0.001], policies=[0.001])
    assert math.isnan(_rows(costs)["ratio_release"])


def test_without_a_floor_or_a_round_no_ratio_is_met() -> None:
    """A floor that did not run makes no number look good."""
    rows = [row for row in Costs(10).rows() if row.key.startswith("ratio_")]
    assert len(rows) == 4
    assert all(math.isnan(row.value) and row.met is False for row in rows)


def test_what_agents_spend_themselves_is_told_for_each() -> None:
    """In a phase, and idle as a share of a core."""
    rows = agent_rows(100, {"join": {"load_cpu": 2.0, "seconds": 3.0}, "idle": {"load_cpu": 30.0, "seconds": 30.0}})
    assert {row.key: row.value for row in rows} == {"own_join": pytest.approx(20), "own_idle": pytest.approx(1)}
