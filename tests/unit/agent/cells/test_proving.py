"""V9: isolation is measured again while cells run, of what is in force, and what is found is told and decided on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.cells import proving
from agent.isolation.interfaces import Evidence, IsolationState, MeasuredEdge
from cellward.cells.network import NetworkIntent
from cellward.policy.model import Decision, DecisionInput
from cellward.runtime.clock import SystemClock
from tests.fakes.cell_world import World, cell_yaml, chart_guards, fenced

_EDGE = MeasuredEdge("egress", "web", "the agent", "TCP", 7445, "closed", "open", "n1")


@dataclass
class _Told:
    """A prober that measures when the test says that something is due."""

    state: IsolationState = "enforced"
    wanted: set[str] = field(default_factory=set)
    asked: list[NetworkIntent] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def due(self, network: NetworkIntent) -> bool:
        return network.namespace in self.wanted

    def forget(self, namespace: str) -> bool:
        self.wanted.add(namespace)
        return True

    def discard(self, namespace: str) -> None:
        self.wanted.add(namespace)

    async def probe(self, network: NetworkIntent) -> Evidence:
        self.wanted.discard(network.namespace)
        self.asked.append(network)
        self.meanwhile()
        edges = (_EDGE,) if self.state == "not-enforced" else ()
        return Evidence(self.state, SystemClock().now(), "told", f"told that it is {self.state}", edges)


@pytest.fixture
def prober() -> _Told:
    """Return what the engine measures with."""
    return _Told()


@pytest.fixture
async def world(tmp_path: Path, prober: _Told, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Run an engine that looks all the time."""
    monkeypatch.setattr(proving, "LOOK_SECONDS", 0.01)
    made = World(tmp_path / "state", await fenced(), chart_guards())
    made.prober = prober  # type: ignore[assignment]
    async with made.running():
        yield made


async def _codes(world: World) -> list[str]:
    return [one.code for one in world.report("web").conditions]


async def test_v9_a_change_that_was_measured_is_told_and_recorded_once(world: World, prober: _Told) -> None:
    """As state, as condition with the reason, as audit record; the same again is no news."""
    assert (await world.deploy(cell_yaml("web"), "web")).accepted
    assert world.report("web").isolation == "enforced"
    before = sum(one["action"] == "isolation.probe" for one in await world.records())
    prober.state = "not-enforced"
    for _ in range(2):
        asked = len(prober.asked)
        prober.wanted.add("shop--web--dev")
        await world.until(lambda: len(prober.asked) > asked)  # noqa: B023 - awaited here
    await world.until(lambda: world.report("web").isolation == "not-enforced")
    assert "isolation/not-enforced" in await _codes(world)
    found = [one for one in await world.records() if one["action"] == "isolation.probe"][before:]
    assert [(one["decision"], one["reason"]) for one in found] == [("done", "told that it is not-enforced")]
    prober.state = "enforced"
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: world.report("web").isolation == "enforced")
    assert "isolation/not-enforced" not in await _codes(world)


async def test_v9_what_was_refused_for_want_of_proof_runs_once_it_is_proved(world: World, prober: _Told) -> None:
    """Nobody signs or sends anything: the same deployment is decided again."""
    original = world.policy.evaluator.decide

    async def needs_proof(request: DecisionInput) -> Decision:
        proved = request.isolation == "enforced"
        world.policy.evaluator.denied = {} if proved else {"Deployment": ("isolation/unproved", "not proved")}
        return await original(request)

    world.policy.evaluator.decide = needs_proof  # type: ignore[method-assign]
    prober.state = "not-enforced"
    receipt = await world.deploy(cell_yaml("web"), "web")
    assert [one.rule for one in receipt.refusals] == ["isolation/unproved"]
    prober.state = "enforced"
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: world.report("web").isolation == "enforced")
    await world.until(lambda: world.report("web").deployment_digest and not world.report("web").refusals)


async def test_v9_in_quarantine_what_is_in_force_is_measured(world: World, prober: _Told) -> None:
    """Nothing is open then, so nothing may pass."""
    placed = world.deployment("web", world.release(cell_yaml("web")))
    assert (await world.submit(world.item("web", placed))).accepted
    assert prober.asked[-1].edges
    await world.engine.submit(world.item("web", placed, hub_state="quarantine"))
    await world.phase("web", "held")
    asked = len(prober.asked)
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: len(prober.asked) > asked)
    assert prober.asked[-1] == NetworkIntent("shop", "web", "dev", ())


async def test_v1_after_a_restart_it_is_measured_without_a_hub(world: World, prober: _Told) -> None:
    """The intent is that of the release which was kept when it was accepted."""
    await world.deploy(cell_yaml("web"), "web")
    before = prober.asked[-1]
    await world.restart_without_anything(prober.asked.clear)
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: prober.asked)
    assert prober.asked == [before]


async def test_v9_what_was_measured_across_a_change_of_the_cell_is_measured_again(
    world: World, prober: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not reported, so a prober that remembers must not take it for known."""
    await world.deploy(cell_yaml("web"), "web")
    asked = len(prober.asked)
    prober.state = "not-enforced"
    sleep, has_ground = world.timer.sleep, proving._has_ground

    def changes() -> None:
        if len(prober.asked) == asked + 1:
            monkeypatch.setattr(proving, "_has_ground", lambda _: False)

    async def is_whole_again(seconds: float) -> None:
        monkeypatch.setattr(proving, "_has_ground", has_ground)
        await sleep(seconds)

    prober.meanwhile = changes
    monkeypatch.setattr(world.timer, "sleep", is_whole_again)
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: world.report("web").isolation == "not-enforced")
    assert len(prober.asked) == asked + 2


async def test_v16_a_fault_with_one_cell_ends_nothing(world: World, prober: _Told) -> None:
    """The others are still looked at, and so is this one the next time."""
    for name in ("web", "other"):
        await world.deploy(cell_yaml(name), name)
    faults = []

    def fails() -> None:
        if prober.asked[-1].cell == "web" and not faults:
            faults.append(True)
            raise KeyError("nobody foresaw it")

    prober.meanwhile = fails
    asked = len(prober.asked)
    prober.wanted |= {"shop--web--dev", "shop--other--dev"}
    await world.until(lambda: len(prober.asked) >= asked + 2)
    prober.wanted.add("shop--web--dev")
    await world.until(lambda: len(prober.asked) >= asked + 3)
    assert faults


async def test_v2_a_hub_may_ask_for_a_measurement_of_what_is_here(world: World, prober: _Told) -> None:
    """Of a cell of this cluster, by its name; of anything else it hears why not."""
    await world.deploy(cell_yaml("web"), "web")
    asked = len(prober.asked)
    assert world.engine.measure_again("shop/web/dev") == ""
    await world.until(lambda: len(prober.asked) > asked)
    assert "nothing is known of" in world.engine.measure_again("shop/none/dev")


async def test_v9_a_measurement_that_was_asked_for_begins_at_once(
    world: World, prober: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it at a terminal does not wait for the next look."""
    await world.deploy(cell_yaml("web"), "web")
    resting, sleep = asyncio.Event(), world.timer.sleep

    async def noted(seconds: float) -> None:
        if seconds == 3600:
            resting.set()
        await sleep(seconds)

    monkeypatch.setattr(world.timer, "sleep", noted)
    monkeypatch.setattr(proving, "LOOK_SECONDS", 3600)
    async with asyncio.timeout(30):
        await resting.wait()
    asked = len(prober.asked)
    assert world.engine.measure_again("shop/web/dev") == ""
    await world.until(lambda: len(prober.asked) > asked)


async def test_v16_a_cell_that_is_measured_for_long_holds_up_no_other(
    world: World, prober: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it measured twice meanwhile."""
    for name in ("web", "other"):
        await world.deploy(cell_yaml(name), name)
    measure, first, over = prober.probe, asyncio.Event(), asyncio.Event()

    async def slow(network: NetworkIntent) -> Evidence:
        if network.cell == "web":
            first.set()
            await over.wait()
        return await measure(network)

    monkeypatch.setattr(prober, "probe", slow)
    prober.asked.clear()
    prober.wanted.add("shop--web--dev")
    async with asyncio.timeout(30):
        await first.wait()
    for _ in range(3):
        asked = len(prober.asked)
        prober.wanted.add("shop--other--dev")
        await world.until(lambda: len(prober.asked) > asked)  # noqa: B023 - awaited here
    assert {one.cell for one in prober.asked} == {"other"}
    over.set()
    await world.until(lambda: "web" in {one.cell for one in prober.asked})
    assert [one.cell for one in prober.asked].count("web") == 1


async def test_v10_neighbours_are_the_other_cells_as_they_are_in_force(world: World) -> None:
    """Never the cell itself; one in quarantine shows nothing."""
    await world.deploy(cell_yaml("web"), "web")
    placed = world.deployment("other", world.release(cell_yaml("other")))
    assert (await world.submit(world.item("other", placed))).accepted
    assert [one.cell for one in world.engine.neighbours("shop--other--dev")] == ["web"]
    (other,) = world.engine.neighbours("shop--web--dev")
    assert other.edges
    await world.engine.submit(world.item("other", placed, hub_state="quarantine"))
    await world.phase("other", "held")
    assert world.engine.neighbours("shop--web--dev") == [NetworkIntent("shop", "other", "dev", ())]
