"""The start gate on a real API server: admitted as ``restricted``, no drift, and no Job is replaced for it."""

from __future__ import annotations

from typing import Any

import pytest

from cellward.cells.gate import StartGate
from cellward.cells.gated import GATE
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real

_GATE = StartGate("cellward.local/agent@sha256:" + "0" * 64, ("10.96.0.1", 443))
_OTHERS = """    once: {type: job, image: "registry.example/once:1"}
    daily: {type: cronjob, image: "registry.example/daily:1", schedule: "@daily"}
    raw:
      type: manifests
      manifests:
        - apiVersion: apps/v1
          kind: DaemonSet
          metadata: {name: everywhere}
          spec:
            selector: {matchLabels: {of: everywhere}}
            template:
              metadata: {labels: {of: everywhere}}
              spec: {containers: [{name: main, image: "registry.example/everywhere:1"}]}
"""


def _pod(admin: ApiClient, cell: str, kind: str, name: str) -> dict[str, Any]:
    group = "batch" if kind in {"Job", "CronJob"} else "apps"
    path = f"/apis/{group}/v1/namespaces/shop--{cell}--dev/{kind.lower()}s/{name}"
    body = admin.must(admin.request("GET", path), kind)
    spec = body["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else body["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def _core(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **metadata}}


def _begins(admin: ApiClient, cell: str) -> dict[str, bool]:
    """Whether pods of each workload begin with the gate."""
    workloads = {"Deployment": "web", "Job": "once", "CronJob": "daily", "DaemonSet": "everywhere"}
    pods = {kind: _pod(admin, cell, kind, name) for kind, name in workloads.items()}
    return {kind: [one["name"] for one in pod.get("initContainers", [])] == [GATE] for kind, pod in pods.items()}


async def _gated(world: World) -> None:
    await world._stop()
    world.start_gate = _GATE
    await world._start()


async def test_v11_the_gate_comes_with_a_deployment_and_is_no_drift(world: World, admin: ApiClient, cell: str) -> None:
    """Setting it changes nothing; the next release has it everywhere but in the Job that stands; then all is quiet."""
    assert (await world.deploy(cell_yaml(cell, "1.0.0", service_yaml() + _OTHERS), cell)).accepted
    await _gated(world)
    assert not any(_begins(admin, cell).values())
    assert "cell/start-gate-pending" in {one.code for one in world.report(cell).conditions}
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", service_yaml() + _OTHERS), cell)
    assert receipt.accepted, receipt.refusals
    assert _begins(admin, cell) == {"Deployment": True, "Job": False, "CronJob": True, "DaemonSet": True}
    assert world.report(cell).drift_repairs == 0
    # Whoever takes it out finds it there again.
    path = f"/apis/apps/v1/namespaces/shop--{cell}--dev/deployments/web"
    gone = [{"op": "remove", "path": "/spec/template/spec/initContainers"}]
    admin.must(admin.request("PATCH", path, gone, content_type="application/json-patch+json"), "patch")
    await world.until(lambda: world.report(cell).drift_repairs == 1 and _begins(admin, cell)["Deployment"])


async def test_a_pod_with_the_gate_is_admitted_as_restricted(world: World, admin: ApiClient, cell: str) -> None:
    """The API server's own pod security admits it; a gate that asks for more is what it would refuse."""
    await _gated(world)
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    labels, place = {"pod-security.kubernetes.io/enforce": "restricted"}, f"gate-{cell}"
    admin.must(admin.create(_core("Namespace", place, labels=labels)), "namespace")
    admin.must(admin.create(_core("ServiceAccount", "web", namespace=place)), "account")
    spec = _pod(admin, cell, "Deployment", "web")
    path = f"/api/v1/namespaces/{place}/pods?dryRun=All"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": spec}
    assert admin.request("POST", path, pod).ok
    spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "restricted" in admin.request("POST", path, pod).message
