"""Why what a cell runs does not run, on a real API server with the agent's own rights (V12, V15).

There is no node: controllers make real pods, the API server refuses real ones, and the test writes what a kubelet
would say of the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cellward.cells.conditions import CellCondition
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

IMAGE = "registry.example/web:1"
#: What the agent promises, seconds from when the cluster knows.
SOON = 5.0
_STATEFUL = (
    "    data:\n      type: stateful\n      image: registry.example/data:1\n      replicas: 1\n"
    "      ports:\n        http: {port: 8080}\n"
)


class _Pods:
    """The pods of one cell, as their node would have them."""

    def __init__(self, world: World, admin: ApiClient, cell: str) -> None:
        self._world, self._admin, self.cell = world, admin, cell
        self.namespace = f"shop--{cell}--dev"

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def all(self) -> list[dict[str, Any]]:
        """Return those that are there."""
        found: list[dict[str, Any]] = self._admin.must(self._admin.request("GET", self._path), "list")["items"]
        return found

    async def one(self) -> dict[str, Any]:
        """Return the one pod of the cell once its controller has made it."""
        await self._world.until(self.all)
        (pod,) = self.all()
        return pod

    async def says(self, **status: Any) -> None:
        """Write the status of the one pod."""
        path = f"{self._path}/{(await self.one())['metadata']['name']}/status"
        answer = self._admin.request(
            "PATCH", path, {"status": status}, content_type="application/strategic-merge-patch+json"
        )
        self._admin.must(answer, "status")

    async def given_to(self, node: str) -> None:
        """Give the pod to a node, as the scheduler does."""
        name = (await self.one())["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self._admin.must(self._admin.request("POST", f"{self._path}/{name}/binding", body), "bind")

    def told(self, pod: dict[str, Any], reason: str, message: str) -> None:
        """Write an event about a pod, as a kubelet does."""
        metadata = pod["metadata"]
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": self.namespace}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": self.namespace},
            "involvedObject": {**about, "name": metadata["name"], "uid": metadata["uid"]},
            "type": "Warning", "reason": reason, "message": message, "lastTimestamp": now, "firstTimestamp": now,
        }  # fmt: skip
        self._admin.must(self._admin.request("POST", f"/api/v1/namespaces/{self.namespace}/events", event), "event")

    def quota(self, *, gone: bool = False) -> None:
        """Let no pod into the namespace, or any again."""
        metadata = {"name": "none", "namespace": self.namespace}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
        self._admin.must(self._admin.delete(quota) if gone else self._admin.create(quota), "quota")

    @property
    def conditions(self) -> tuple[CellCondition, ...]:
        """What the agent reported last."""
        return tuple(self._world.report(self.cell).conditions)

    async def reported(self, code: str, *texts: str, seconds: float = SOON) -> CellCondition:
        """Wait for a condition with a code and texts, and for no other."""

        def right() -> bool:
            found = self.conditions
            return [one.code for one in found] == [code] and all(text in found[0].message for text in texts)

        try:
            await self._world.until(right, seconds)
        except AssertionError as error:
            raise AssertionError(f"{code} {texts} was not reported, but {self.conditions}") from error
        return self.conditions[0]


def _waiting(reason: str, message: str = "", last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "main", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last or {},
    }  # fmt: skip


@pytest.fixture
def pods(world: World, admin: ApiClient, cell: str) -> _Pods:
    """Return the pods of the cell of a test."""
    return _Pods(world, admin, cell)


async def test_v15_a_cell_says_within_seconds_why_its_pods_do_not_run(world: World, pods: _Pods) -> None:
    """Workload, container, image and reason, each by its code; and nothing any more once they run."""
    receipt = await world.deploy(cell_yaml(pods.cell, components=service_yaml(image=IMAGE, replicas=1)), pods.cell)
    assert receipt.accepted, receipt.refusals
    refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    await pods.says(conditions=[refused])
    await pods.reported("cell/pod-not-scheduled", "Unschedulable: 0/3 nodes")
    await pods.given_to("n1")
    pods.told(await pods.one(), "FailedMount", 'secret "token" not found')
    await pods.reported("cell/volume-not-mounted", 'FailedMount: secret "token" not found')
    await pods.says(containerStatuses=[_waiting("ImagePullBackOff", "Back-off: manifest unknown")])
    found = await pods.reported("cell/image-not-pulled", "main", IMAGE, "ImagePullBackOff", "manifest unknown")
    assert found.subject == f"Deployment/{pods.namespace}/web"
    await pods.says(containerStatuses=[_waiting("CreateContainerConfigError", 'configmap "c" not found')])
    await pods.reported("cell/container-not-started", "main", IMAGE, "CreateContainerConfigError")
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    await pods.says(phase="Running", containerStatuses=[_waiting("CrashLoopBackOff", "back-off 10s", ended)])
    await pods.reported("cell/container-crashes", "main", IMAGE, "CrashLoopBackOff", "exit code 1")
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    await pods.says(phase="Running", containerStatuses=[_waiting("CrashLoopBackOff", "back-off 10s", ended)])
    await pods.reported("cell/out-of-memory", "main", IMAGE, "OOMKilled")
    assert world.report(pods.cell).phase == "progressing"
    running = {**_waiting(""), "ready": True, "state": {"running": {"startedAt": None}}, "lastState": {}}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    await pods.says(
        phase="Running", conditions=[ready], containerStatuses=[running | {"lastState": {"terminated": None}}]
    )
    await world.phase(pods.cell, "ready")
    await world.until(lambda: not pods.conditions)


async def test_v15_pods_that_are_refused_name_who_refuses_them(world: World, pods: _Pods) -> None:
    """A quota keeps pods of a Deployment and of a StatefulSet out: both say so, and when it is gone, its pods come."""
    assert (await world.deploy(cell_yaml(pods.cell), pods.cell)).accepted
    pods.quota()
    components = service_yaml(image=IMAGE, replicas=1) + _STATEFUL
    receipt = await world.deploy(cell_yaml(pods.cell, "1.1.0", components), pods.cell)
    assert receipt.accepted, receipt.refusals

    def refused() -> set[str]:
        wanted = [one for one in pods.conditions if one.code == "cell/pod-not-admitted"]
        return {one.subject for one in wanted if "exceeded quota: none" in one.message}

    both = {f"Deployment/{pods.namespace}/web", f"StatefulSet/{pods.namespace}/data"}
    await world.until(lambda: refused() == both)
    pods.quota(gone=True)
    # The other's controller takes its time.
    await world.until(lambda: f"Deployment/{pods.namespace}/web" not in refused(), 60)
    assert pods.all()
