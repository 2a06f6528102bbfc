"""Drift on a real API server: what somebody adds, changes or deletes is taken back exactly (V1, V10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.objects.ownership import strip
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_USER

pytestmark = pytest.mark.real

_JSON_PATCH = "application/json-patch+json"
POLICY = "networking.k8s.io/v1"


def _manifest(cell: str, kind: str, name: str, version: str = "v1") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": f"shop--{cell}--dev"}}


def _path(cell: str, plural: str, name: str, group: str = "apis/apps/v1") -> str:
    return f"/{group}/namespaces/shop--{cell}--dev/{plural}/{name}"


def _patch(admin: ApiClient, path: str, *operations: dict[str, Any], user: str = "") -> None:
    answer = admin.request("PATCH", path, list(operations), content_type=_JSON_PATCH, user=user)
    assert answer.ok, answer.message


async def _undone(world: World, admin: ApiClient, target: dict[str, Any], tamper: Callable[[], object]) -> None:
    """Tamper, see that it had an effect, and wait until the object is as it was."""
    before = admin.get(target).body
    repairs = world.report(before["metadata"]["namespace"].split("--")[1]).drift_repairs
    cell = before["metadata"]["namespace"].split("--")[1]
    tamper()

    def same() -> bool:
        now = admin.get(target)
        return now.ok and _comparable(now.body) == _comparable(before)

    await world.until(lambda: world.report(cell).drift_repairs > repairs and same())


def _comparable(live: dict[str, Any]) -> dict[str, Any]:
    value = strip(live)
    for key in ("clusterIP", "clusterIPs"):
        value.get("spec", {}).pop(key, None)
    return value


async def test_v1_sidecar_host_network_env_and_label_are_removed(world: World, admin: ApiClient, cell: str) -> None:
    """Additions, which a forced apply alone would leave."""
    await world.deploy(cell_yaml(cell), cell)
    path = _path(cell, "deployments", "web")
    pod = "/spec/template/spec"
    await _undone(
        world,
        admin,
        _manifest(cell, "Deployment", "web", "apps/v1"),
        lambda: _patch(
            admin,
            path,
            {"op": "add", "path": f"{pod}/containers/-", "value": {"name": "evil", "image": "evil:1"}},
            {"op": "add", "path": f"{pod}/hostNetwork", "value": True},
            {"op": "add", "path": f"{pod}/containers/0/env/-", "value": {"name": "EVIL", "value": "1"}},
            {"op": "add", "path": "/metadata/labels/evil", "value": "1"},
        ),
    )
    repairs = [record for record in await world.records() if record["action"] == "drift.repair"]
    assert repairs[0]["object"] == f"Deployment/shop--{cell}--dev/web"


async def test_v1_changed_image_is_changed_back(world: World, admin: ApiClient, cell: str) -> None:
    """A change of a field we own."""
    await world.deploy(cell_yaml(cell), cell)
    change = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"}
    target = _manifest(cell, "Deployment", "web", "apps/v1")
    await _undone(world, admin, target, lambda: _patch(admin, _path(cell, "deployments", "web"), change))


async def test_v1_addition_without_owner_is_removed(world: World, admin: ApiClient, cell: str) -> None:
    """Whoever edits managedFields as well hides an addition from ownership, not from the baseline."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "Deployment", "web", "apps/v1")
    entries = [entry for entry in admin.get(target).body["metadata"]["managedFields"] if entry["operation"] == "Apply"]
    await _undone(
        world,
        admin,
        target,
        lambda: _patch(
            admin,
            _path(cell, "deployments", "web"),
            {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "evil", "image": "evil:1"}},
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        ),
    )


async def test_v1_change_under_our_own_manager_name_is_undone(world: World, admin: ApiClient, cell: str) -> None:
    """The name of a field manager proves nothing."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "Deployment", "web", "apps/v1")
    forged = {
        **target,
        "spec": {
            "selector": {"matchLabels": {"cellward.dev/component": "web"}},
            "template": {"spec": {"containers": [{"name": "evil", "image": "evil:1"}]}},
        },
    }

    def tamper() -> None:
        live = admin.get(target).body
        forged["spec"]["selector"] = live["spec"]["selector"]
        forged["spec"]["template"]["metadata"] = live["spec"]["template"]["metadata"]
        answer = admin.apply(forged, manager=f"cellward/shop--{cell}--dev")
        assert answer.ok, answer.message

    await _undone(world, admin, target, tamper)


async def test_v1_deleted_service_comes_back(world: World, admin: ApiClient, cell: str) -> None:
    """A deletion."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "Service", "web")
    await _undone(world, admin, target, lambda: admin.must(admin.delete(target), "delete"))


async def test_v10_allow_all_rule_is_removed(world: World, admin: ApiClient, cell: str) -> None:
    """The guard refuses a cluster-admin; past it, impersonating the agent, the rule lasts a moment."""
    await world.deploy(cell_yaml(cell), cell)
    path = _path(cell, "networkpolicies", "default-deny", f"apis/{POLICY}")
    widen = {"op": "add", "path": "/spec/ingress", "value": [{}]}
    target = _manifest(cell, "NetworkPolicy", "default-deny", POLICY)
    await _undone(world, admin, target, lambda: _patch(admin, path, widen, user=AGENT_USER))


async def test_v10_deleted_policy_comes_back(world: World, admin: ApiClient, cell: str) -> None:
    """Isolation that is deleted past the guard."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "NetworkPolicy", "default-deny", POLICY)
    await _undone(world, admin, target, lambda: admin.must(admin.delete(target, user=AGENT_USER), "delete"))


@pytest.mark.parametrize("finalizers", [[], ["evil.example/keep"]], ids=["free", "held"])
async def test_v10_further_policy_is_deleted(world: World, admin: ApiClient, cell: str, finalizers: list[str]) -> None:
    """Policies add up, so one that is none of ours can only widen: it goes, whatever somebody keeps it with."""
    await world.deploy(cell_yaml(cell), cell)
    extra = _manifest(cell, "NetworkPolicy", "open", POLICY)
    extra["metadata"]["finalizers"] = finalizers
    extra["spec"] = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}
    assert admin.apply(extra, manager="x", user=AGENT_USER).ok
    await world.until(lambda: not admin.get(extra).ok)


async def test_v12_deleted_binding_comes_back(world: World, admin: ApiClient, cell: str) -> None:
    """The rights of the cell's account are part of the cell."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "RoleBinding", "cellward-cell", "rbac.authorization.k8s.io/v1")
    await _undone(world, admin, target, lambda: admin.must(admin.delete(target, user=AGENT_USER), "delete"))


async def test_v1_restart_repairs_without_hub_and_policy(world: World, admin: ApiClient, cell: str) -> None:
    """Tampered with while the agent was down; it comes back with no hub and no policy, and repairs."""
    await world.deploy(cell_yaml(cell), cell)
    deployment = _manifest(cell, "Deployment", "web", "apps/v1")
    service = _manifest(cell, "Service", "web")
    before = admin.get(deployment).body

    def meanwhile() -> None:
        change = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"}
        _patch(admin, _path(cell, "deployments", "web"), change)
        assert admin.delete(service).ok

    await world.restart_without_anything(meanwhile)
    await world.until(lambda: admin.get(service).ok and _comparable(admin.get(deployment).body) == _comparable(before))


_AUTOSCALED = """\
    scaling:
      type: manifests
      manifests:
        - apiVersion: autoscaling/v2
          kind: HorizontalPodAutoscaler
          metadata: {name: web}
          spec:
            minReplicas: 1
            maxReplicas: 10
            scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
            metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
"""


async def test_an_autoscaled_workload_keeps_its_size(world: World, admin: ApiClient, cell: str) -> None:
    """Neither a repair nor a release takes back what an autoscaler of the release itself decided."""
    path, target = _path(cell, "deployments", "web"), _manifest(cell, "Deployment", "web", "apps/v1")
    components = service_yaml(replicas=2) + _AUTOSCALED
    assert (await world.deploy(cell_yaml(cell, "1.0.0", components), cell)).accepted
    assert admin.get(target).body["spec"]["replicas"] == 2
    scaled = admin.request(
        "PATCH", f"{path}/scale", {"spec": {"replicas": 7}}, content_type="application/merge-patch+json"
    )
    assert scaled.ok, scaled.message
    _patch(admin, path, {"op": "add", "path": "/metadata/labels/evil", "value": "1"})
    await world.until(lambda: "evil" not in admin.get(target).body["metadata"]["labels"])
    assert admin.get(target).body["spec"]["replicas"] == 7
    newer = cell_yaml(cell, "1.1.0", service_yaml(image="registry.example/web:2", replicas=2) + _AUTOSCALED)
    assert (await world.deploy(newer, cell)).accepted
    live = admin.get(target).body["spec"]
    assert live["template"]["spec"]["containers"][0]["image"] == "registry.example/web:2"
    assert live["replicas"] == 7


@pytest.mark.parametrize(("scaled", "back"), [(0, 2), (50, 10)])
async def test_v1_what_no_autoscaler_may_choose_is_taken_back(
    world: World, admin: ApiClient, cell: str, scaled: int, back: int
) -> None:
    """At zero pods the autoscaler is off: nothing else would ever bring them back."""
    target = _manifest(cell, "Deployment", "web", "apps/v1")
    assert (await world.deploy(cell_yaml(cell, "1.0.0", service_yaml(replicas=2) + _AUTOSCALED), cell)).accepted
    answer = admin.request(
        "PATCH", _path(cell, "deployments", "web"), {"spec": {"replicas": scaled}},
        content_type="application/merge-patch+json",
    )  # fmt: skip
    assert answer.ok, answer.message
    await world.until(lambda: admin.get(target).body["spec"]["replicas"] == back)
    await world.until(lambda: world.report(cell).drift_repairs == 1)
    (repair,) = [one for one in await world.records() if one["action"] == "drift.repair"]
    assert (repair["decision"], repair["reason"]) == (
        "done",
        f"scaled to {scaled}, and the autoscaler decides from 1 to 10",
    )


def _job(image: str) -> str:
    return f"""\
    raw:
      type: manifests
      manifests:
        - apiVersion: batch/v1
          kind: Job
          metadata: {{name: once}}
          spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: main, image: '{image}'}}]}}}}}}
"""


def _complete(admin: ApiClient, path: str) -> None:
    """Write the status of a job that ran, as its controller does."""
    started = admin.request("GET", path).body["status"]["startTime"]
    conditions = [
        {"type": name, "status": "True", "lastTransitionTime": started, "lastProbeTime": started}
        for name in ("SuccessCriteriaMet", "Complete")
    ]
    status = {
        "startTime": started, "completionTime": started, "succeeded": 1, "active": 0, "ready": 0, "terminating": 0,
        "uncountedTerminatedPods": {}, "conditions": conditions,
    }  # fmt: skip
    answer = admin.request("PATCH", f"{path}/status", {"status": status}, content_type="application/merge-patch+json")
    assert answer.ok, answer.message


async def test_v1_the_place_of_a_job_that_completed_is_not_free(world: World, admin: ApiClient, cell: str) -> None:
    """That it ran excuses its absence; what somebody makes of that name goes, and blocks no release."""
    released = service_yaml() + _job("registry.example/job:1")
    assert (await world.deploy(cell_yaml(cell, "1.0.0", released), cell)).accepted
    job, path = _manifest(cell, "Job", "once", "batch/v1"), _path(cell, "jobs", "once", "apis/batch/v1")
    await world.until(lambda: admin.get(job).body.get("status", {}).get("startTime"))
    _complete(admin, path)
    await world.phase(cell, "ready")
    assert admin.request("DELETE", f"{path}?propagationPolicy=Background").ok
    await world.until(lambda: not admin.get(job).ok)
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "evil.example/x:1"}]}
    assert admin.create({**job, "spec": {"template": {"spec": pod}}}).ok
    await world.until(lambda: not admin.get(job).ok)
    await world.until(lambda: world.report(cell).drift_repairs == 1)
    (repair,) = [one for one in await world.records() if one["action"] == "drift.repair"]
    assert (repair["object"], repair["decision"]) == (f"Job/shop--{cell}--dev/once", "done")
    assert repair["reason"].endswith("in the place of a job that completed")
    # The next release with it, which says another version, comes through.
    newer = service_yaml(image="registry.example/web:2") + _job("registry.example/job:1")
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", newer), cell)
    assert receipt.accepted, receipt.refusals
    (container,) = admin.get(job).body["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/job:1"


async def test_v1_a_service_made_anew_in_another_shape_is_the_released_one_again(
    world: World, admin: ApiClient, cell: str
) -> None:
    """A headless Service cannot be changed into ours in place, and taking it over would keep it headless for good."""
    await world.deploy(cell_yaml(cell), cell)
    target = _manifest(cell, "Service", "web")
    before = admin.get(target).body
    assert before["spec"]["clusterIP"] != "None"
    ports = [{key: port[key] for key in ("name", "port", "protocol")} for port in before["spec"]["ports"]]
    theirs = {**target, "spec": {"clusterIP": "None", "selector": {"evil": "yes"}, "ports": ports}}

    def tamper() -> None:
        assert admin.delete(target).ok
        assert admin.create(theirs).ok

    await _undone(world, admin, target, tamper)
    assert admin.get(target).body["spec"]["clusterIP"] != "None"
