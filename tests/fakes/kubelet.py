"""Plays the nodes that a probe's pods run on: says what a kubelet would, over a network that the test decides.

Over the API server in memory it also plays the controller of Jobs; the real one has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.isolation.probing import pods
from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef
from cellward.errors import CellwardError
from tests.fakes.kube import FakeKube
from tools.stack.api import ApiClient

Plan = Mapping[str, Any]
NODE = "node-1"


class Nodes(Protocol):
    """What the kubelet needs of a cluster, whichever it is."""

    async def pods(self, namespace: str) -> list[JSONObject]:
        """Return the pods of a namespace."""
        ...

    async def says(self, pod: JSONObject, status: JSONObject) -> None:
        """Write the status of a pod, which then is on ``NODE``."""
        ...

    async def put(self, pod: JSONObject) -> JSONObject:
        """Make a pod as an administrator."""
        ...


class MemoryNodes:
    """Over the API server in memory."""

    def __init__(self, kube: FakeKube) -> None:
        self._kube = kube

    async def pods(self, namespace: str) -> list[JSONObject]:
        """Return them, those first made that Jobs want."""
        jobs = await self._kube.list("batch/v1", "Job", namespace=namespace)
        there = list(await self._kube.list("v1", "Pod", namespace=namespace))
        for job in jobs:
            if any(owner["uid"] == job["metadata"]["uid"] for pod in there for owner in _owners(pod)):
                continue
            owner = {
                "apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"],
                "uid": job["metadata"]["uid"], "controller": True,
            }  # fmt: skip
            template = job["spec"]["template"]
            metadata = {
                "name": f"{job['metadata']['name']}-x", "namespace": namespace,
                "labels": template["metadata"]["labels"], "ownerReferences": [owner],
            }  # fmt: skip
            spec = {**template["spec"], "nodeName": NODE}
            there.append(await self.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
        wanted = {job["metadata"]["uid"] for job in jobs}
        for pod in there:
            if (owners := _owners(pod)) and not any(owner["uid"] in wanted for owner in owners):
                await self._kube.delete(ObjectRef("v1", "Pod", namespace, pod["metadata"]["name"]))
        return there

    async def says(self, pod: JSONObject, status: JSONObject) -> None:
        """Write the status."""
        self._kube.set_status(ObjectRef("v1", "Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]), status)

    async def put(self, pod: JSONObject) -> JSONObject:
        """Make a pod."""
        return await self._kube.apply(pod, manager="test")


class RealNodes:
    """Over a real API server that has no nodes."""

    def __init__(self, admin: ApiClient, node: str = NODE) -> None:
        self._admin, self._node = admin, node

    async def pods(self, namespace: str) -> list[JSONObject]:
        """Return those that the controller of Jobs made."""
        found = await self._must("GET", f"/api/v1/namespaces/{namespace}/pods")
        items: list[JSONObject] = found["items"]
        return items

    async def says(self, pod: JSONObject, status: JSONObject) -> None:
        """Give the pod to the node, and write its status."""
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}"
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": self._node}
            await self._must(
                "POST", f"{path}/binding",
                {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target},
            )  # fmt: skip
        for one in status.get("containerStatuses", ()):
            one |= {"image": "x", "imageID": "", "restartCount": 0, "ready": one.get("ready", False)}
        await self._must("PATCH", f"{path}/status", {"status": status}, "application/strategic-merge-patch+json")

    async def put(self, pod: JSONObject) -> JSONObject:
        """Make a pod."""
        return await self._must("POST", f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods", pod)

    def must_delete(self, manifest: JSONObject) -> None:
        """Delete what the test made."""
        self._admin.must(self._admin.delete(manifest), "delete")

    async def _must(self, verb: str, path: str, body: Any = None, kind: str = "") -> JSONObject:
        def ask() -> JSONObject:
            answer = self._admin.request(verb, path, body, **({"content_type": kind} if kind else {}))
            found: JSONObject = self._admin.must(answer, path)
            return found

        return await asyncio.to_thread(ask)


@dataclass
class Kubelet:
    """Runs the pods of probes in one namespace.

    Attributes:
        nodes: the cluster.
        namespace: of the cell.
        passes: whether a target of a plan, as it is written there, is open to a component.
        address: of the responder.
        instead: returns the status of a pod in place of what it would be, or None.
    """

    nodes: Nodes
    namespace: str
    passes: Callable[[str, Plan], bool]
    address: str = "127.0.0.1"
    instead: Callable[[JSONObject], JSONObject | None] = lambda _: None
    seen: dict[str, JSONObject] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Kubelet]:
        """Work until the block ends."""
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            for pod in await self.nodes.pods(self.namespace):
                if pods.LABEL in pod["metadata"].get("labels", {}) and pod["metadata"]["uid"] not in self.seen:
                    self.seen[pod["metadata"]["uid"]] = pod
                    # A probe may be over, and its pods gone, before they are spoken of.
                    with contextlib.suppress(CellwardError):
                        await self.nodes.says(pod, self.instead(pod) or self.status(pod))
            await asyncio.sleep(0.02)

    def status(self, pod: JSONObject) -> JSONObject:
        """Return what becomes of a pod: the responder answers, a caller ends with what it measured."""
        (container,) = pod["spec"]["containers"]
        if container["args"][0] == "serve":
            return answering(self.address)
        env = {one["name"]: one.get("value", "") for one in container["env"]}
        component = pod["metadata"]["labels"]["cellward.dev/component"]
        plan = json.loads(env["PROBE_PLAN"])
        open_ = "".join("01"[self.passes(component, one)] for one in plan["targets"])
        return ended(json.dumps({"open": open_, "lag_ms": [0] * len(open_)}))


def answering(address: str) -> JSONObject:
    """Return the status of a pod that answers the kubelet, and is not ready to anybody."""
    return {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}],
        "containerStatuses": [
            {"name": pods.CONTAINER, "ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        ],
    }  # fmt: skip


def ended(message: str, code: int = 0) -> JSONObject:
    """Return the status of a pod that ended."""
    terminated = {"exitCode": code, "message": message, "reason": "Completed" if code == 0 else "Error"}
    return {
        "phase": "Succeeded" if code == 0 else "Failed",
        "containerStatuses": [{"name": pods.CONTAINER, "ready": False, "state": {"terminated": terminated}}],
    }


def waiting(reason: str, message: str) -> JSONObject:
    """Return the status of a pod that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": pods.CONTAINER, "ready": False, "state": state}]}


async def jobs_in(kube: KubeApi, namespace: str) -> list[str]:
    """Return the names of a namespace's Jobs that are not going."""
    found = await kube.list("batch/v1", "Job", namespace=namespace)
    return [one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]]


def _owners(pod: Mapping[str, Any]) -> list[JSONObject]:
    found: list[JSONObject] = pod["metadata"].get("ownerReferences") or []
    return found
