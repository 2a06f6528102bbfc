"""V9: what isolation was measured by is kept, told and recorded, and counts for as long as it is not too old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.cells import proving
from agent.cells.overview import Overview
from agent.isolation.interfaces import MeasuredEdge
from agent.metrics.registry import AgentMetrics
from agent.objects.model import record_from_json
from cellward.audit.record import parse_record
from tests.fakes.cell_world import World, cell_yaml, chart_guards, fenced

_CLOSED = MeasuredEdge("egress", "web", "the agent", "TCP", 7445, "closed", "closed", "n1")
_PASSED = replace(_CLOSED, measured="open")
PLACE = "shop--web--dev"


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Run an engine that looks all the time at what is measured."""
    monkeypatch.setattr(proving, "LOOK_SECONDS", 0.01)
    made = World(tmp_path / "state", await fenced(), chart_guards())
    made.prober.state, made.prober.edges, made.prober.lag = "enforced", (_CLOSED,), 1.5
    async with made.running():
        yield made


async def _measured(world: World) -> None:
    asked = len(world.prober.asked)
    world.prober.wanted.add(PLACE)
    await world.until(lambda: len(world.prober.asked) > asked)


async def _probes(world: World) -> list[dict[str, str]]:
    stored = await world.state.audit.peek(10_000, 64 * 1024 * 1024)
    found = [parse_record(one.data) for one in stored]
    return [dict(one.details) for one in found if one.action == "isolation.probe"]


async def test_v9_edges_are_told_and_survive_a_restart_as_they_were_measured_last(world: World) -> None:
    """Measured after the release, in the cell's own turn; no prober has to be asked again to know it."""
    assert (await world.deploy(cell_yaml("web"), "web")).accepted
    first = world.report("web").proof
    assert first is not None
    assert (first.edges, first.egress_lag_seconds) == ((_CLOSED,), 1.5)
    world.prober.state, world.prober.edges = "not-enforced", (_CLOSED, _PASSED)
    await _measured(world)
    await world.until(lambda: world.report("web").isolation == "not-enforced")
    told = world.report("web").proof
    assert told is not None
    assert told.edges == (_PASSED, _CLOSED), "what is wrong comes first"
    async with asyncio.timeout(30):
        while await _kept(world) != told:
            await asyncio.sleep(0.01)
    await world.restart_without_anything(world.reports.clear)
    await world.until(lambda: world.reports and world.report("web").proof == told)
    assert world.report("web").isolation == "not-enforced"


async def _kept(world: World) -> object:
    """Return what is on the disk: memory has it a moment before."""
    return record_from_json(await world.state.inventory.get(PLACE)).proof


async def test_v13_another_set_of_wrong_edges_is_recorded_and_the_same_is_not(world: World) -> None:
    """The state stays, the edges do not; names of sides and ports are all that is recorded of them."""
    await world.deploy(cell_yaml("web"), "web")
    world.prober.state, world.prober.edges = "not-enforced", (_PASSED,)
    await _measured(world)
    await world.until(lambda: world.report("web").isolation == "not-enforced")
    world.prober.edges = (_PASSED, replace(_PASSED, peer="metadata 169.254.169.254", port=80))
    for _ in range(3):
        await _measured(world)
    await world.until(lambda: len(world.report("web").proof.edges) == 2)  # type: ignore[union-attr]
    found = await _probes(world)
    assert [one.get("first", "") for one in found] == [
        "",
        "egress the agent TCP 7445",
        "egress metadata 169.254.169.254 TCP 80, egress the agent TCP 7445",
    ]
    assert found[-1].keys() == {"isolation", "namespace", "edges", "wrong", "first"}


async def test_v9_what_is_too_old_is_unknown(world: World) -> None:
    """A prober that measures no more must not leave its last word standing."""
    world.prober.age = timedelta(seconds=proving.MAX_AGE_SECONDS + 60)
    await world.deploy(cell_yaml("web"), "web")
    await world.until(lambda: world.report("web").isolation == "unknown")
    proof = world.report("web").proof
    assert proof is not None
    assert "it was enforced at" in proof.text
    assert [one["isolation"] for one in await _probes(world)] == ["enforced", "unknown"]
    world.prober.age = timedelta(0)
    await _measured(world)
    await world.until(lambda: world.report("web").isolation == "enforced")


async def test_metrics_count_edges_and_say_when_and_how_late(world: World) -> None:
    """By what is meant and what packets did; a cell that was never measured has none of them."""
    world.prober.edges = (_CLOSED, replace(_CLOSED, port=80), _PASSED)
    await world.deploy(cell_yaml("web"), "web")
    metrics, key = AgentMetrics(), {"project": "shop", "cell": "web", "environment": "dev"}
    Overview(world.engine._roster, world.health, metrics).judge(())

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"cellward_agent_{name}", {**key, **labels})

    assert value("isolation_edges", expected="closed", measured="closed") == 2
    assert value("isolation_edges", expected="closed", measured="open") == 1
    assert value("egress_lag_seconds") == 1.5
    proof = world.report("web").proof
    assert proof is not None
    assert value("isolation_probe_timestamp_seconds") == proof.at.timestamp()
