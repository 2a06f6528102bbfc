"""What was deleted and does not go, on a real API server: no stranger keeps it, no cell is called ready (V1, V14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.cells.machine import repairs
from agent.kube.client import KubeClient
from agent.kube.interfaces import ObjectRef
from agent.objects.cluster import CellCluster
from agent.objects.model import OwnedObject
from cellward.documents.names import CellKey
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real

_STRANGER = "evil.example/keep"
#: One that a controller of Kubernetes takes off, where there is one.
_KUBERNETES = "service.kubernetes.io/load-balancer-cleanup"
_TWO = service_yaml() + service_yaml("old", image="registry.example/old:1")


def _object(cell: str, kind: str, name: str) -> dict[str, Any]:
    version = {"Deployment": "apps/v1"}.get(kind, "v1")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": f"shop--{cell}--dev"}}


def _patch(admin: ApiClient, target: dict[str, Any], body: dict[str, Any]) -> None:
    group = "api/v1" if target["apiVersion"] == "v1" else f"apis/{target['apiVersion']}"
    metadata = target["metadata"]
    path = f"/{group}/namespaces/{metadata['namespace']}/{target['kind'].lower()}s/{metadata['name']}"
    answer = admin.request("PATCH", path, body, content_type="application/merge-patch+json")
    assert answer.ok, answer.message


def _hold(admin: ApiClient, target: dict[str, Any], *finalizers: str) -> None:
    _patch(admin, target, {"metadata": {"finalizers": list(finalizers) or None}})


def _finalizers(admin: ApiClient, target: dict[str, Any]) -> list[str]:
    found: list[str] = admin.get(target).body["metadata"].get("finalizers", [])
    return found


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
async def test_v1_finalizer_of_a_stranger_is_taken_off(world: World, admin: ApiClient, cell: str, kind: str) -> None:
    """What nobody released may not outlive its end; that of a controller of Kubernetes stays."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    target, stays = _object(cell, kind, "web"), [_KUBERNETES] if kind == "Service" else []
    _hold(admin, target, *stays, _STRANGER)
    await world.until(lambda: _finalizers(admin, target) == stays)
    await world.until(lambda: world.report(cell).drift_repairs == 1)


async def test_v1_finalizer_that_comes_just_before_the_deletion_keeps_nothing(
    world: World, kube: KubeClient, admin: ApiClient, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release drops a Deployment; whoever is faster than drift repair does not keep its pods running."""
    assert (await world.deploy(cell_yaml(cell, "1.0.0", _TWO), cell)).accepted
    old, delete = _object(cell, "Deployment", "old"), kube.delete

    async def too_late(ref: ObjectRef, **options: Any) -> None:
        if (ref.kind, ref.name) == ("Deployment", "old"):
            _hold(admin, old, _STRANGER)
        await delete(ref, **options)

    monkeypatch.setattr(kube, "delete", too_late)
    assert (await world.deploy(cell_yaml(cell, "2.0.0"), cell)).accepted
    await world.until(lambda: not admin.get(old).ok)
    await world.phase(cell, "ready")


async def test_v15_what_does_not_go_is_told_of_until_it_is_gone(
    world: World, admin: ApiClient, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phase, condition of the cell and of the agent, across a restart with neither hub nor policy."""
    monkeypatch.setattr(repairs, "REPORTED_LATE", 2)
    old = await _left_behind(world, admin, cell)

    async def told() -> None:
        await world.phase(cell, "degraded")
        (condition,) = world.report(cell).conditions
        assert condition.subject == f"Service/shop--{cell}--dev/old"
        assert _KUBERNETES in condition.message
        await world.until(lambda: not next(one.ok for one in world.health.get() if one.name == "repairs"))

    await told()
    await world.restart_without_anything(lambda: None)
    await told()
    _hold(admin, old)
    await world.phase(cell, "ready")
    assert not world.report(cell).conditions
    assert not admin.get(old).ok
    records = [one for one in await world.records() if one["object"] == f"Service/shop--{cell}--dev/old"]
    assert [one["decision"] for one in records if one["action"] == "object.delete"] == [
        "allow", "failed", "failed", "done",
    ]  # fmt: skip


async def _left_behind(world: World, admin: ApiClient, cell: str) -> dict[str, Any]:
    """Let a release drop a Service that stays."""
    assert (await world.deploy(cell_yaml(cell, "1.0.0", _TWO), cell)).accepted
    old = _object(cell, "Service", "old")
    _hold(admin, old, _KUBERNETES)
    assert (await world.deploy(cell_yaml(cell, "2.0.0"), cell)).accepted
    assert admin.get(old).body["metadata"]["deletionTimestamp"]
    await world.until(lambda: world.report(cell).objects_ready == world.report(cell).objects_total)
    assert world.report(cell).phase == "progressing"
    return old


async def test_v14_an_end_waits_for_what_an_earlier_release_let_go(
    world: World, admin: ApiClient, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``removed`` says that nothing of it is left; what waits for a workload to end waits for no more than that."""
    old, let_go, ends = await _left_behind(world, admin, cell), CellCluster.let_go, asyncio.Event()

    async def slowly(cluster: CellCluster, going: OwnedObject) -> Any:
        left = await let_go(cluster, going)
        return going.manifest if going.ref.kind == "Deployment" and not ends.is_set() else left

    monkeypatch.setattr(CellCluster, "let_go", slowly)
    item = world.item(cell, world.tombstone(cell))
    await world.state.items.put(item)
    await world.engine.submit(item)
    await world.until(lambda: any("Deployment" in one.object for one in world.report(cell).refusals))
    assert admin.get(_object(cell, "Service", "web")).ok
    ends.set()
    await world.until(lambda: not admin.get(_object(cell, "Service", "web")).ok)
    drift, ref = (
        world.engine._roster.workers[CellKey("shop", cell, "dev")].drift,
        ObjectRef("v1", "Service", f"shop--{cell}--dev", "old"),
    )

    def failed() -> int:
        return drift.state.patience[ref].failed if ref in drift.state.patience else 0

    looked = failed()
    await world.until(lambda: failed() >= looked + 1)
    assert world.report(cell).phase == "applying"
    _hold(admin, old)
    await world.phase(cell, "removed")
    assert not admin.get(old).ok


async def test_v1_stranger_that_does_not_go_holds_no_place(world: World, admin: ApiClient, cell: str) -> None:
    """A Deployment made anew by somebody, with a finalizer, makes room for the released one."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    target = _object(cell, "Deployment", "web")
    theirs = admin.get(target).body
    for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"):
        theirs["metadata"].pop(name)
    theirs["metadata"]["finalizers"] = [_STRANGER]
    theirs["spec"]["template"]["spec"]["containers"][0]["image"] = "evil.example/x:1"
    assert admin.delete(target).ok
    # Repair may be faster than whoever tampers.
    while not admin.create(theirs).ok:
        assert admin.delete(target).ok

    def image() -> str:
        live = admin.get(target)
        return str(live.body["spec"]["template"]["spec"]["containers"][0]["image"]) if live.ok else ""

    await world.until(lambda: image() == "registry.example/web:1")
    assert not _finalizers(admin, target)
