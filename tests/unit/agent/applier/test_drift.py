"""Drift on an API server in memory: what comes back in which order, and how long a refused repair waits."""

from __future__ import annotations

import pytest

from agent.applier.drift import DriftControl
from agent.kube.errors import KUBE_FORBIDDEN
from agent.kube.interfaces import ObjectRef
from agent.spool.interfaces import CellKey
from tests.fakes.applier_world import World, cell_yaml
from tests.fakes.kube import FakeKube

PLACE = "shop--shop1--dev"
NAMESPACE = ObjectRef("v1", "Namespace", "", PLACE)
WEB = ObjectRef("apps/v1", "Deployment", PLACE, "web")
DENY = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", PLACE, "default-deny")
GROUND = {"Namespace", "NetworkPolicy", "RoleBinding"}


class Refusals:
    """Refuses writes of some kinds and counts how often; satisfies ``FakeKube.on_request``."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = set(kinds)
        self.count = 0

    def __call__(self, verb: str, ref: ObjectRef, user: str | None) -> None:
        """Refuse."""
        del user
        if verb == "apply" and ref.kind in self.kinds:
            self.count += 1
            raise KUBE_FORBIDDEN("not now", by="a webhook")


@pytest.fixture
async def world(world: World, kube: FakeKube) -> World:
    """Return an engine with one cell that is ready."""
    assert (await world.deploy(cell_yaml("shop1"), "shop1")).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase("shop1", "ready")
    return world


def _drift(world: World) -> DriftControl:
    return world.engine._workers[CellKey("shop", "shop1", "dev")].drift


def _exists(kube: FakeKube, ref: ObjectRef) -> bool:
    return ref in kube._objects


async def test_v9_no_workload_comes_back_before_its_isolation(world: World, kube: FakeKube) -> None:
    """A namespace takes its time to go: its workloads wait for all of the ground, not for their turn."""
    kube.on_request = refusals = Refusals("Namespace", "NetworkPolicy")
    begun = len(kube.requests)
    await kube.delete(NAMESPACE)
    await world.until(lambda: refusals.count >= 3)
    refusals.kinds = {"NetworkPolicy"}
    await world.until(lambda: _exists(kube, NAMESPACE) and refusals.count >= 6)
    refusals.kinds = set()
    await world.until(lambda: _exists(kube, WEB) and _exists(kube, DENY))
    written = [ref.kind for verb, ref, _ in kube.requests[begun:] if verb == "apply"]
    first = next(at for at, kind in enumerate(written) if kind not in GROUND)
    assert "NetworkPolicy" in written[:first]
    assert "NetworkPolicy" not in written[first:]


async def test_refused_isolation_is_tried_again_within_a_second(world: World, kube: FakeKube) -> None:
    """Patience with whoever fights back is for objects of the release; an open door is not waited for."""
    kube.on_request = refusals = Refusals("NetworkPolicy")
    await kube.delete(DENY)
    await world.until(lambda: refusals.count >= 5)
    due = _drift(world).due_at()
    assert due is not None
    assert due - world.timer.monotonic() <= 1.0


async def test_api_server_that_is_back_is_not_waited_for(world: World, kube: FakeKube) -> None:
    """What was refused while it was away is looked at as soon as the watches are through."""
    kube.on_request = refusals = Refusals("Deployment")
    await kube.delete(WEB)
    await world.until(lambda: refusals.count >= 4)
    due = _drift(world).due_at()
    assert due is not None
    assert due - world.timer.monotonic() > 1.0
    kube.on_request = None
    world.engine.reconsider()
    await world.until(lambda: _exists(kube, WEB), seconds=1.0)


async def test_v16_repair_that_crashes_is_tried_again(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer nobody thought of loses neither the mark nor the other repairs of the cell."""
    repairer = world.engine._parts.repairer
    check, crashed = repairer.check, False

    async def once(*args: object) -> object:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise KeyError("spec")
        return await check(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(repairer, "check", once)
    await kube.delete(WEB)
    await world.until(lambda: _exists(kube, WEB))
    assert crashed
