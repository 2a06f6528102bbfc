"""What a prober promises, over the API server in memory and a real one with exactly the chart's rights (V9, V10, V12).

There is no node: the controller of Jobs makes the pods, and the test says what a kubelet would.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.isolation.interfaces import Evidence
from agent.isolation.probing import pods
from agent.isolation.probing.edges import NO_COMPONENT, RESPONDER_PORT, Surroundings
from agent.isolation.probing.ends import answer_udp
from agent.isolation.probing.keeper import RememberingProber
from agent.isolation.probing.runner import PodProber
from agent.kube.client import KubeClient
from agent.kube.interfaces import JSONObject, KubeApi
from agent.objects.identity import CellIdentity
from cellward.cells.load import load_cells
from cellward.cells.network import NetworkIntent, intent_of
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release, spec_of
from cellward.runtime.clock import SystemClock
from tests.fakes.cell_world import REALM, World, cell_yaml, chart_guards
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kubelet import Kubelet, MemoryNodes, Nodes, Plan, RealNodes, ended, jobs_in, waiting

_numbers = itertools.count(1)
_REAL = (pytest.mark.real, pytest.mark.xdist_group("control-plane"))
#: Nothing is ever sent there: the test says what is open.
_AROUND = Surroundings("10.9.9.9", 7445, api=("10.96.0.1", 443))


@dataclass
class _Place:
    """A cell on a cluster: its namespace is there, with the rights of its account."""

    kube: KubeApi
    nodes: Nodes
    network: NetworkIntent
    admin_says: Callable[[JSONObject], Any]

    def prober(self, around: Surroundings = _AROUND) -> PodProber:
        return PodProber(
            self.kube, SystemClock(), image="registry.example/agent@sha256:" + "0" * 64, around=lambda: around,
            user_of=lambda namespace: CellIdentity(namespace, "cellward-system").user, settle_seconds=0.1,
        )  # fmt: skip

    def kubelet(self, passes: Callable[[str, Plan], bool], **more: Any) -> Kubelet:
        return Kubelet(self.nodes, self.network.namespace, passes, **more)

    async def probe(self, passes: Callable[[str, Plan], bool], **more: Any) -> Evidence:
        async with self.kubelet(passes, **more).running():
            return await self.prober().probe(self.network)

    async def is_clear(self) -> None:
        """Wait until no Job of a probe is there."""
        async with asyncio.timeout(20):
            while await jobs_in(self.kube, self.network.namespace):
                await asyncio.sleep(0.02)


def _network(name: str) -> NetworkIntent:
    (manifest,) = load_cells(cell_yaml(name), "test")
    resolved = resolve_cells([manifest], {})[manifest.cell.key]
    release = build_release(manifest.cell, resolved, realm=REALM, issued_at=ManualClock().now())
    return intent_of(spec_of(release), "shop", name, "dev")


@pytest.fixture(params=["memory", pytest.param("real", marks=_REAL)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[_Place]:
    """Return a cell on each of them in turn."""
    name = f"probed{next(_numbers)}"
    network = _network(name)
    if request.param == "memory":
        fake = FakeKube()
        for one in (network.namespace, "cellward-system"):
            await fake.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}}, manager="test")

        async def put(manifest: JSONObject) -> JSONObject:
            return await fake.apply(manifest, manager="test")

        yield _Place(fake, MemoryNodes(fake), network, put)
        return
    plane = request.getfixturevalue("control_plane")
    client = await KubeClient.connect(plane.agent_kubeconfig(tmp_path / "kubeconfig"))

    async def create(manifest: JSONObject) -> JSONObject:
        return await asyncio.to_thread(lambda: plane.admin.must(plane.admin.create(manifest), "create"))

    try:
        async with World(tmp_path / "state", client, chart_guards()).running() as world:
            await world.engine.submit(world.item(name, world.deployment(name, world.release(cell_yaml(name)))))
            await world.until(lambda: any(one.cell == name and one.phase == "ready" for one in world.reports))
            yield _Place(client, RealNodes(plane.admin), network, create)
    finally:
        await client.close()


def _as_wanted(_: str, target: Plan) -> bool:
    return not target["closed"]


def _everything(_: str, __: Plan) -> bool:
    return True


async def test_v9_closed_where_it_must_be_is_enforced_and_leaves_nothing(place: _Place) -> None:
    """Edges of the cell's own callers, with the node they were measured on, and what comes in; no Job stays.

    Beside it is a cell whose pods nobody may see: it has no account.
    """
    prober = place.prober()
    prober.neighbours = lambda _: [_network("unseen")]
    async with place.kubelet(_as_wanted).running():
        found = await prober.probe(place.network)
    assert found.state == "enforced", found.text
    assert {(one.direction, one.node) for one in found.edges} == {("egress", "node-1"), ("ingress", "")}
    assert {one.component for one in found.edges if one.direction == "egress"} == {NO_COMPONENT}
    tried = {(one.peer, one.protocol) for one in found.edges if one.expected == "closed"}
    assert {("the agent", "TCP"), ("the agent", "UDP"), ("the API server", "TCP")} <= tried
    await place.is_clear()


async def test_v10_without_an_engine_it_is_not_enforced(place: _Place) -> None:
    """The control: everything passes."""
    found = await place.probe(_everything)
    assert found.state == "not-enforced"
    assert "to the API server TCP 443" in found.text


async def test_v9_what_comes_in_is_tried_with_packets(place: _Place) -> None:
    """The responder answers the agent: nothing that a pod says makes that enforced."""
    # Somebody else's address on loopback, so that tests beside this one do not meet.
    host = f"127.7.{id(place) % 250}.{next(_numbers) % 250 + 1}"
    server = await asyncio.start_server(_echo, host, RESPONDER_PORT)
    udp = asyncio.create_task(answer_udp(host, RESPONDER_PORT))
    try:
        found = await place.probe(_as_wanted, address=host)
    finally:
        udp.cancel()
        await asyncio.gather(udp, return_exceptions=True)
        server.close()
    assert found.state == "not-enforced"
    into = {one.protocol: one.measured for one in found.edges if one.direction == "ingress"}
    assert into == {"TCP": "open", "UDP": "open"}


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(64))
    await writer.drain()
    writer.close()


async def test_v9_a_caller_that_reaches_nothing_proves_nothing(place: _Place) -> None:
    """Perhaps its network is not there yet."""
    found = await place.probe(lambda *_: False)
    assert found.state == "unknown"
    assert "reached nothing" in found.text


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (waiting("ErrImagePull", "no such image"), "its image was not pulled: no such image"),
        (waiting("CreateContainerError", "no such file"), "its container was not started: no such file"),
        (ended("PROBE_PLAN: odd", 2), "it ended with 2: PROBE_PLAN: odd"),
        (ended("no JSON"), "it ended with 0: no JSON"),
        (ended(json.dumps({"open": "0", "lag_ms": [0]})), "it ended with 0"),
    ],
)
async def test_v9_a_pod_that_does_not_measure_makes_it_unknown(place: _Place, status: JSONObject, says: str) -> None:
    """And the reason says what to mend; nothing stays."""

    def instead(pod: JSONObject) -> JSONObject | None:
        return copy.deepcopy(status) if pod["metadata"]["labels"][pods.PART] != "responder" else None

    found = await place.probe(_as_wanted, instead=instead)
    assert found.state == "unknown"
    assert says in found.text
    await place.is_clear()


async def test_v9_nobody_else_can_say_what_was_measured(place: _Place) -> None:
    """A pod made by somebody in the cell with the label of the probe, that names no Job of it, is not read."""

    async def forge(kubelet: Kubelet) -> None:
        while not (
            made := [one for one in kubelet.seen.values() if one["metadata"]["labels"][pods.PART] != "responder"]
        ):
            await asyncio.sleep(0.01)
        pod = _forged(made[0], owners=[])
        await place.nodes.says(await place.nodes.put(pod), ended(json.dumps({"open": "0" * 64, "lag_ms": [0] * 64})))

    kubelet = place.kubelet(_everything)
    async with kubelet.running():
        forging = asyncio.create_task(forge(kubelet))
        found = await place.prober().probe(place.network)
        await asyncio.gather(forging, return_exceptions=True)
    assert found.state == "not-enforced"


async def test_v9_two_pods_that_claim_one_job_are_both_not_believed(place: _Place) -> None:
    """Whoever makes pods in the cell can name any owner, but not be the only one that does."""
    held = asyncio.Event()

    def instead(pod: JSONObject) -> JSONObject | None:
        if pod["metadata"]["labels"][pods.PART] == "responder":
            return None
        held.set()
        return waiting("ContainerCreating", "")

    kubelet = place.kubelet(_everything, instead=instead)
    async with kubelet.running():
        probing = asyncio.create_task(place.prober().probe(place.network))
        await held.wait()
        (ours,) = _callers(kubelet)
        pod = _forged(ours, owners=ours["metadata"]["ownerReferences"])
        count = len(json.loads(ours["spec"]["containers"][0]["env"][0]["value"])["targets"])
        wanted = {"open": "1" * 3 + "0" * (count - 3), "lag_ms": [0] * count}
        kubelet.instead = lambda _: ended(json.dumps(wanted))
        await place.nodes.put(pod)
        found = await probing
    assert found.state == "unknown"
    assert "more than one pod" in found.text


def _callers(kubelet: Kubelet) -> list[JSONObject]:
    return [one for one in kubelet.seen.values() if one["metadata"]["labels"][pods.PART] != "responder"]


def _forged(like: JSONObject, owners: list[JSONObject]) -> JSONObject:
    metadata = {
        "name": "forged", "namespace": like["metadata"]["namespace"], "labels": like["metadata"]["labels"],
        "ownerReferences": owners,
    }  # fmt: skip
    container = {"name": pods.CONTAINER, "image": "registry.example/forger:1", "args": ["try"], "env": []}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


async def test_v11_a_probe_that_is_given_up_leaves_nothing(place: _Place) -> None:
    """A newer item comes, or the agent ends: its Jobs go, and none is made after that."""
    kubelet = place.kubelet(_as_wanted, instead=lambda _: waiting("ContainerCreating", ""))
    async with kubelet.running():
        probing = asyncio.create_task(place.prober().probe(place.network))
        while not kubelet.seen:
            await asyncio.sleep(0.01)
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
    await place.is_clear()


async def test_v9_an_agent_that_may_not_send_does_not_know_what_comes_in(place: _Place) -> None:
    """A NetworkPolicy of its own namespace would make everything look closed."""
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": f"held-{place.network.cell}", "namespace": "cellward-system"},
        "spec": {"podSelector": {"matchLabels": {"held": "back"}}, "policyTypes": ["Egress"], "egress": []},
    }  # fmt: skip
    await place.admin_says(policy)
    try:
        found = await place.probe(_as_wanted)
    finally:
        if isinstance(place.nodes, RealNodes):
            place.nodes.must_delete(policy)
    assert found.state == "unknown"
    assert "into the cell" in found.text or "from the agent" in found.text


async def test_v9_what_is_remembered_is_not_measured_again(place: _Place) -> None:
    """The seam that the agent uses: one measurement for one intent."""
    keeper = RememberingProber(place.prober(), SystemClock(), 600)
    async with place.kubelet(_as_wanted).running():
        first = await keeper.probe(place.network)
    assert (first.state, keeper.due(place.network)) == ("enforced", False)
    # Nobody plays the kubelet any more: a second measurement would find nothing.
    assert await keeper.probe(place.network) is first
