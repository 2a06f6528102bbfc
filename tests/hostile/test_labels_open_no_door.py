"""V10 against whoever writes labels of cells before, beside or without the guards; judged by who reaches whom.

On an API server of its own, because guards come and go; the agent has exactly the chart's rights. Who reaches whom is
said by an evaluator of NetworkPolicies that knows nothing of stamps, over namespaces and policies as they are.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.kube.client import KubeClient
from agent.objects.fence import NAMES
from agent.objects.ownership import strip
from agent.spool.state import open_state
from agent.stamps.keeper import StampKeeper
from agent.stamps.state import Step
from cellward.cells.stamps import Stamps
from tests.fakes.cell_world import World, cell_yaml, chart_guards, service_yaml
from tests.unit.cellward.cells.netpol import Pod, allowed
from tools.stack.api import Answer
from tools.stack.chart import AGENT_USER, INSTALLER, chart_objects, remove_guards
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.steps import drive

pytestmark = [pytest.mark.real, pytest.mark.timeout(180), pytest.mark.xdist_group("bare-control-plane")]

_OLDER = Path(__file__).parent / "older_chart"
_ADMISSION = "admissionregistration.k8s.io/v1"
_API = "  endpoints:\n    api: {component: web, port: http, visibility: project}\n"
_SECONDS = 30.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingControlPlane]:
    """Run an API server on which the chart was never installed."""
    with BlockingControlPlane("bare", tmp_path_factory.mktemp("bare")) as running:
        yield running


class Cluster:
    """What an administrator, an attacker and the one who judges do to it."""

    def __init__(self, plane: BlockingControlPlane) -> None:
        self.plane, self.admin = plane, plane.admin
        number = next(_numbers)
        self.data, self.front = f"data{number}", f"front{number}"
        self.evil = f"evil{number}"

    def place(self, cell: str) -> str:
        """Return the namespace of a cell."""
        return f"shop--{cell}--dev"

    def claims(self, cell: str) -> dict[str, str]:
        """Return the labels by which a namespace says that it is a cell."""
        said = {"project": "shop", "cell": cell, "environment": "dev"}
        return {f"cellward.dev/{name}": value for name, value in said.items()}

    def make(self, name: str, labels: dict[str, str]) -> None:
        """Make a namespace as a cluster-admin."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.admin.must(self.admin.create(body), f"namespace {name}")

    def label(self, name: str, labels: dict[str, str | None]) -> Answer:
        """Change labels as a cluster-admin."""
        body = {"metadata": {"labels": labels}}
        path = f"/api/v1/namespaces/{name}"
        return self.admin.request("PATCH", path, body, content_type="application/merge-patch+json")

    def labels(self, name: str) -> dict[str, str]:
        """Return the labels of a namespace."""
        answer = self.admin.request("GET", f"/api/v1/namespaces/{name}")
        found: dict[str, str] = answer.body["metadata"].get("labels", {})
        return found

    def take_guards_away(self) -> None:
        """Delete every binding, and wait until no guard bites any more."""
        for name in NAMES:
            binding = {"apiVersion": _ADMISSION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}}
            self.admin.delete(binding)
        metadata = {"name": "probe", "labels": {"cellward.dev/cell": "x"}}
        claimed = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        deadline = time.monotonic() + _SECONDS
        while not self.admin.create(claimed, dry_run=True).ok:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def install_guards(self) -> None:
        """Install the chart again, and wait until it bites."""
        self.plane.install_agent_chart()

    def reaches(self, source: str, target: str) -> bool:
        """Whether component ``web`` of one namespace reaches that of another on the endpoint's port."""
        answer = self.admin.request("GET", "/apis/networking.k8s.io/v1/networkpolicies")
        policies = [{**one, "spec": {"ingress": [], "egress": [], **one["spec"]}} for one in answer.body["items"]]
        pods = [
            Pod(name, "web", f"10.0.0.{number}", {"cellward.dev/component": "web"}, self.labels(name))
            for number, name in enumerate((source, target))
        ]
        return allowed(policies, pods[0], pods[1], 8080, "TCP")


@pytest.fixture
def cluster(bare: BlockingControlPlane) -> Cluster:
    """Return the cluster with names of its own."""
    return Cluster(bare)


@contextlib.asynccontextmanager
async def agent(cluster: Cluster, directory: Path) -> AsyncIterator[World]:
    """Run an agent with the chart's rights."""
    path = cluster.plane.agent_kubeconfig(directory / "kubeconfig")
    client = await KubeClient.connect(path)
    try:
        world = World(directory / "state", client, chart_guards())
        world.settle_seconds = 1.5
        async with world.running() as running:
            yield running
    finally:
        await client.close()


def keeper(world: World) -> StampKeeper:
    """Return what keeps the stamps."""
    return world.stamps


async def settled(world: World) -> None:
    """Wait until the stamps are those of the guards that stand, and every cell carries them."""

    def done() -> bool:
        kept = keeper(world)
        state = kept._state
        if state is None or state.step is not Step.DONE or state.guards != kept._guards:
            return False
        return not world.engine._roster.behind(world.stamps.current)

    await world.until(done)


def data_yaml(cluster: Cluster) -> str:
    """Return the callee."""
    return cell_yaml(cluster.data, "1.0.0", service_yaml() + _API)


async def deploy(world: World, cluster: Cluster, *names: str) -> None:
    """Deploy the callee, or the cell that calls it."""
    world.peers = {cluster.data: data_yaml(cluster)}
    connection = f"  connections:\n    - {{cell: {cluster.data}, endpoint: api}}\n"
    texts = {
        cluster.data: data_yaml(cluster),
        cluster.front: cell_yaml(cluster.front, "1.0.0", service_yaml() + connection),
    }
    for name in names or (cluster.data, cluster.front):
        await settled(world)
        receipt = await world.deploy(texts[name], name)
        assert receipt.accepted, receipt.refusals


def told_of(world: World) -> set[str]:
    """Return of which namespaces the agent says that they are no cells."""
    return set(world.engine._sightings._impostors._known)


async def test_v10_a_namespace_labelled_before_the_chart_came(cluster: Cluster, tmp_path: Path) -> None:
    """It reaches nothing and nothing calls it, it is told of, and anybody takes the labels off again."""
    cluster.take_guards_away()
    cluster.make(cluster.evil, cluster.claims(cluster.data))
    cluster.install_guards()
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster)
        assert cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data))
        assert not cluster.reaches(cluster.evil, cluster.place(cluster.data))
        assert "stamps/not-a-cell" in {one.code for one in world.health.get()}
        records = {one["object"]: one["reason"] for one in await world.records() if one["code"] == "stamps/not-a-cell"}
        assert f"kubectl label namespace {cluster.evil} cellward.dev/cell-" in records[f"Namespace/{cluster.evil}"]
        for name in ("project", "cell"):
            # Not a real stamp either: nobody but the agent writes one, whatever it says.
            assert cluster.label(cluster.evil, {"cellward.dev/stamp": "5" * 40}).status == 403
            await until_ok(world, partial(cluster.label, cluster.evil, {f"cellward.dev/{name}": None}))
        assert cluster.label(cluster.evil, {"cellward.dev/environment": None}).ok
        await world.until(lambda: cluster.evil not in told_of(world))


async def until_ok(world: World, request: Callable[[], Answer]) -> None:
    """Repeat until the guard has read the agent's mark."""
    await world.until(lambda: request().ok, 10.0)


async def test_v10_a_peer_made_before_it_was_deployed(cluster: Cluster, tmp_path: Path) -> None:
    """The caller's egress does not select it, and the agent never takes it for the cell, whatever manager made it."""
    cluster.take_guards_away()
    labels = {**cluster.claims(cluster.data), "app.kubernetes.io/managed-by": "cellward"}
    body = {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": cluster.place(cluster.data), "labels": labels},
    }  # fmt: skip
    cluster.admin.must(cluster.admin.apply(body, manager="cellward-agent"), "the impostor")
    cluster.install_guards()
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster, cluster.front)
        assert not cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data))
        refused = await world.deploy(data_yaml(cluster), cluster.data)
        assert [one.code for one in refused.refusals] == ["cell/namespace-not-ours"]
        assert "cellward.dev/stamp" not in cluster.labels(cluster.place(cluster.data))


@pytest.mark.parametrize("awake", [True, False], ids=["agent running", "agent down"])
async def test_v10_stamps_copied_while_the_guards_were_away(cluster: Cluster, tmp_path: Path, *, awake: bool) -> None:
    """Afterwards the copy is worth nothing, and what is ours goes on talking; no other cell takes it as its own."""
    cluster.install_guards()
    thief, new = cluster.evil, cluster.place(f"new{cluster.data}")
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster)
        await settled(world)
        before = cluster.labels(cluster.place(cluster.front))
        if not awake:
            await world._stop()
        cluster.take_guards_away()
        copied = {name: value for name, value in before.items() if name.startswith("cellward.dev/")}
        cluster.make(thief, copied)
        cluster.make(new, {**copied, "cellward.dev/cell": f"new{cluster.data}"})
        assert cluster.reaches(thief, cluster.place(cluster.data))
        cluster.install_guards()
        if not awake:
            await world._start()
        await world.until(
            lambda: cluster.labels(cluster.place(cluster.front))["cellward.dev/stamp"] != before["cellward.dev/stamp"]
        )
        await settled(world)
        assert not cluster.reaches(thief, cluster.place(cluster.data))
        assert cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data))
        assert "stamps/renewed" in {one["code"] for one in await world.records()}
        refused = await world.deploy(cell_yaml(f"new{cluster.data}"), f"new{cluster.data}")
        assert [one.code for one in refused.refusals] == ["cell/namespace-not-ours"]


async def test_v10_changing_stamps_closes_no_edge(cluster: Cluster, tmp_path: Path) -> None:
    """Whenever one looks while they change, the declared edge is open."""
    cluster.install_guards()
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster)
        await settled(world)
        old = keeper(world).current
        cluster.take_guards_away()
        cluster.install_guards()
        seen: list[bool] = []

        def look() -> bool:
            seen.append(cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data)))
            return keeper(world).current != old

        await world.until(look)
        await settled(world)
        look()
        assert all(seen)


async def test_v10_a_stamp_taken_off_without_guards_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    """No pair of guard and repair deadlocks: the fence asks for what the agent writes, not for what it found."""
    cluster.install_guards()
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster)
        await settled(world)
        await world._stop()
        cluster.take_guards_away()
        nothing: dict[str, str | None] = {"cellward.dev/stamp": None, "cellward.dev/cluster-stamp": None}
        assert cluster.label(cluster.place(cluster.data), nothing).ok
        cluster.install_guards()
        await world._start()
        await world.until(lambda: "cellward.dev/stamp" in cluster.labels(cluster.place(cluster.data)))
        await settled(world)
        assert cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data))


async def test_v10_cells_of_an_older_chart(cluster: Cluster, tmp_path: Path) -> None:
    """The upgrade: no edge closes, and afterwards impostors are none; the guard meanwhile has a test of its own."""
    cluster.install_guards()
    async with agent(cluster, tmp_path) as world:
        await deploy(world, cluster)
        await settled(world)
        await _as_the_older_version_left_it(world, cluster)
        assert cluster.reaches(cluster.evil, cluster.place(cluster.data))
        cluster.install_guards()
        await world._start()
        await world.until(lambda: "cellward.dev/stamp" in cluster.labels(cluster.place(cluster.data)))
        _refused_like_a_cell(cluster, cluster.place(cluster.data))
        await settled(world)
        assert not cluster.reaches(cluster.evil, cluster.place(cluster.data))
        assert cluster.reaches(cluster.place(cluster.front), cluster.place(cluster.data))
        await until_ok(world, lambda: cluster.label(cluster.evil, dict.fromkeys(cluster.claims("x"))))


def test_v10_cells_that_wait_for_their_stamp_are_guarded(tmp_path: Path) -> None:
    """From the first install of this chart until the agent's mark; on a fresh API server, as an upgrade is."""
    with BlockingControlPlane("upgrade", tmp_path) as plane:
        cluster = Cluster(plane)
        cluster.make(cluster.evil, cluster.claims(cluster.data))
        cluster.install_guards()
        _wait(lambda: "cellward-unstamped" in _hole(cluster, cluster.evil).message)
        _refused_like_a_cell(cluster, cluster.evil)
        mark = {"name": "cellward-stamps", "namespace": "cellward-system"}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": mark, "data": {"stamped": "true"}}
        plane.admin.must(plane.admin.apply(body, manager="cellward-agent-stamps", user=AGENT_USER), "the mark")
        _wait(lambda: cluster.label(cluster.evil, dict.fromkeys(cluster.claims("x"))).ok)


def test_v10_cells_that_wait_for_their_stamp_are_guarded_after_an_uninstall(tmp_path: Path) -> None:
    """As Helm takes the chart away, the mark before the policies: the API server forgets it while it still watches."""
    with BlockingControlPlane("again", tmp_path) as plane:
        cluster = Cluster(plane)
        cluster.make(cluster.evil, cluster.claims(cluster.data))
        cluster.install_guards()
        place = {"name": "cellward-stamps", "namespace": "cellward-system"}
        mark = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"stamped": "true"}}
        plane.admin.must(plane.admin.apply(mark, manager="cellward-agent-stamps", user=AGENT_USER), "the mark")
        _wait(lambda: "cellward-unstamped" not in _hole(cluster, cluster.evil).message)
        plane.admin.must(plane.admin.delete(mark), "delete the mark")
        drive(remove_guards(plane.admin))
        for one in chart_objects():
            if one["kind"] == "ValidatingAdmissionPolicy":
                plane.admin.must(plane.admin.delete(one), "delete a policy")
        cluster.install_guards()
        _wait(lambda: "cellward-unstamped" in _hole(cluster, cluster.evil).message)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _refused_like_a_cell(cluster: Cluster, namespace: str) -> None:
    assert cluster.label(namespace, {"cellward.dev/cell": None}).status == 403
    assert _hole(cluster, namespace).status == 403


def _hole(cluster: Cluster, namespace: str) -> Answer:
    """Try, without effect, to open a namespace to everybody."""
    hole: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "hole", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]},
    }  # fmt: skip
    return cluster.admin.create(hole, dry_run=True)


async def _as_the_older_version_left_it(world: World, cluster: Cluster) -> None:
    """The older chart is in force, an impostor is older still; namespaces, isolation and records know of no stamps."""
    none = Stamps((), None, closed=False)
    cluster.take_guards_away()
    cluster.make(cluster.evil, cluster.claims(cluster.data))
    for file in sorted(_OLDER.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            cluster.admin.must(cluster.admin.apply(manifest, manager=INSTALLER), "the older chart")
    mark = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cellward-stamps"}}
    mark["metadata"]["namespace"] = "cellward-system"  # type: ignore[index]
    # An API server that ran all the time does not read the mark again for a policy whose binding came back.
    cluster.admin.delete(mark)
    workers = list(world.engine._roster.workers.values())
    await world._stop()
    opened = await open_state(world.directory, clock=world.timer)
    for worker in workers:
        record = worker.cell.record
        for owned in record.objects:
            if owned.ref.kind not in {"Namespace", "NetworkPolicy"}:
                continue
            manifest = none.restamp(owned.manifest)
            answer = cluster.admin.apply(manifest, manager="cellward-agent", user=AGENT_USER)
            live = cluster.admin.must(answer, "an object of the older version")
            record = record.with_object(replace(owned, manifest=manifest, baseline=strip(live)))
        await opened.db.inventory.put(record.namespace, record.to_json())
    await opened.db._writer.run(lambda connection: connection.execute("DELETE FROM meta WHERE key='stamps'").rowcount)
    await opened.db.close()
    body = [{"op": "remove", "path": "/data/stamps.json"}]
    path = "/api/v1/namespaces/cellward-system/secrets/cellward-agent-anchor"
    cluster.admin.must(
        cluster.admin.request("PATCH", path, body, content_type="application/json-patch+json"), "no copy of stamps"
    )
