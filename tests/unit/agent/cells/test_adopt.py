"""An agent that lost its state takes back what is its own in a cell, and nothing else (V1, V10, V14)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from agent.kube.interfaces import ObjectRef
from agent.spool.errors import FULL
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
PLACE = f"shop--{CELL}--dev"
POLICY = "networking.k8s.io/v1"
ENDPOINT = "  endpoints:\n    web: {component: web, port: http, visibility: project}\n"
OLD = ObjectRef("apps/v1", "Deployment", PLACE, "old")
WEB = ObjectRef("apps/v1", "Deployment", PLACE, "web")
OPENED = ObjectRef(POLICY, "NetworkPolicy", PLACE, "endpoint.web")
DENY = ObjectRef(POLICY, "NetworkPolicy", PLACE, "default-deny")
FOREIGN = ObjectRef(POLICY, "NetworkPolicy", PLACE, "open-sesame")


@pytest.fixture
async def world(tmp_path: Path, world: World, kube: FakeKube) -> World:
    """Return an agent that once released two services and an endpoint, and has forgotten it since."""
    two = service_yaml(image="registry.example/web:1") + service_yaml("old") + ENDPOINT
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", two), CELL)).accepted
    await world._stop()
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}
    metadata = {"name": FOREIGN.name, "namespace": PLACE}
    await kube.apply(
        {"apiVersion": POLICY, "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}, manager="them"
    )
    world.directory = tmp_path / "empty"
    world.receipts.clear()
    await world._start()
    return world


def _there(kube: FakeKube, ref: ObjectRef) -> bool:
    return ref in kube._objects


async def test_what_is_no_longer_released_goes_with_the_next_release(world: World, kube: FakeKube) -> None:
    """Edges and workloads of the forgotten release, and a policy somebody added meanwhile; the rest stays the same."""
    uid = kube._objects[WEB]["metadata"]["uid"]
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0"), CELL, confirm_prune=9)
    assert receipt.accepted, receipt.refusals
    assert not [ref for ref in (OLD, OPENED, FOREIGN) if _there(kube, ref)]
    assert kube._objects[WEB]["metadata"]["uid"] == uid
    found = [record for record in await world.records() if record["code"] == "cell/adopted"]
    assert [record["decision"] for record in found] == ["finding"]


async def test_v14_the_brake_holds_for_what_was_forgotten(world: World, kube: FakeKube) -> None:
    """More than may go at once needs an author, whether the agent remembers having made it or not."""
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0"), CELL)
    assert [refusal.code for refusal in receipt.refusals] == ["apply/prune-needs-confirmation"]
    assert _there(kube, OLD)


async def test_a_tombstone_ends_what_was_forgotten(world: World, kube: FakeKube) -> None:
    """Nothing on record is no reason to say that a cell is gone."""
    receipt = await world.submit(world.item(CELL, world.tombstone(CELL, delete_data=True)))
    assert receipt.accepted, receipt.refusals
    assert not [ref for ref in kube._objects if PLACE in {ref.namespace, ref.name}]
    assert not _there(kube, ObjectRef("v1", "ServiceAccount", "cellward-system", f"cell-{PLACE}"))


async def test_v13_quarantine_closes_what_was_forgotten_on_a_full_disk(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what the open policies were widened to meanwhile, so lifting opens nothing before a release does."""

    async def full(*_: object, **__: object) -> None:
        raise FULL("no room")

    widened = copy.deepcopy(kube._objects[OPENED])
    digest = world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0")))
    with monkeypatch.context() as patch:
        patch.setattr(world.state.audit, "append", full)
        await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
        await world.until(lambda: not kube._objects[OPENED]["spec"]["ingress"])
    assert widened["spec"]["ingress"]
    assert not kube._objects[DENY]["spec"]["ingress"]
    await world.engine.submit(world.item(CELL, digest, hub_state="hold"))
    await world.until(lambda: not world.report(CELL).refusals or world.report(CELL).phase == "held")
    assert not kube._objects[OPENED]["spec"]["ingress"]
    receipt = await world.deploy(cell_yaml(CELL, "1.2.0", service_yaml() + ENDPOINT), CELL, confirm_prune=9)
    assert receipt.accepted, receipt.refusals
    assert kube._objects[OPENED]["spec"]["ingress"]


async def test_quarantine_closes_a_cell_whose_isolation_is_gone_as_well(world: World, kube: FakeKube) -> None:
    """Somebody deleted every policy while nobody watched: to say that the cell is closed, one has to be made."""
    for ref in [ref for ref in kube._objects if ref.kind == "NetworkPolicy" and ref.namespace == PLACE]:
        await kube.delete(ref)
    digest = world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0")))
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.until(lambda: _there(kube, DENY))
    spec = kube._objects[DENY]["spec"]
    assert (spec["podSelector"], spec["ingress"], spec["egress"]) == ({}, [], [])
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]


def _strip(kube: FakeKube, *, all_of: str = PLACE) -> None:
    """Take every entry of managedFields off, as whoever may write in the cell can."""
    for ref, live in kube._objects.items():
        if all_of in {ref.namespace, ref.name}:
            live["metadata"]["managedFields"] = []


async def test_v10_a_release_takes_what_nobody_signs_for_any_more(world: World, kube: FakeKube) -> None:
    """Workloads with the labels of the cell are ended unless it names them; what runs nothing is a stranger's."""
    _strip(kube)
    theirs = ObjectRef("v1", "ConfigMap", PLACE, "theirs")
    labels = kube._objects[OLD]["metadata"]["labels"]
    metadata = {"name": "theirs", "namespace": PLACE, "labels": labels}
    await kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}}, manager="them"
    )
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0", service_yaml(image="registry.example/web:2")), CELL)
    assert receipt.accepted, receipt.refusals
    spec = kube._objects[WEB]["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "registry.example/web:2"
    assert not _there(kube, OLD)
    assert not _there(kube, OPENED)
    assert kube._objects[theirs]["data"] == {"a": "b"}


async def test_v9_a_default_deny_that_nobody_signs_for_is_never_away(world: World, kube: FakeKube) -> None:
    """It goes with no other policy: without it every pod of the cell would be open while the rest is looked at."""
    _strip(kube)
    kube._objects[DENY]["spec"]["ingress"] = [{}]
    deleted: list[ObjectRef] = []

    def watch(verb: str, ref: ObjectRef, _: str | None) -> None:
        if verb == "delete" and ref.kind == "NetworkPolicy":
            deleted.append(ref)
            assert kube._objects[DENY]["spec"]["ingress"] == []

    kube.on_request = watch
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0"), CELL, confirm_prune=9)
    assert receipt.accepted, receipt.refusals
    assert FOREIGN in deleted
    assert DENY not in deleted


async def test_v1_what_is_found_is_not_kept_up_for_whoever_made_it(world: World, kube: FakeKube) -> None:
    """A release that is refused leaves it on record; drift repair makes nothing of it again."""
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0"), CELL)
    assert not receipt.accepted
    await kube.delete(OLD)
    world.engine.resync()
    await kube.delete(DENY)
    await world.until(lambda: _there(kube, DENY))
    assert not _there(kube, OLD)


@pytest.mark.parametrize("with_data", [False, True])
async def test_v14_v15_an_end_is_not_said_while_anything_runs(world: World, kube: FakeKube, with_data: bool) -> None:
    """Whose the namespace is cannot be proved: nothing in it is touched, and the end says what is there."""
    place = kube._objects[ObjectRef("v1", "Namespace", "", PLACE)]["metadata"]["labels"]
    stamp, place["cellward.dev/stamp"] = place["cellward.dev/stamp"], "of-another-life"
    await world.engine.submit(world.item(CELL, world.tombstone(CELL, delete_data=with_data)))
    await world.until(lambda: world.report(CELL).refusals)
    (refusal,) = world.report(CELL).refusals
    assert refusal.code == "apply/deletion-pending"
    assert (PLACE if with_data else f"Deployment/{PLACE}/old") in refusal.reason
    assert world.report(CELL).phase != "removed"
    assert _there(kube, OLD)
    place["cellward.dev/stamp"] = stamp
    await world.phase(CELL, "removed")
    assert not _there(kube, OLD)
    assert not _there(kube, WEB)


async def test_v14_an_end_takes_a_workload_that_says_it_is_of_the_cell(world: World, kube: FakeKube) -> None:
    """Also where the record is whole: one that was made beside it would run on. Without the labels it is nobody's."""
    assert (await world.deploy(cell_yaml(CELL, "1.1.0"), CELL, confirm_prune=9)).accepted
    body = copy.deepcopy(kube._objects[WEB])
    for name, labels in (("beside", body["metadata"]["labels"]), ("stranger", {})):
        metadata = {"name": name, "namespace": PLACE, "labels": labels}
        manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": body["spec"]}
        await kube.apply(manifest, manager="them")
    assert (await world.submit(world.item(CELL, world.tombstone(CELL)))).accepted
    names = {ref.name for ref in kube._objects if ref.kind == "Deployment" and ref.namespace == PLACE}
    assert names == {"stranger"}


async def test_a_namespace_of_somebody_else_is_left_alone(world: World, kube: FakeKube) -> None:
    """Its labels say the cell, its manager does not: nothing in it is taken, and the release is refused."""
    place = "shop--theirs--dev"
    labels = {
        "app.kubernetes.io/managed-by": "cellward", "cellward.dev/project": "shop", "cellward.dev/cell": "theirs",
        "cellward.dev/environment": "dev",
    }  # fmt: skip
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place, "labels": labels}}
    await kube.apply(namespace, manager="them")
    kept = {"name": "data", "namespace": place, "labels": labels}
    await kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": kept, "data": {"a": "b"}}, manager="them")
    receipt = await world.deploy(cell_yaml("theirs"), "theirs")
    assert [refusal.code for refusal in receipt.refusals] == ["cell/namespace-not-ours"]
    assert _there(kube, ObjectRef("v1", "ConfigMap", place, "data"))
