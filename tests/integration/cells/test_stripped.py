"""Somebody with rights in a cell takes off what says whose its objects are, on a real API server (V1, V10, V14, V15).

Judged by what is there afterwards: nobody repairs meanwhile, for the agent stands still and loses its volume.
"""

from __future__ import annotations

import asyncio
import shutil
import tracemalloc

import pytest

from agent.cells.machine.state import Obstacle
from agent.objects.ownership import applied_by
from cellward.documents.names import CellKey
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.integration.cells.test_drift import _manifest, _patch, _path
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real

STRIPPED = {"op": "replace", "path": "/metadata/managedFields", "value": [{}]}
DISK = """    raw:
      type: manifests
      manifests:
        - apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: disk}
          spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""


def _everything(cell: str) -> list[str]:
    """What the guards let others write; isolation and rights are the agent's alone."""
    place = f"shop--{cell}--dev"
    return [
        f"/api/v1/namespaces/{place}",
        _path(cell, "deployments", "web"),
        _path(cell, "services", "web", "api/v1"),
        _path(cell, "serviceaccounts", "web", "api/v1"),
    ]


def _obstacle(world: World, cell: str) -> Obstacle | None:
    """What stands in the way of the newest item."""
    return world.engine._roster.workers[CellKey("shop", cell, "dev")].cell.life.obstacle


async def _forget(world: World, admin: ApiClient, paths: list[str]) -> None:
    """Strip objects while nobody looks, and start the agent without its volume."""
    await world._stop()
    for path in paths:
        _patch(admin, path, STRIPPED)
    shutil.rmtree(world.directory)
    world.receipts.clear()
    await world._start()


async def test_v1_v15_a_lost_entry_of_ours_is_drift(world: World, admin: ApiClient, cell: str) -> None:
    """It is written again: what proves whose an object is must not wait until the record is lost."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    web = _manifest(cell, "Deployment", "web", "apps/v1")
    _patch(admin, _path(cell, "deployments", "web"), STRIPPED)
    await world.until(lambda: applied_by(admin.get(web).body, f"cellward/shop--{cell}--dev"))
    await world.until(lambda: world.report(cell).drift_repairs)


async def test_v1_v14_the_next_release_takes_what_was_stripped(world: World, admin: ApiClient, cell: str) -> None:
    """What it names becomes what is signed; a workload that it does not name is ended."""
    two = service_yaml() + service_yaml("old", image="registry.example/old:1")
    assert (await world.deploy(cell_yaml(cell, "1.0.0", two), cell)).accepted
    web, old = (_manifest(cell, "Deployment", name, "apps/v1") for name in ("web", "old"))
    uid = admin.get(web).body["metadata"]["uid"]
    await _forget(world, admin, [*_everything(cell), _path(cell, "deployments", "old")])
    release = cell_yaml(cell, "2.0.0", service_yaml(image="registry.example/web:2"))
    receipt = await world.deploy(release, cell, confirm_prune=9)
    assert receipt.accepted, receipt.refusals
    live = admin.get(web).body
    assert live["metadata"]["uid"] == uid
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:2"
    await world.until(lambda: not admin.get(old).ok)


async def test_v14_v15_an_end_ends_what_was_stripped(world: World, admin: ApiClient, cell: str) -> None:
    """Nothing that runs is left when it says so."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    await _forget(world, admin, _everything(cell))
    receipt = await world.submit(world.item(cell, world.tombstone(cell)))
    assert receipt.accepted, receipt.refusals
    assert world.report(cell).phase == "removed"
    assert not admin.get(_manifest(cell, "Deployment", "web", "apps/v1")).ok


async def test_v14_v15_an_end_with_its_data_ends_what_was_stripped(world: World, admin: ApiClient, cell: str) -> None:
    """Data and namespace as well."""
    assert (await world.deploy(cell_yaml(cell, "1.0.0", service_yaml() + DISK), cell)).accepted
    claims = _path(cell, "persistentvolumeclaims", "disk", "api/v1")
    await _forget(world, admin, [*_everything(cell), claims])
    end = world.item(cell, world.tombstone(cell, delete_data=True))
    receipt = await world.submit(end)
    assert receipt.accepted, receipt.refusals
    assert not admin.request("GET", claims).ok
    assert not admin.request("GET", f"/api/v1/namespaces/shop--{cell}--dev").ok


async def test_v14_v15_an_end_that_waits_for_its_namespace_writes_nothing_into_it(
    world: World, admin: ApiClient, cell: str
) -> None:
    """The record is lost, so the form of its isolation is not known; the end is asked again, and is no refusal."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    place = f"/api/v1/namespaces/shop--{cell}--dev"
    keeps = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keeps", "finalizers": ["example.org/keep"]}}
    assert admin.request("POST", f"{place}/configmaps", keeps).ok
    await _forget(world, admin, _everything(cell))
    end = world.item(cell, world.tombstone(cell, delete_data=True))
    await world.state.items.put(end)
    await world.engine.submit(end)
    policies = f"/apis/networking.k8s.io/v1/namespaces/shop--{cell}--dev/networkpolicies"
    await world.until(lambda: admin.request("GET", policies).body["items"] == [])
    await world.until(lambda: _obstacle(world, cell) is not None)
    first = _obstacle(world, cell)
    assert first is not None
    world.engine.reconsider()
    await world.until(lambda: _obstacle(world, cell) is not None and _obstacle(world, cell) is not first)
    again = _obstacle(world, cell)
    assert again is not None
    assert {one.code for one in (*first.refusals, *again.refusals)} == {"apply/deletion-pending"}
    free = admin.request(
        "PATCH", f"{place}/configmaps/keeps", {"metadata": {"finalizers": None}},
        content_type="application/merge-patch+json",
    )  # fmt: skip
    assert free.ok, free.message
    await world.phase(cell, "removed")
    await world.until(lambda: [one.accepted for one in world.receipts] == [True])
    assert not admin.request("GET", place).ok


async def test_v16_what_is_found_is_not_held_in_memory(world: World, admin: ApiClient, cell: str) -> None:
    """Whoever may write in a cell decides how large its objects are and how many."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    place, size = f"shop--{cell}--dev", 900_000
    labels = admin.get(_manifest(cell, "Deployment", "web", "apps/v1")).body["metadata"]["labels"]
    for number in range(20):
        metadata = {"name": f"fill{number}", "namespace": place, "labels": labels}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": "a" * size}}
        query = f"fieldManager=cellward/{place}&force=true"
        answer = await asyncio.to_thread(
            admin.request, "PATCH", f"{_path(cell, 'configmaps', metadata['name'], 'api/v1')}?{query}", body,
            content_type="application/apply-patch+yaml",
        )  # fmt: skip
        assert answer.ok, answer.message
    await _forget(world, admin, [])
    tracemalloc.start()
    try:
        receipt = await world.deploy(cell_yaml(cell, "1.1.0"), cell, confirm_prune=99)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert receipt.accepted, receipt.refusals
    assert not admin.get(_manifest(cell, "ConfigMap", "fill0")).ok, "it was taken, and ended"
    assert peak < 12 * size
