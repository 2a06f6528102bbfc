"""One cell from signed documents to running objects on a real API server (V9, V11, V15)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cellward.policy.model import Decision, DecisionInput
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real


def _get(admin: ApiClient, cell: str, kind: str, name: str, version: str = "v1") -> dict[str, object] | None:
    namespace = f"shop--{cell}--dev"
    answer = admin.get({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}})
    return answer.body if answer.ok else None


async def test_v11_v12_cell_is_applied_with_exactly_the_charts_rights(
    world: World, admin: ApiClient, cell: str
) -> None:
    """Namespace, isolation and rights as the agent, everything else as the cell's own account."""
    receipt = await world.deploy(cell_yaml(cell), cell)
    assert receipt.accepted, receipt.refusals
    await world.phase(cell, "ready")
    deployment = _get(admin, cell, "Deployment", "web", "apps/v1")
    assert deployment is not None
    managers = {entry["manager"] for entry in deployment["metadata"]["managedFields"]}  # type: ignore[index]
    assert f"cellward/shop--{cell}--dev" in managers
    assert _get(admin, cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1") is not None
    actions = [record["action"] for record in await world.records()]
    assert actions.index("cell.decide") < actions.index("namespace.create") < actions.index("cell.apply")
    report = world.report(cell)
    assert (report.objects_ready, report.isolation) == (report.objects_total, "unknown")


async def test_v11_refused_release_touches_nothing(world: World, admin: ApiClient, cell: str) -> None:
    """A refusal names rule, object, reason and next step (V15), and no namespace appears."""
    world.policy.evaluator.denied = {"Deployment": ("pods/no", "no deployments today")}
    receipt = await world.deploy(cell_yaml(cell), cell)
    (refusal,) = receipt.refusals
    assert (refusal.code, refusal.rule, refusal.object) == (
        "policy/denied", "pods/no", f"Deployment/shop--{cell}--dev/web",
    )  # fmt: skip
    assert refusal.reason
    assert refusal.next
    assert not admin.request("GET", f"/api/v1/namespaces/shop--{cell}--dev").ok
    world.policy.evaluator.denied = {}
    world.engine.reconsider()
    await world.phase(cell, "ready")


async def test_v11_upgrade_changes_and_prunes(world: World, admin: ApiClient, cell: str) -> None:
    """A second release changes what changed and deletes what it no longer has; nothing else is touched."""
    await world.deploy(cell_yaml(cell, "1.0.0", service_yaml() + service_yaml("old")), cell)
    assert _get(admin, cell, "Deployment", "old", "apps/v1") is not None
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", service_yaml(image="registry.example/web:2")), cell)
    assert receipt.accepted, receipt.refusals
    assert _get(admin, cell, "Deployment", "old", "apps/v1") is None
    assert _get(admin, cell, "Service", "old") is None
    web = _get(admin, cell, "Deployment", "web", "apps/v1")
    assert web is not None
    assert web["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:2"  # type: ignore[index]
    await world.phase(cell, "ready")


async def test_v16_first_contact_never_forces(world: World, admin: ApiClient, cell: str) -> None:
    """An object that was there before is a conflict that names its manager, and keeps what it had."""
    await world.deploy(cell_yaml(cell), cell)
    foreign = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "extra", "namespace": f"shop--{cell}--dev"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 1, "name": "x"}]},
    }  # fmt: skip
    assert admin.apply(foreign, manager="somebody").ok
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", service_yaml() + service_yaml("extra")), cell)
    (refusal,) = receipt.refusals
    assert refusal.code == "cell/object-not-ours"
    assert "somebody" in refusal.reason
    kept = _get(admin, cell, "Service", "extra")
    assert kept is not None
    assert kept["spec"]["selector"] == {"a": "b"}  # type: ignore[index]
    assert _get(admin, cell, "Deployment", "extra", "apps/v1") is None


async def test_v16_a_managers_name_makes_no_object_ours(world: World, admin: ApiClient, cell: str) -> None:
    """An object made under our manager's name before we had it on record keeps nobody's additions: it is refused."""
    await world.deploy(cell_yaml(cell), cell)
    place = f"shop--{cell}--dev"
    mine = _get(admin, cell, "Deployment", "web", "apps/v1")
    assert mine is not None
    planted: Any = json.loads(json.dumps(mine).replace('"web"', '"extra"'))
    planted = {name: planted[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    planted["metadata"] = {name: planted["metadata"][name] for name in ("name", "namespace", "labels")}
    assert admin.apply(planted, manager=f"cellward/{place}").ok
    sidecar = {"containers": [{"name": "added", "image": "registry.example/evil:1"}]}
    added = {**planted, "metadata": {"name": "extra", "namespace": place}, "spec": {"template": {"spec": sidecar}}}
    assert admin.apply(added, manager="somebody").ok
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", service_yaml() + service_yaml("extra")), cell)
    assert [refusal.code for refusal in receipt.refusals] == ["cell/object-not-ours"]
    assert admin.request("DELETE", f"/apis/apps/v1/namespaces/{place}/deployments/extra").ok
    world.engine.reconsider()
    await world.phase(cell, "ready")
    made = _get(admin, cell, "Deployment", "extra", "apps/v1")
    assert made is not None
    assert [one["name"] for one in made["spec"]["template"]["spec"]["containers"]] == ["main"]  # type: ignore[index,call-overload]


async def test_v16_foreign_namespace_is_refused(world: World, admin: ApiClient, cell: str) -> None:
    """A namespace that the agent did not make is never taken over."""
    name = f"shop--{cell}--dev"
    theirs = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "blue"}}}
    assert admin.apply(theirs, manager="somebody").ok
    receipt = await world.deploy(cell_yaml(cell), cell)
    assert receipt.refusals[0].code == "cell/namespace-not-ours"
    assert "somebody" in receipt.refusals[0].reason


async def test_v9_v11_refusal_for_want_of_proof_leaves_an_empty_isolated_namespace(
    world: World, admin: ApiClient, cell: str
) -> None:
    """Refused only because isolation is not proved: it is made, measured, decided on, and what is left is said."""
    original = world.policy.evaluator.decide

    async def needs_proof(request: DecisionInput) -> Decision:
        world.policy.evaluator.denied = (
            {} if request.isolation == "enforced" else {"Deployment": ("isolation/unproved", "not proved")}
        )
        return await original(request)

    world.policy.evaluator.decide = needs_proof  # type: ignore[method-assign]
    receipt = await world.deploy(cell_yaml(cell), cell)
    (refusal,) = receipt.refusals
    assert refusal.rule == "isolation/unproved"
    assert "empty, isolated namespace" in refusal.next
    assert _get(admin, cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1") is not None
    assert _get(admin, cell, "Deployment", "web", "apps/v1") is None
    world.prober.state = "enforced"
    world.engine.reconsider()
    await world.phase(cell, "ready")
    assert world.report(cell).isolation == "enforced"


async def test_tombstone_removes_workloads_and_keeps_the_namespace(world: World, admin: ApiClient, cell: str) -> None:
    """Without deleteData the namespace stays, isolated; with it everything goes."""
    await world.deploy(cell_yaml(cell), cell)
    receipt = await world.submit(world.item(cell, world.tombstone(cell)))
    assert receipt.accepted, receipt.refusals
    assert _get(admin, cell, "Deployment", "web", "apps/v1") is None
    assert _get(admin, cell, "Service", "web") is None
    assert _get(admin, cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1") is not None
    await world.phase(cell, "removed")
    receipt = await world.submit(world.item(cell, world.tombstone(cell, delete_data=True)))
    assert receipt.accepted, receipt.refusals
    assert not admin.request("GET", f"/api/v1/namespaces/shop--{cell}--dev").ok
    assert not admin.request("GET", f"/api/v1/namespaces/cellward-system/serviceaccounts/cell-shop--{cell}--dev").ok


async def test_v9_isolation_stands_until_the_last_pod_is_gone(world: World, admin: ApiClient, cell: str) -> None:
    """A pod may take a day to end, and its Deployment is gone at once: a tombstone waits for pods, not for objects."""
    assert (await world.deploy(cell_yaml(cell, "1.0.0", service_yaml(replicas=1)), cell)).accepted
    namespace = f"shop--{cell}--dev"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    await world.until(lambda: admin.request("GET", pods).body["items"])
    (pod,) = admin.request("GET", pods).body["items"]
    name = pod["metadata"]["name"]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"{cell}-node"}}
    admin.must(admin.create(node), "a node without a kubelet: its pods end when somebody says so")
    target = {"apiVersion": "v1", "kind": "Node", "name": f"{cell}-node"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    admin.must(admin.request("POST", f"{pods}/{name}/binding", binding), "the pod on it")
    await world.engine.submit(world.item(cell, world.tombstone(cell, delete_data=True)))
    await world.until(lambda: "deletionTimestamp" in admin.request("GET", f"{pods}/{name}").body["metadata"])
    # Nothing after the workloads is begun before they are gone, and they are not while a pod is there.
    assert _get(admin, cell, "Deployment", "web", "apps/v1") is not None
    assert _get(admin, cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1") is not None
    assert "deletionTimestamp" not in admin.request("GET", f"/api/v1/namespaces/{namespace}").body["metadata"]
    admin.must(admin.request("DELETE", f"{pods}/{name}?gracePeriodSeconds=0"), "the end of the pod")
    await world.phase(cell, "removed")
    admin.delete(node)


async def test_v11_killed_between_a_write_and_its_record_the_agent_knows_its_own(
    world: World, admin: ApiClient, cell: str
) -> None:
    """Half of a release is written and nothing of that saved: the next agent ends all of it, and nothing else."""
    put, hung = world.state.inventory.put, asyncio.Event()

    async def put_or_die(namespace: str, value: object) -> None:
        if _get(admin, cell, "Deployment", "web", "apps/v1") is not None:
            hung.set()
            await asyncio.Event().wait()
        await put(namespace, value)

    world.state.inventory.put = put_or_die  # type: ignore[method-assign]
    item = world.item(cell, world.deployment(cell, world.release(cell_yaml(cell))))
    await world.engine.submit(item)
    await asyncio.wait_for(hung.wait(), 20)
    await world.state.items.put(world.item(cell, world.tombstone(cell)))
    await world._stop()
    theirs = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": f"shop--{cell}--dev"},
    }  # fmt: skip
    assert admin.apply(theirs, manager="somebody").ok
    await world._start()
    await world.phase(cell, "removed")
    assert _get(admin, cell, "Deployment", "web", "apps/v1") is None
    assert _get(admin, cell, "Service", "web") is None
    assert _get(admin, cell, "ConfigMap", "theirs") is not None
