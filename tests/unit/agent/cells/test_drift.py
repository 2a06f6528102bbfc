"""Drift on an API server in memory: what comes back in which order, and how long a refused repair waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from agent.cells.drift import DriftControl
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_IMMUTABLE
from agent.kube.interfaces import JSONObject, ObjectRef
from agent.objects.errors import NOT_REPAIRED
from agent.objects.model import record_from_json
from agent.objects.order import WORKLOADS
from agent.spool.errors import FULL
from cellward.documents.names import CellKey
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

PLACE = "shop--shop1--dev"
NAMESPACE = ObjectRef("v1", "Namespace", "", PLACE)
WEB = ObjectRef("apps/v1", "Deployment", PLACE, "web")
DENY = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", PLACE, "default-deny")


BINDING = ObjectRef("rbac.authorization.k8s.io/v1", "RoleBinding", PLACE, "cellward-cell")
SERVICE = ObjectRef("v1", "Service", PLACE, "web")
IMAGE = "/spec/template/spec/containers/0/image"


class Refusals:
    """Refuses writes of some kinds and counts how often; satisfies ``FakeKube.on_request``."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = set(kinds)
        self.count = 0

    def __call__(self, verb: str, ref: ObjectRef, user: str | None) -> None:
        """Refuse."""
        del user
        if verb in {"apply", "patch"} and ref.kind in self.kinds:
            self.count += 1
            raise KUBE_FORBIDDEN("not now", by="a webhook", rule="a webhook")


@pytest.fixture
async def world(world: World, kube: FakeKube) -> World:
    """Return an engine with one cell that is ready."""
    assert (await world.deploy(cell_yaml("shop1"), "shop1")).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase("shop1", "ready")
    return world


def _drift(world: World) -> DriftControl:
    return world.engine._roster.workers[CellKey("shop", "shop1", "dev")].drift


def _failures(world: World, ref: ObjectRef) -> int:
    known = _drift(world).state.patience.get(ref)
    return 0 if known is None else known.failed


async def _saved_uid(world: World) -> str:
    record = record_from_json(await world.state.inventory.get(PLACE))
    return record.by_ref()[WEB].uid


def _exists(kube: FakeKube, ref: ObjectRef) -> bool:
    return ref in kube._objects


async def test_v9_no_workload_comes_back_before_its_isolation(world: World, kube: FakeKube) -> None:
    """A namespace takes its time to go: its workloads wait for all of its isolation, not for their turn."""
    kube.on_request = refusals = Refusals("Namespace", "NetworkPolicy")
    begun = len(kube.requests)
    await kube.delete(NAMESPACE)
    await world.until(lambda: refusals.count >= 3)
    refusals.kinds = {"NetworkPolicy"}
    await world.until(lambda: _exists(kube, NAMESPACE) and refusals.count >= 6)
    refusals.kinds = set()
    await world.until(lambda: _exists(kube, WEB) and _exists(kube, DENY))
    written = [ref.kind for verb, ref, _ in kube.requests[begun:] if verb == "apply"]
    first = next(at for at, kind in enumerate(written) if kind in WORKLOADS)
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
    repairer = _drift(world)._repairer
    check, crashed = repairer.check, False

    async def once(*args: object, **named: object) -> object:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise KeyError("spec")
        return await check(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(repairer, "check", once)
    await kube.delete(WEB)
    await world.until(lambda: _exists(kube, WEB))
    assert crashed


async def _swap(kube: FakeKube, image: str = "evil:1") -> None:
    await kube.patch_json(WEB, [{"op": "replace", "path": IMAGE, "value": image}], manager="kubectl")


def _image(kube: FakeKube) -> str:
    return str(kube._objects[WEB]["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("stuck", [NAMESPACE, DENY, BINDING], ids=lambda ref: ref.kind)
async def test_v1_what_cannot_be_repaired_holds_up_nothing_else(world: World, kube: FakeKube, stuck: ObjectRef) -> None:
    """A swapped image and a deleted Service come back, whatever part of the ground is refused."""
    refusals = Refusals(stuck.kind)
    change = {"op": "add", "path": "/metadata/labels/cellward.dev~1evil", "value": "x"}
    kube.on_request = refusals
    await _unguarded(kube, stuck, change)
    await world.until(lambda: refusals.count >= 2)
    await _swap(kube)
    await kube.delete(SERVICE)
    await world.until(lambda: _image(kube) == "registry.example/web:1" and _exists(kube, SERVICE), seconds=15)
    # Everything is there and runs; the cell is not what was released all the same.
    await world.until(lambda: world.report("shop1").conditions)
    await world.phase("shop1", "degraded")


async def _unguarded(kube: FakeKube, ref: ObjectRef, change: dict[str, str]) -> None:
    hook, kube.on_request = kube.on_request, None
    await kube.patch_json(ref, [change], manager="kubectl")
    kube.on_request = hook


async def test_v1_repair_that_hangs_holds_up_nothing_else(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that does not answer costs the object it is asked about, not the others of the cell."""
    kube.on_request = refusals = Refusals("NetworkPolicy")
    await kube.delete(DENY)
    await world.until(lambda: refusals.count >= 1)
    apply, hangs = kube.apply, asyncio.Event()

    async def hanging(obj: Mapping[str, Any], **options: Any) -> JSONObject:
        if obj["kind"] == "NetworkPolicy":
            hangs.set()
            await asyncio.sleep(3600)
        return await apply(obj, **options)

    monkeypatch.setattr(kube, "apply", hanging)
    await asyncio.wait_for(hangs.wait(), 30)
    await _swap(kube)
    await world.until(lambda: _image(kube) == "registry.example/web:1", seconds=15)


async def test_v1_what_does_not_go_holds_up_nothing_else(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many objects that can only be made anew, and do not go: each of them waits by itself."""
    manifests = "".join(f"        - {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}}}}}\n" for n in range(20))
    stuck = [ObjectRef("v1", "ConfigMap", PLACE, f"c{n}") for n in range(20)]
    more = service_yaml() + f"    raw:\n      type: manifests\n      manifests:\n{manifests}"
    assert (await world.deploy(cell_yaml("shop1", "1.1.0", more), "shop1")).accepted
    delete = kube.delete

    async def kept(ref: ObjectRef, **options: Any) -> None:
        if ref not in stuck:
            await delete(ref, **options)

    def immutable(verb: str, ref: ObjectRef, user: str | None) -> None:
        if verb in {"apply", "patch"} and ref in stuck and user is not None:
            raise KUBE_IMMUTABLE("field is immutable when `immutable` is set")

    monkeypatch.setattr(kube, "delete", kept)
    kube.on_request = immutable
    for ref in stuck:
        await kube.patch_json(ref, [{"op": "add", "path": "/data", "value": {"x": "evil"}}], manager="kubectl")
    await _swap(kube)
    await world.until(lambda: _image(kube) == "registry.example/web:1", seconds=15)


async def test_v15_repair_that_fails_twice_is_told_of_everywhere(world: World, kube: FakeKube) -> None:
    """Condition of the cell, phase, condition of the agent, metric and one record; all of them end with a repair."""
    kube.on_request = Refusals("NetworkPolicy")
    await kube.delete(DENY)
    await world.until(lambda: world.report("shop1").conditions)
    (condition,) = world.report("shop1").conditions
    assert (condition.code, condition.subject) == (NOT_REPAIRED.code, str(DENY))
    assert "next: " in condition.message
    await world.phase("shop1", "degraded")
    await world.until(lambda: not _well(world))
    assert _unrepaired(world) == 1.0
    # However often it is tried again, it is on record once.
    await world.until(lambda: _failures(world, DENY) >= 4)
    kube.on_request = None
    await world.until(lambda: _exists(kube, DENY))
    await world.phase("shop1", "ready")
    await world.until(lambda: _well(world) and _unrepaired(world) == 0.0)
    assert not world.report("shop1").conditions
    records = [record for record in await world.records() if record["action"] == "drift.repair"]
    assert [record["decision"] for record in records] == ["failed", "done"]
    assert (records[0]["code"], records[0]["rule"]) == (NOT_REPAIRED.code, "a webhook")


async def test_v15_repair_that_fails_once_is_no_news(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that was away for a moment is nobody's business: one record, of the repair."""
    repairer, failures = _drift(world)._repairer, 0
    check = repairer.check

    async def once(*args: object, **named: object) -> object:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise KUBE_FORBIDDEN("not now", by="a webhook", rule="a webhook")
        return await check(*args, **named)  # type: ignore[arg-type]

    async def decisions() -> list[str]:
        return [record["decision"] for record in await world.records() if record["action"] == "drift.repair"]

    monkeypatch.setattr(repairer, "check", once)
    await kube.delete(WEB)
    async with asyncio.timeout(30):
        while "done" not in await decisions():
            assert not world.report("shop1").conditions
    assert await decisions() == ["done"]
    assert failures >= 2


def _well(world: World) -> bool:
    return next(one.ok for one in world.health.get() if one.name == "repairs")


def _unrepaired(world: World) -> float | None:
    labels = {"project": "shop", "cell": "shop1", "environment": "dev"}
    return world.engine._overview._metrics.registry.get_sample_value("cellward_agent_drift_unrepaired", labels)


async def test_v1_order_that_is_refused_is_not_the_only_one(world: World, kube: FakeKube) -> None:
    """Whoever judges the state after a write may refuse one order of writes; what counts is where it ends."""

    def no_patches(verb: str, ref: ObjectRef, user: str | None) -> None:
        if verb == "patch" and ref == WEB and user is not None:
            raise KUBE_FORBIDDEN("no patches", by="a webhook")

    kube.on_request = no_patches
    await _swap(kube)
    await world.until(lambda: _image(kube) == "registry.example/web:1")
    await world.phase("shop1", "ready")


async def test_v1_what_a_refused_write_left_is_no_baseline(world: World, kube: FakeKube) -> None:
    """A half repair is a failure, never the new state to compare with."""

    def no_patches(verb: str, ref: ObjectRef, user: str | None) -> None:
        if verb == "patch" and ref == WEB and user is not None:
            raise KUBE_FORBIDDEN("no patches", by="a webhook")

    kube.on_request = no_patches
    sidecar = {"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True}
    await kube.patch_json(WEB, [sidecar], manager="kubectl")
    # Whoever did it took his own name off: nobody owns the field, so an apply alone comes through and leaves it.
    metadata = kube._objects[WEB]["metadata"]
    metadata["managedFields"] = [one for one in metadata["managedFields"] if one["manager"] != "kubectl"]
    await world.until(lambda: world.report("shop1").conditions)
    assert "hostNetwork" in kube._objects[WEB]["spec"]["template"]["spec"]
    kube.on_request = None
    world.engine.reconsider()
    await world.until(lambda: "hostNetwork" not in kube._objects[WEB]["spec"]["template"]["spec"])
    await world.phase("shop1", "ready")


async def test_v10_quarantine_closes_what_it_can_and_repair_the_rest(world: World, kube: FakeKube) -> None:
    """One policy that the API server refuses leaves no other one open, and is tried again at the pace of the ground."""
    policies = [ref for ref in kube._objects if ref.kind == "NetworkPolicy"]
    first = min(ref.name for ref in policies)
    assert _open(kube)
    left: list[set[str]] = []

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref.name == first:
            left.append(_open(kube))
            raise KUBE_FORBIDDEN("not now", by="a webhook")

    kube.on_request = refuse
    deployment = world.report("shop1").deployment_digest
    await world.engine.submit(world.item("shop1", deployment, hub_state="quarantine"))
    await world.until(lambda: len(left) > 1)
    assert left[1] == {first}, "quarantine itself closed all others before repair came to what it could not"
    kube.on_request = None
    await world.until(lambda: not _open(kube), seconds=15)


def _open(kube: FakeKube) -> set[str]:
    found = {ref.name: obj["spec"] for ref, obj in kube._objects.items() if ref.kind == "NetworkPolicy"}
    return {name for name, spec in found.items() if spec["ingress"] or spec["egress"]}


async def test_v13_a_record_that_a_full_disk_refused_is_saved_when_there_is_room(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else has to drift for it: a restart would take what was put back for something else."""

    async def full(*_: object, **__: object) -> None:
        raise FULL("no room")

    with monkeypatch.context() as patch:
        patch.setattr(_drift(world)._keeping, "save", full)
        await kube.delete(WEB)
        await world.until(lambda: _drift(world)._save_at is not None)
        assert _exists(kube, WEB)
        assert await _saved_uid(world) != kube._objects[WEB]["metadata"]["uid"]
    async with asyncio.timeout(10):
        while await _saved_uid(world) != kube._objects[WEB]["metadata"]["uid"]:
            await asyncio.sleep(0.01)


async def test_v12_namespace_made_anew_by_somebody_is_not_taken_over(world: World, kube: FakeKube) -> None:
    """Whoever makes it fills it too; without the stamp it is none of ours, whatever its labels say."""
    released = kube._objects[NAMESPACE]
    labels = {name: value for name, value in released["metadata"]["labels"].items() if "stamp" not in name}
    kube.on_request = refusals = Refusals("Namespace")
    await kube.delete(NAMESPACE)
    await world.until(lambda: refusals.count >= 1)
    kube.on_request = None
    theirs = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": labels}}
    await kube.apply(theirs, manager="cellward-agent", force=True)
    await world.until(
        lambda: any("kubectl delete namespace" in one.message for one in world.report("shop1").conditions)
    )
    assert "cellward.dev/stamp" not in kube._objects[NAMESPACE]["metadata"]["labels"]
    await world.until(lambda: _failures(world, WEB) > 1)
    assert not _exists(kube, WEB)


async def test_v10_namespace_made_anew_while_the_guards_are_away_gets_no_stamp(world: World, kube: FakeKube) -> None:
    """Without guards anybody copies a stamp: what carries one proves nothing, and never gets that of the next key."""
    world.stamps._grace = 0.2
    released = dict(kube._objects[NAMESPACE]["metadata"]["labels"])
    guard = next(ref for ref in kube._objects if ref.kind == "ValidatingAdmissionPolicyBinding")
    binding = dict(kube._objects[guard])
    await kube.delete(guard)
    await world.until(lambda: any(one.name == "admission-guard" and not one.ok for one in world.health.get()))
    kube.on_request = refusals = Refusals("Namespace")
    await kube.delete(NAMESPACE)
    await world.until(lambda: refusals.count >= 1)
    kube.on_request = None
    theirs = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": released}}
    made = await kube.apply(theirs, manager="cellward-agent", force=True)
    await world.until(lambda: world.report("shop1").conditions)
    back = {name: binding[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": {"name": guard.name}}
    await kube.apply(back, manager="helm", force=True)
    await world.until(
        lambda: any("kubectl delete namespace" in one.message for one in world.report("shop1").conditions)
    )
    live = kube._objects[NAMESPACE]["metadata"]
    assert live["uid"] == made["metadata"]["uid"]
    assert live["labels"] == released, "the copied stamp holds no more, and no new one was put on"
    await world.until(lambda: _failures(world, WEB) > 1)
    assert not _exists(kube, WEB), "nothing of the release runs where somebody else is at home"
