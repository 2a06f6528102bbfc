"""V9, V10: what measures a cell gets no request of anybody, on a real API server with its controllers."""

from __future__ import annotations

from typing import Any

import pytest

from agent.isolation.probing import pods
from agent.kube.client import KubeClient
from agent.objects.identity import CellIdentity
from tests.fakes.cell_world import World, cell_yaml
from tests.fakes.kubelet import RealNodes, answering
from tools.stack.api import ApiClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


async def test_v10_a_probe_is_an_endpoint_of_no_service(
    world: World, kube: KubeClient, admin: ApiClient, cell: str
) -> None:
    """The cell's own Service never lists it; one written by hand lists it as not ready; nobody adopts it."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    namespace = f"shop--{cell}--dev"
    by_hand = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand", "namespace": namespace},
        "spec": {"selector": {"cellward.dev/component": "web"}, "ports": [{"port": 80}]},
    }  # fmt: skip
    admin.must(admin.create(by_hand), "service")
    job = pods.caller("p", "from-1", namespace, "registry.example/p", component="web", wanted=(), settle_seconds=1)
    user = CellIdentity(namespace, "cellward-system").user
    uid = (await kube.apply(job, manager="cellward-prober", as_user=user))["metadata"]["uid"]
    # Controllers look for the node of what they list.
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"{cell}-node"}}
    admin.must(admin.create(node), "node")
    nodes, found = RealNodes(admin, f"{cell}-node"), list[dict[str, Any]]()

    def made() -> bool:
        found[:] = _list(admin, f"/api/v1/namespaces/{namespace}/pods")
        return bool(found)

    await world.until(made)
    await nodes.says(found[0], answering("10.1.2.3"))

    def listed() -> dict[str, list[bool]]:
        slices = _list(admin, f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
        told: dict[str, list[bool]] = {"by-hand": [], "web": []}
        for one in slices:
            name = one["metadata"]["labels"]["kubernetes.io/service-name"]
            told[name] += [bool(end["conditions"]["ready"]) for end in one["endpoints"] or ()]
        return told

    # The controller has seen the pod: what it does not list of it by now, it never will.
    await world.until(lambda: listed()["by-hand"])
    assert listed() == {"by-hand": [False], "web": []}
    (pod,) = _list(admin, f"/api/v1/namespaces/{namespace}/pods")
    assert [owner["uid"] for owner in pod["metadata"]["ownerReferences"]] == [uid]
    admin.must(admin.delete(node), "node")


def _list(admin: ApiClient, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = admin.must(admin.request("GET", path), path)["items"]
    return items
