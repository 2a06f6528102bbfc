"""Isolation measured with packets on two real nodes: by the agent itself, and by pods that know nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.fakes.installation import ENVIRONMENT
from tests.fakes.real_cluster import PROGRAM, RealCluster, open_real_cluster
from tools.stack.node.ground import API_SERVICE, Ground

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), pytest.mark.xdist_group("e2e-packets")]

PORT = 8080
IMPOSTOR = f"shop--impostor--{ENVIRONMENT}"
#: (namespace, component) of every pod of the matrix; without a component it is in no cell.
PLACES = {
    "front-web": (f"shop--front--{ENVIRONMENT}", "web"),
    "front-worker": (f"shop--front--{ENVIRONMENT}", "worker"),
    "back-api": (f"shop--back--{ENVIRONMENT}", "api"),
    "back-store": (f"shop--back--{ENVIRONMENT}", "store"),
    "other-api": (f"other--loner--{ENVIRONMENT}", "api"),
    "impostor": (IMPOSTOR, "web"),
    "outsider": ("outsider", ""),
    "system": ("kube-system", ""),
}
#: What crosses the edge of a cell and is signed on both sides: (from, to, protocol).
DECLARED = {("front-web", "back-api", "tcp"), ("front-web", "back-api", "udp")}


@dataclass
class Matrix:
    """What was measured: (from, to, how) → whether it passed."""

    passed: dict[tuple[str, str, str], bool]


def cell(name: str, project: str, components: dict[str, dict[str, Any]], **more: Any) -> str:
    """Text of a cell whose components the starter policy allows."""
    common = {
        "type": "service",
        "image": PROGRAM,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "50m", "memory": "32Mi"}},
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
    }
    spec = {
        "version": "1.0.0",
        "owner": "team-shop",
        "components": {name: {**common, **own} for name, own in components.items()},
        **more,
    }
    head = {"apiVersion": "cellward.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name, "project": project}}
    return json.dumps({**head, "spec": spec})


def cells() -> str:
    """Three cells: one calls another by TCP and UDP, the third is of another project and calls nobody."""
    web = {"ports": {"http": {"port": PORT}}}
    both = {"ports": {"http": {"port": PORT}, "talk": {"port": PORT, "protocol": "UDP"}}}
    endpoints = {
        "api": {"component": "api", "port": "http", "visibility": "project"},
        "talk": {"component": "api", "port": "talk", "visibility": "project"},
    }
    calls = [{"cell": "back", "endpoint": name, "components": ["web"], "env": name.upper()} for name in endpoints]
    return "\n---\n".join(
        [
            cell("back", "shop", {"api": both, "store": web}, endpoints=endpoints),
            cell("front", "shop", {"web": web, "worker": web}, connections=calls),
            cell("loner", "other", {"api": web}),
        ]
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """Return an installation on two nodes: three cells, a namespace labelled before the chart, and others."""
    with open_real_cluster(nodes=2) as running:
        labels = (
            "app.kubernetes.io/managed-by=cellward cellward.dev/project=shop cellward.dev/cell=impostor "
            f"cellward.dev/environment={ENVIRONMENT}"
        )
        running.sh(f"kubectl create namespace {IMPOSTOR} && kubectl label namespace {IMPOSTOR} {labels}")
        running.sh("kubectl create namespace outsider")
        running.sh(f"{running.invite()} --set prober.outside={Ground(1).address}:{running.api_port}")
        running.wait_agent()
        running.apply_text(cells())
        for name in ("shop/back", "shop/front", "other/loner"):
            running.until(f"{name} to be ready", partial(ready, running, name), 180)
        yield running


def ready(cluster: RealCluster, name: str) -> bool:
    """Whether a cell is ready on the cluster, all of it."""
    states = cluster.stage.api.get(f"/cells/{name}")["states"]
    return any(one["phase"] == "ready" and one["objectsReady"] == one["objectsTotal"] > 0 for one in states)


def isolation(cluster: RealCluster, name: str) -> str:
    """What the agent measured of a cell."""
    (state,) = cluster.stage.api.get(f"/cells/{name}")["states"]
    return str(state["isolation"])


@pytest.fixture(scope="module")
def matrix(cluster: RealCluster) -> Matrix:
    """Measure every edge between pods of every place, by pods of an administrator with the labels of components."""
    # Of each source half of the targets are on its own node, and half on the other.
    for number, (place, (namespace, component)) in enumerate(PLACES.items()):
        cluster.admin_pod(f"to-{place}", namespace, component, ["serve", str(PORT)], node=number % 2)
    hosts = {place: cluster.pod_address(f"to-{place}", namespace) for place, (namespace, _) in PLACES.items()}
    aims = [(place, how, f"{host}:{PORT}") for place, host in hosts.items() for how in ("echo", "udp")]
    aims += [
        ("api-server", "tcp", f"{API_SERVICE}:443"),
        ("node", "tcp", "NODE:10250"),
        ("outside", "tcp", f"{Ground(1).address}:{cluster.api_port}"),
        ("metadata", "tcp", "169.254.169.254:80"),
        ("dns", "dns", "RESOLVER:53"),
    ]
    for number, (place, (namespace, component)) in enumerate(PLACES.items()):
        plan = _plan(place, aims)
        cluster.admin_pod(f"from-{place}", namespace, component, ["try"], node=number // 2 % 2, plan=json.dumps(plan))
    passed = {}
    for place, (namespace, _) in PLACES.items():
        said = json.loads(cluster.pod_message(f"from-{place}", namespace))
        for (aim, how, _), letter in zip(aims, said["open"], strict=True):
            passed[place, aim, {"echo": "tcp"}.get(how, how)] = letter == "1"
    return Matrix(passed)


def _plan(source: str, aims: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Try each edge until it is what it must be: an engine opens and closes edges of a new pod a moment later.

    What must be closed has twenty seconds to be so three times in a row; what must be open has a third of that.
    """
    targets = [
        {"to": to, "how": how, "closed": not expected(source, aim, {"echo": "tcp"}.get(how, how))}
        for aim, how, to in aims
    ]
    return {"settle_ms": 20_000, "targets": targets}


def expected(source: str, aim: str, how: str) -> bool | None:
    """What an edge must be; None where nobody can promise it."""
    here, (there, _) = PLACES[source][0], PLACES.get(aim, ("", ""))
    in_cell = {place for place in PLACES if place not in {"impostor", "outsider", "system"}}
    if aim == "dns":
        return True
    if source in in_cell and aim not in PLACES:
        return False
    if aim not in PLACES:
        # Nothing listens at the address of the metadata service here.
        return aim != "metadata"
    if here == there:
        return True
    if source in in_cell or aim in in_cell:
        return (source, aim, how) in DECLARED
    return True


def test_v9_every_edge_is_what_both_sides_signed(matrix: Matrix) -> None:
    """Eight sources, eight targets by TCP and UDP, API server, node, outside, metadata and DNS: none is otherwise."""
    wrong = {edge: passed for edge, passed in matrix.passed.items() if expected(*edge) not in {None, passed}}
    assert len(matrix.passed) == 8 * (8 * 2 + 5)
    assert wrong == {}
    assert sum(matrix.passed.values()) > 40, "a matrix of closed edges alone proves nothing"


def test_v9_the_agent_measured_the_same(cluster: RealCluster) -> None:
    """Every cell is enforced, and each measurement is on record."""
    assert {isolation(cluster, name) for name in ("shop/back", "shop/front", "other/loner")} == {"enforced"}
    probes = cluster.records("isolation.probe")
    assert len(probes) >= 3
    newest = {one["details"]["namespace"]: (one["details"]["isolation"], one["details"]["wrong"]) for one in probes}
    assert set(newest.values()) == {("enforced", "0")}, "without an engine, in another test, they were not"


def test_no_traffic_reaches_what_probes(cluster: RealCluster) -> None:
    """A responder has the label of no Service, and is never ready: endpoints hold the cell's own pods alone."""
    pods = {pod["status"].get("podIP") for pod in cluster.kubectl.list("pods", "app.kubernetes.io/managed-by=cellward")}
    slices = [one for one in cluster.kubectl.list("endpointslices") if "--" in one["metadata"]["namespace"]]
    ready_ones = {
        address
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready")
        for address in endpoint["addresses"]
    }
    assert ready_ones
    assert ready_ones <= pods


def test_v11_a_removed_policy_is_back_before_packets_find_it(cluster: RealCluster) -> None:
    """By force, past the guard: the agent writes it again, and the cell is still measured to be isolated."""
    namespace = f"other--loner--{ENVIRONMENT}"
    before = cluster.kubectl.get("networkpolicy", namespace, "default-deny")
    assert before is not None
    cluster.kubectl.delete("networkpolicy", namespace, "default-deny", as_agent=True)

    def back() -> bool:
        found = cluster.kubectl.get("networkpolicy", namespace, "default-deny")
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    cluster.until("the policy to be written again", back, 30)
    cluster.measure("other/loner")
    assert isolation(cluster, "other/loner") == "enforced"


def test_v9_without_an_engine_nothing_is_enforced(cluster: RealCluster) -> None:
    """Control: engines and their rules gone, a cell is not enforced, and says which edges are open."""
    for node in cluster.plane.real:
        cluster.stop_engine(node)
    try:
        cluster.until("packets to get through", partial(_measured, cluster, "not-enforced"), 120)
        (state,) = cluster.stage.api.get("/cells/shop/back?edges=true")["states"]
        (told,) = [one for one in state["conditions"] if one["code"] == "isolation/not-enforced"]
        assert told["message"].startswith("open, and must be closed: to ")
        open_wrongly = {
            one["peer"]
            for one in state["isolationProof"]["edges"]
            if (one["expected"], one["measured"]) == ("closed", "open")
        }
        assert {"the agent", "the API server"} <= open_wrongly
        cluster.sh("helm test cellward-agent --namespace cellward-system", code=1)
        told_by_helm = cluster.sh("kubectl logs cellward-agent-test-closed --namespace cellward-system")
        assert "open after 20 s, and must be closed" in told_by_helm
    finally:
        for node in cluster.plane.real:
            node.start_engine()
    cluster.until("packets to be stopped again", partial(_measured, cluster, "enforced"), 180)


def _measured(cluster: RealCluster, state: str) -> bool:
    cluster.measure("shop/back", wait=False)
    return isolation(cluster, "shop/back") == state
