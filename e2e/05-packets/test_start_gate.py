"""Pods that wait for their isolation, on a real node with a real engine: what packets find before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.installation import NAMESPACE
from tests.fakes.real_cluster import RealCluster, open_real_cluster
from tools.stack.node.ground import API_SERVICE, Ground

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), pytest.mark.xdist_group("e2e-gate")]

GATE = "cellward-start-gate"
#: Pods of each kind.
PODS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """Return an installation that asks for the gate, with one cell that is ready."""
    with open_real_cluster() as running:
        running.sh(f"{running.invite()} --set prober.startGate=proved")
        running.wait_agent()
        running.wait_phase(running.apply()["deployment"], "ready")
        yield running


def pods(cluster: RealCluster) -> list[dict[str, Any]]:
    """Pods of the cell's own workloads that are not ending."""
    found = cluster.kubectl.list("pods", "app.kubernetes.io/managed-by=cellward")
    own = [pod for pod in found if pod["metadata"]["namespace"] == NAMESPACE]
    return [pod for pod in own if not pod["metadata"].get("deletionTimestamp")]


def gate_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Status of a pod's gate."""
    (status,) = [one for one in pod["status"].get("initContainerStatuses", []) if one["name"] == GATE]
    return dict(status)


def conditions(cluster: RealCluster) -> dict[str, str]:
    """Conditions of the cell, code to message."""
    return {one["code"]: one["message"] for one in cluster.state()["conditions"]}


def plan(cluster: RealCluster) -> str:
    """Ends that a pod of the cell must not reach; of two of them the gate knows nothing."""
    agent = cluster.agent_pod()["status"]["podIP"]
    aims = [
        (f"{API_SERVICE}:443", "tcp"),
        (f"{agent}:7445", "tcp"),
        (f"{agent}:7445", "udp"),
        ("NODE:10250", "tcp"),
        (f"{Ground(1).address}:{cluster.api_port}", "tcp"),
    ]
    return json.dumps({"settle_ms": 60_000, "targets": [{"to": to, "how": how, "closed": True} for to, how in aims]})


@contextmanager
def late_engine(cluster: RealCluster) -> Iterator[None]:
    """An engine that takes hold of pods made within only afterwards: how late it is by itself is no matter."""
    (node,) = cluster.plane.real
    cluster.stop_engine(node)
    try:
        yield
    finally:
        node.start_engine()


def wait_running(cluster: RealCluster, names: list[str], field: str) -> None:
    """Wait until some container of each pod runs."""

    def running() -> bool:
        found = [(cluster.kubectl.get("pod", NAMESPACE, name) or {}).get("status", {}) for name in names]
        return all(any("running" in one["state"] for one in status.get(field, [])) for status in found)

    cluster.until(f"{', '.join(names)} to run", running)


def lags(cluster: RealCluster, names: list[str]) -> list[int]:
    """How long each of some pods reached anything at all, from the first packet of its own container on; ms."""
    said = [json.loads(cluster.pod_message(name, NAMESPACE)) for name in names]
    assert {one["open"] for one in said} == {"00000"}
    return [max(one["lag_ms"]) for one in said]


def web(cluster: RealCluster) -> dict[str, Any]:
    """The pod of one component."""
    found = [one for one in pods(cluster) if one["metadata"]["labels"]["cellward.dev/component"] == "web"]
    return found[0] if len(found) == 1 else {}


def test_v9_after_the_gate_no_packet_gets_through(cluster: RealCluster) -> None:
    """Of pods that begin with the very gate of the cell none reaches anything; without it each of them does."""
    deployment = cluster.kubectl.get("deployment", NAMESPACE, "web")
    assert deployment is not None
    (gate,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert gate["name"] == GATE
    free, gated = ([f"{kind}-{number}" for number in range(PODS)] for kind in ("free", "gated"))
    with late_engine(cluster):
        for name in (*free, *gated):
            first = [gate] if name in gated else []
            cluster.admin_pod(name, NAMESPACE, "web", ["try"], plan=plan(cluster), first=first)
        wait_running(cluster, free, "containerStatuses")
        wait_running(cluster, gated, "initContainerStatuses")
    assert min(lags(cluster, free)) > 0
    assert lags(cluster, gated) == [0] * PODS


def test_v9_the_cells_own_pods_waited_and_say_how_long(cluster: RealCluster) -> None:
    """All of them begin with the gate, and what was open meanwhile is in the fleet's metrics."""
    own = pods(cluster)
    assert {pod["metadata"]["labels"]["cellward.dev/component"] for pod in own} == {"web", "back"}
    for pod in own:
        ended = gate_of(pod)["state"]["terminated"]
        said = json.loads(ended["message"])
        assert ended["exitCode"] == 0
        assert said["open"] == "00001", "the name server answers, and nothing else"
    before = web(cluster)["metadata"]
    with late_engine(cluster):
        cluster.kubectl.delete("pod", NAMESPACE, before["name"])
        new = cluster.until("another pod", lambda: _other(web(cluster), before["uid"]), 60)["metadata"]["name"]
        wait_running(cluster, [new], "initContainerStatuses")

    def waited() -> int:
        ended = gate_of(web(cluster))["state"].get("terminated", {})
        return max(json.loads(ended["message"])["lag_ms"]) if ended.get("exitCode") == 0 else 0

    open_for = cluster.until("the gate to have been open", waited, 90) / 1000

    def reported() -> bool:
        lines = cluster.fleet_metrics().splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith("cellward_agent_egress_lag_seconds{")]
        return any(float(value) >= open_for for value in values)

    cluster.until("the lag of real pods to be reported", reported, 120)


def _other(pod: dict[str, Any], uid: str) -> dict[str, Any]:
    return pod if pod and pod["metadata"]["uid"] != uid else {}


def test_v9_without_an_engine_no_pod_starts_and_the_cell_says_why(cluster: RealCluster) -> None:
    """Bounded and reported: the gate ends and names what is open; with the engine back the pod starts by itself."""
    with late_engine(cluster):
        before = web(cluster)["metadata"]
        cluster.kubectl.delete("pod", NAMESPACE, before["name"])
        told = cluster.until("the cell to say so", lambda: conditions(cluster).get("cell/start-gate-shut"), 120)
        assert f"{API_SERVICE}:443 (tcp)" in told
        assert "NODE:10250" not in told, "an address says more"
        waiting = _other(web(cluster), before["uid"])
        assert not any("running" in one["state"] for one in waiting["status"]["containerStatuses"])

    def well() -> bool:
        state = cluster.state()
        return bool(
            state["objectsReady"] == state["objectsTotal"] and "cell/start-gate-shut" not in conditions(cluster)
        )

    cluster.until("the pod to start by itself", well, 180)
