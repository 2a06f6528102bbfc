"""One installation on a real node: a control plane with a kubelet, a hub beside it, the agent in a pod by Helm.

It is the demonstration's stage with one cluster. The printed line is all that installs the agent, and nothing is added
to it, so that what is seen here is what the chart's defaults do.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes.installation import CLUSTER, ENVIRONMENT, cell_text
from tests.fakes.missing import skip
from tools.demo import stage as stages
from tools.demo.kubectl import Kubectl
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.one import open_one
from tools.demo.stage import Stage
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.node import lab
from tools.stack.node.real import RealNode
from tools.stack.shell import AdminShell
from tools.stack.steps import drive

T = TypeVar("T")
_AGENT = "app.kubernetes.io/name=cellward-agent"
#: What the cells of these tests run, and the ports their stand-in listens on.
PROGRAM, PORTS = "docker.io/library/redis:7.4-alpine", (8080, 6379)


def require_node() -> None:
    """Skip, with the reason, where there can be no real node; with ``CI=true`` that is a failure."""
    reason = lab.impossible() or ("" if lab.inside() else "not in a laboratory; run `make e2e`")
    if reason:
        skip(f"real nodes are not possible here: {reason}")


@dataclass
class RealCluster:
    """Everything a test acts on.

    Attributes:
        stage: the demonstration's stage with one cluster.
        shell: kubectl and helm of the cluster's administrator.
        line: the printed line, once the cluster was invited.
        version: last patch version of the cell that was deployed.
    """

    stage: Stage
    shell: AdminShell = field(init=False)
    line: str = ""
    version: int = 0

    @property
    def plane(self) -> BlockingControlPlane:
        """The control plane."""
        return self.stage.planes[CLUSTER]

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's kubectl."""
        return self.stage.kubectl[CLUSTER]

    @property
    def state_dir(self) -> Path:
        """The agent's volume, as this machine sees it."""
        return self.stage.agent_directory(CLUSTER) / "state"

    def invite(self, *more: str) -> str:
        """Ask for the line that installs the agent."""
        self.line = self.stage.cli.run("clusters", "invite", CLUSTER, *stages.CLUSTERS[CLUSTER], *more).stdout.strip()
        return self.line

    def sh(self, line: str, *, code: int = 0, directory: Path | None = None) -> str:
        """Run a line of the administrator's shell; returns what it wrote."""
        done = self.shell.run(line, directory=directory)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (code == 0), f"`{line[-300:]}` ended with {done.returncode}: {said[-3000:]}"
        return said

    def agent_pod(self) -> dict[str, Any]:
        """Return the agent's one pod that is not ending, or nothing."""
        pods = [pod for pod in self.kubectl.list("pods", _AGENT) if not pod["metadata"].get("deletionTimestamp")]
        return pods[0] if len(pods) == 1 else {}

    def wait_agent(self) -> dict[str, Any]:
        """Wait until the agent's pod is ready and its link is open; returns the pod."""

        def ready() -> dict[str, Any]:
            self.stage.agents[CLUSTER].check()
            pod = self.agent_pod()
            conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
            return pod if conditions.get("Ready") == "True" and CLUSTER in self.stage.connected() else {}

        return self.until("the agent to be ready and connected", ready, 120)

    def apply(self, name: str = "probe", **changed: str) -> dict[str, Any]:
        """Sign and upload the next version of a cell; returns what ``apply`` printed of it.

        Args:
            name: of the cell, in project ``shop``.
            changed: texts of the file, each replaced by another.
        """
        self.version += 1
        text = cell_text(self.version, name)
        for old, new in changed.items():
            text = text.replace(old, new)
        file = self.stage.directory / f"{name}.yaml"
        file.write_text(text)
        (done,) = self.stage.cli.json("apply", "-f", str(file), "--environment", ENVIRONMENT)
        return dict(done)

    def apply_text(self, text: str) -> None:
        """Sign and upload cells."""
        file = self.stage.directory / "cells.yaml"
        file.write_text(text)
        self.stage.cli.run("apply", "-f", str(file), "--environment", ENVIRONMENT)

    @property
    def api_port(self) -> int:
        """On which somebody outside the cluster listens, at the address of the hub."""
        return int(self.stage.outside.rpartition(":")[2])

    def measure(self, name: str, *, wait: bool = True) -> None:
        """Ask the agent to measure a cell; waits until it does so, or lets what was measured a moment ago stand."""

        def asked() -> bool:
            arguments = ("clusters", "command", CLUSTER, "probe", f"{name}/{ENVIRONMENT}")
            return self.stage.cli.run(*arguments, accept=(0, 1, 4)).returncode == 0

        if wait:
            self.until(f"{name} to be measured", asked, 90)
        else:
            asked()

    def stop_engine(self, node: RealNode) -> None:
        """End the engine of a node, and take away the rules it leaves behind."""
        drive(node.stop_engine_steps())
        for line in ("iptables -F", "iptables -X", "iptables -t mangle -F", "iptables -t mangle -X"):
            node.run(*line.split())
        node.run("ipset", "destroy")

    # -- pods of an administrator, which know nothing of the agent ---------------------------------------------------

    def admin_pod(
        self,
        name: str,
        namespace: str,
        component: str,
        arguments: list[str],
        *,
        node: int = 0,
        plan: str = "",
        first: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Make a pod that runs the prober on a node, with the label of a component where one is named.

        Args:
            name: of the pod.
            namespace: its place.
            component: whose label it has.
            arguments: of the prober.
            node: number of the node.
            plan: of the prober, if it takes one.
            first: containers that are to end before it begins.
        """
        env = [{"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]
        container = {
            "name": "prober",
            "image": self.stage.images.agent if self.stage.images else "",
            "command": ["/opt/cellward/bin/prober"],
            "args": arguments,
            "env": [*env, *([{"name": "PROBE_PLAN", "value": plan}] if plan else [])],
            "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        labels = {"test": "packets", **({"cellward.dev/component": component} if component else {})}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "nodeName": self.plane.real[node].name,
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                # Services select by component: it must not get their traffic.
                "readinessGates": [{"conditionType": "test/never"}],
                "initContainers": list(first),
                "containers": [container],
            },
        }
        self.plane.admin.must(self.plane.admin.create(pod), f"create pod {name}")

    def pod_address(self, name: str, namespace: str) -> str:
        """Wait until a pod runs; returns its address."""

        def address() -> str:
            pod = self.kubectl.get("pod", namespace, name) or {}
            status = pod.get("status", {})
            return str(status.get("podIP", "")) if status.get("phase") == "Running" else ""

        return self.until(f"pod {name} to run", address)

    def pod_message(self, name: str, namespace: str) -> str:
        """Wait until a pod ended well; returns what it left."""

        def message() -> str:
            pod = self.kubectl.get("pod", namespace, name) or {}
            (status,) = pod.get("status", {}).get("containerStatuses") or [{}]
            ended = status.get("state", {}).get("terminated", {})
            assert ended.get("exitCode", 0) == 0, ended
            return str(ended.get("message", ""))

        return self.until(f"pod {name} to end", message)

    def records(self, action: str) -> list[dict[str, Any]]:
        """Audit records of one action, as they were written."""
        found = [one for one in self.stage.api.records()[0] if one["action"] == action]
        return [json.loads(base64.b64decode(one["record"])) for one in found]

    def fleet_metrics(self) -> str:
        """The page of the fleet's metrics."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.stage.metrics_address}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    def state(self, name: str = "probe") -> dict[str, Any]:
        """What the hub knows of a cell."""
        states = self.stage.api.get(f"/cells/shop/{name}")["states"]
        return next((state for state in states if state["cluster"] == CLUSTER), {})

    def wait_phase(self, digest: str, phase: str, name: str = "probe") -> dict[str, Any]:
        """Wait until this deployment is in a phase; returns the state."""

        def there() -> dict[str, Any]:
            found = self.state(name)
            decided = found.get("deploymentDigest") if phase == "ready" else found.get("desiredDigest")
            whole = phase != "ready" or found.get("objectsReady") == found.get("objectsTotal")
            return found if decided == digest and found["phase"] == phase and whole else {}

        return self.until(f"{name} to be {phase}", there, 120)

    def until(self, what: str, probe: Callable[[], T | None], seconds: float = 60) -> T:
        """Poll until something holds; fails with what hub, agent and pods said last."""
        try:
            return wait_for(what, probe, seconds)
        except StepFailedError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def logs(self) -> str:
        """Ends of what hub and agent wrote, and the pods as they are."""
        parts = [self.stage.hub, *self.stage.agents.values()]
        pods = self.kubectl.run("get", "pods", "-A", "-o", "wide", check=False).stdout
        return "\n".join([*(f"--- {one.name}\n{one.tail()}" for one in parts), "--- pods", pods])


@contextmanager
def open_real_cluster(nodes: int = 1) -> Iterator[RealCluster]:
    """Start nodes and hub, publish policy, name the agent's image; the agent is not installed yet."""
    require_node()
    with open_one(CLUSTER, PROGRAM, PORTS, nodes=nodes) as stage:
        cluster = RealCluster(stage)
        cluster.shell = AdminShell(stage.directory / "administrator", cluster.plane.kubeconfig_admin)
        yield cluster
