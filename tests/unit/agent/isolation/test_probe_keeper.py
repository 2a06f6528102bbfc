"""V9: what is remembered counts for the very intent, for a while, and on the nodes it was measured on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.isolation.interfaces import Evidence, IsolationState
from agent.isolation.nodes import NodeWatch
from agent.isolation.probing.keeper import _ASKED_SECONDS, RETRY_SECONDS, RememberingProber
from agent.kube.interfaces import WatchEvent, WatchType
from cellward.cells.network import Edge, NetworkIntent, SameCell
from tests.fakes.clock import ManualClock

_WEB = NetworkIntent("shop", "web", "dev", (Edge("allow-within-cell", "ingress", (), (SameCell(),), ()),))
_CHANGED = NetworkIntent("shop", "web", "dev", ())


@dataclass
class _Counting:
    clock: ManualClock
    state: IsolationState = "enforced"
    asked: int = 0
    neighbours: Callable[[str], Sequence[NetworkIntent]] = lambda _: ()
    meanwhile: Callable[[], object] = field(default=lambda: None)

    async def probe(self, _: NetworkIntent) -> Evidence:
        self.asked += 1
        self.meanwhile()
        return Evidence(self.state, self.clock.now(), "test", "")


@pytest.fixture
def clock() -> ManualClock:
    """Return the time."""
    return ManualClock()


@pytest.fixture
def inner(clock: ManualClock) -> _Counting:
    """Return what measures."""
    return _Counting(clock)


@pytest.fixture
def keeper(inner: _Counting, clock: ManualClock) -> RememberingProber:
    """Return what remembers, for ten minutes."""
    return RememberingProber(inner, clock, 600)


async def test_a_proof_counts_until_it_is_old(keeper: RememberingProber, inner: _Counting, clock: ManualClock) -> None:
    """Once in ten minutes, not at every release."""
    assert keeper.due(_WEB)
    await keeper.probe(_WEB)
    clock.advance(599)
    await keeper.probe(_WEB)
    assert (inner.asked, keeper.due(_WEB)) == (1, False)
    clock.advance(2)
    assert keeper.due(_WEB)
    await keeper.probe(_WEB)
    assert inner.asked == 2


async def test_another_intent_is_measured_at_once(keeper: RememberingProber, inner: _Counting) -> None:
    """After every change of isolation; a quarantine is one."""
    await keeper.probe(_WEB)
    assert keeper.due(_CHANGED)
    await keeper.probe(_CHANGED)
    assert (inner.asked, keeper.due(_WEB)) == (2, True)


async def test_what_is_not_proved_is_tried_again_soon(
    keeper: RememberingProber, inner: _Counting, clock: ManualClock
) -> None:
    """A pod may have been late; an engine may have been started."""
    inner.state = "unknown"
    await keeper.probe(_WEB)
    assert not keeper.due(_WEB)
    clock.advance(RETRY_SECONDS + 1)
    assert keeper.due(_WEB)


async def test_what_stays_unproved_is_tried_less_and_less_often_and_for_years(
    keeper: RememberingProber, inner: _Counting, clock: ManualClock
) -> None:
    """A cluster without an engine is not probed all the time; V16: and nobody stumbles over the thousandth try."""
    inner.state = "not-enforced"
    waits = []
    for _ in range(1100):
        await keeper.probe(_WEB)
        begun = clock.monotonic()
        while not keeper.due(_WEB):
            clock.advance(10)
        waits.append(clock.monotonic() - begun)
    assert waits[:4] == sorted(waits[:4])
    assert waits[0] < 60
    assert waits[-1] == 610


async def test_a_hub_may_ask_for_a_measurement_but_not_all_the_time(
    keeper: RememberingProber, clock: ManualClock
) -> None:
    """Pods are made for each."""
    await keeper.probe(_WEB)
    assert not keeper.forget(_WEB.namespace)
    clock.advance(_ASKED_SECONDS)
    assert keeper.forget(_WEB.namespace)
    assert keeper.due(_WEB)
    assert not keeper.forget(_WEB.namespace)


async def test_what_the_cell_changed_under_is_measured_again_however_new_it_is(keeper: RememberingProber) -> None:
    """V9: nobody was told what was measured."""
    await keeper.probe(_WEB)
    keeper.discard(_WEB.namespace)
    assert keeper.due(_WEB)
    keeper.discard(_WEB.namespace)


async def test_a_new_node_also_spoils_what_is_being_measured(keeper: RememberingProber, inner: _Counting) -> None:
    """What began before it may have ended without it."""
    await keeper.probe(_WEB)
    keeper.forget_all()
    assert keeper.due(_WEB)
    inner.meanwhile = keeper.forget_all
    await keeper.probe(_WEB)
    assert keeper.due(_WEB)


async def test_cells_that_went_are_forgotten(keeper: RememberingProber, clock: ManualClock) -> None:
    """V16: an agent that lives long holds no more than it needs."""
    for number in range(50):
        await keeper.probe(NetworkIntent("shop", f"c{number}", "dev", ()))
    clock.advance(1201)
    await keeper.probe(_WEB)
    assert list(keeper._known) == [_WEB.namespace]


# -- nodes ------------------------------------------------------------------------------------------------------------


def _node(name: str, boot: str = "b1", *, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions, "nodeInfo": {"bootID": boot}}}


def _events(*events: tuple[WatchType, dict[str, Any]]) -> int:
    """Return how often a node was new."""

    class Kube:
        async def watch(self, api_version: str, kind: str) -> Any:
            assert (api_version, kind) == ("v1", "Node")
            for kind_of_event, obj in events:
                yield WatchEvent(kind_of_event, obj)

    told: list[bool] = []
    asyncio.run(NodeWatch(Kube(), lambda: told.append(True)).run())  # type: ignore[arg-type]
    return len(told)


_BEGIN = (
    (WatchType.RESTARTED, {}), (WatchType.ADDED, _node("n1")), (WatchType.ADDED, _node("n2", ready=False)),
    (WatchType.SYNCED, {}),
)  # fmt: skip


def test_v9_a_node_that_becomes_ready_is_new_once() -> None:
    """Not those of the start, not a heartbeat, not one that was unready for a while."""
    assert _events(*_BEGIN) == 0
    assert _events(*_BEGIN, (WatchType.MODIFIED, _node("n1"))) == 0
    assert _events(*_BEGIN, (WatchType.MODIFIED, _node("n1", ready=False)), (WatchType.MODIFIED, _node("n1"))) == 0
    assert _events(*_BEGIN, (WatchType.MODIFIED, _node("n2")), (WatchType.MODIFIED, _node("n2"))) == 1
    assert _events(*_BEGIN, (WatchType.ADDED, _node("n3", ready=False)), (WatchType.MODIFIED, _node("n3"))) == 1


def test_v9_a_node_that_booted_or_came_back_is_new() -> None:
    """Its rules were made again; also when that happened while the watch was away."""
    assert _events(*_BEGIN, (WatchType.MODIFIED, _node("n1", "b2"))) == 1
    assert _events(*_BEGIN, (WatchType.DELETED, _node("n1")), (WatchType.ADDED, _node("n1"))) == 1
    again = ((WatchType.RESTARTED, {}), (WatchType.SYNCED, {}), (WatchType.ADDED, _node("n1")))
    assert _events(*_BEGIN, *again) == 1
    same = ((WatchType.RESTARTED, {}), (WatchType.ADDED, _node("n1")), (WatchType.SYNCED, {}))
    assert _events(*_BEGIN, *same) == 0


@pytest.mark.parametrize("part", ["kernelVersion", "containerRuntimeVersion", "kubeProxyVersion"])
def test_v9_a_node_that_enforces_with_another_part_is_new(part: str) -> None:
    """Once, and at no heartbeat after it."""
    other = _node("n1")
    other["status"]["nodeInfo"][part] = "another"
    assert _events(*_BEGIN, (WatchType.MODIFIED, other), (WatchType.MODIFIED, other)) == 1


@pytest.mark.parametrize(
    "away",
    [
        {"spec": {"taints": [{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]}},
        {"spec": {"taints": [{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}]}},
        {"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}},
    ],
)
def test_v9_a_node_whose_network_was_away_is_new_when_it_is_back(away: dict[str, Any]) -> None:
    """Its engine began again. Not while it is away: nothing can be measured there."""
    gone = _node("n1")
    gone["spec"] = away.get("spec", {})
    gone["status"]["conditions"] += away.get("status", {}).get("conditions", [])
    assert _events(*_BEGIN, (WatchType.MODIFIED, gone), (WatchType.MODIFIED, gone)) == 0
    assert _events(*_BEGIN, (WatchType.MODIFIED, gone), (WatchType.MODIFIED, _node("n1"))) == 1


def test_v9_a_taint_that_says_nothing_of_the_network_changes_nothing() -> None:
    """A node may be kept for some pods, or drained."""
    kept = {**_node("n1"), "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}
    assert _events(*_BEGIN, (WatchType.MODIFIED, kept), (WatchType.MODIFIED, _node("n1"))) == 0


def test_v16_a_node_nobody_understands_is_passed_over() -> None:
    """A kubelet writes most of it."""
    odd = {"metadata": {"name": "odd", "uid": "odd"}, "status": {"conditions": ["Ready"]}}
    assert _events(*_BEGIN, (WatchType.ADDED, odd), (WatchType.MODIFIED, _node("n2"))) == 1
