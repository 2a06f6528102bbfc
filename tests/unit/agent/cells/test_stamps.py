"""Stamps on an agent's cells (V10): who is selected when labels were written before, beside or without the guards."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.anchor import ANCHOR_NAME
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from agent.objects.ownership import strip
from agent.spool.state import open_state
from agent.stamps.keeper import StampKeeper
from agent.stamps.state import StampState, Step, state_from_text
from cellward.cells.stamps import Stamps
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube
from tests.unit.cellward.cells.netpol import Pod, allowed

API = "  endpoints:\n    api: {component: web, port: http, visibility: project}\n"
NAMESPACE, POLICY = ("v1", "Namespace"), ("networking.k8s.io/v1", "NetworkPolicy")
GUARDS = "admissionregistration.k8s.io/v1"
BINDING = ObjectRef(GUARDS, "ValidatingAdmissionPolicyBinding", "", "cellward-cell-labels")
COPY = ObjectRef("v1", "Secret", "cellward-system", ANCHOR_NAME)


def place(cell: str) -> str:
    """Return the namespace of a cell."""
    return f"shop--{cell}--dev"


def claims(cell: str, **more: str) -> dict[str, str]:
    """Return the labels of a namespace that says it is a cell."""
    said = {"project": "shop", "cell": cell, "environment": "dev"}
    return {f"cellward.dev/{name}": value for name, value in said.items()} | more


def namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def live_labels(kube: FakeKube, name: str) -> dict[str, str]:
    """Return the labels of a namespace as it is now."""
    found: dict[str, str] = kube._objects[ObjectRef(*NAMESPACE, "", name)]["metadata"].get("labels", {})
    return found


def reaches(kube: FakeKube, source: str, target: str, port: int = 8080) -> bool:
    """Whether a pod of one namespace reaches component ``web`` of another, by all policies and labels as they are."""
    policies = [obj for ref, obj in kube._objects.items() if ref[:2] == POLICY]
    pods = [
        Pod(name, "web", f"10.0.0.{number}", {"cellward.dev/component": "web"},
            {**live_labels(kube, name), "kubernetes.io/metadata.name": name})
        for number, name in enumerate((source, target))
    ]  # fmt: skip
    return allowed(policies, pods[0], pods[1], port, "TCP")


def caller_yaml(name: str) -> str:
    """Return a cell that calls the cell ``data``."""
    return cell_yaml(name, "1.0.0", service_yaml() + "  connections:\n    - {cell: data, endpoint: api}\n")


async def deploy_both(world: World) -> None:
    """Deploy ``data`` and a cell ``front`` that calls it."""
    world.peers = {"data": cell_yaml("data", "1.0.0", service_yaml() + API)}
    assert (await world.deploy(world.peers["data"], "data")).accepted
    receipt = await world.deploy(caller_yaml("front"), "front")
    assert receipt.accepted, receipt.refusals


def condition(world: World, name: str) -> Any:
    """Return a condition of the agent."""
    return next((one for one in world.health.get() if one.name == name), None)


async def settled(world: World, kube: FakeKube, cells: int = 2) -> None:
    """Wait until no change of stamps is under way and every cell came through."""
    del kube, cells
    keeper = world.stamps
    await world.until(
        lambda: (
            keeper._state and keeper._state.step is Step.DONE and not world.engine._roster.behind(world.stamps.current)
        )
    )


async def renew_guards(world: World, kube: FakeKube, meanwhile: Any = None) -> None:
    """Take a guard away and put it back, as an uninstall and an install of the chart do."""
    before = world.stamps.current
    binding = copy.deepcopy(kube._objects[BINDING])
    await kube.delete(BINDING)
    if meanwhile is not None:
        await meanwhile()
    fresh = {"apiVersion": GUARDS, "kind": BINDING.kind, "metadata": {"name": BINDING.name}, "spec": binding["spec"]}
    await kube.apply(fresh, manager="chart")
    await world.until(lambda: world.stamps.current != before)
    await settled(world, kube)


async def test_v10_an_impostor_is_selected_by_nobody_and_told_of(world: World, kube: FakeKube) -> None:
    """Made before the agent knew anything: labels of a cell alone open no door, and somebody is to take them off."""
    await kube.apply(namespace("evil", claims("data")), manager="them")
    await deploy_both(world)
    assert reaches(kube, place("front"), place("data"))
    assert not reaches(kube, "evil", place("data"))
    await world.until(lambda: condition(world, "cell-labels") and not condition(world, "cell-labels").ok)
    said = condition(world, "cell-labels")
    assert said.code == "stamps/not-a-cell"
    assert (
        "kubectl label namespace evil cellward.dev/cell- cellward.dev/environment- cellward.dev/project-"
        in said.message
    )
    found = [one for one in await world.records() if one["code"] == "stamps/not-a-cell"]
    assert [one["object"] for one in found] == ["Namespace/evil"]
    await kube.apply(namespace("evil", {}), manager="them")
    await world.until(lambda: condition(world, "cell-labels").ok)


@pytest.mark.parametrize("manager", ["them", "cellward-agent"])
async def test_v10_a_peer_made_before_it_was_deployed_is_not_called(world: World, kube: FakeKube, manager: str) -> None:
    """It has the very name and labels, even the manager; the caller's egress asks for the stamp, the agent too."""
    await kube.apply(namespace(place("data"), claims("data")), manager=manager)
    world.peers = {"data": cell_yaml("data", "1.0.0", service_yaml() + API)}
    assert (await world.deploy(caller_yaml("front"), "front")).accepted
    assert not reaches(kube, place("front"), place("data"))
    refused = await world.deploy(world.peers["data"], "data")
    assert [one.code for one in refused.refusals] == ["cell/namespace-not-ours"]


async def test_v10_a_stamp_copied_while_the_guards_were_away_is_worth_nothing(world: World, kube: FakeKube) -> None:
    """All of it copied; after the guards are back it is selected by nobody, and what is ours goes on talking."""
    await deploy_both(world)
    copied = dict(live_labels(kube, place("front")))

    async def copying() -> None:
        await kube.apply(namespace("evil", copied), manager="them")
        assert reaches(kube, "evil", place("data"))
        await world.until(lambda: not world.engine._sightings._fence.intact)

    await renew_guards(world, kube, copying)
    assert not reaches(kube, "evil", place("data"))
    assert reaches(kube, place("front"), place("data"))
    assert live_labels(kube, place("front"))["cellward.dev/stamp"] != copied["cellward.dev/stamp"]
    assert "stamps/renewed" in {one["code"] for one in await world.records()}
    assert "kubectl delete validatingadmissionpolicybinding" in condition(world, "cell-labels").message


async def test_v10_an_absence_that_the_agent_slept_through_is_seen(world: World, kube: FakeKube) -> None:
    """Down when the guards went and up when they are back; it is told by what they are now."""
    await deploy_both(world)
    copied = dict(live_labels(kube, place("front")))
    await world._stop()
    binding = kube._objects[BINDING]
    await kube.delete(BINDING)
    await kube.apply(namespace("evil", copied), manager="them")
    fresh = {"apiVersion": GUARDS, "kind": BINDING.kind, "metadata": {"name": BINDING.name}, "spec": binding["spec"]}
    await kube.apply(fresh, manager="chart")
    await world._start()
    await world.until(lambda: live_labels(kube, place("front"))["cellward.dev/stamp"] != copied["cellward.dev/stamp"])
    await settled(world, kube)
    assert not reaches(kube, "evil", place("data"))
    assert reaches(kube, place("front"), place("data"))


async def test_changing_the_key_closes_no_edge_at_any_moment(world: World, kube: FakeKube) -> None:
    """Looked at after every single write: what is declared is open all the time."""
    await deploy_both(world)
    closed: list[ObjectRef] = []

    def look(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and not reaches(kube, place("front"), place("data")):
            closed.append(ref)

    kube.on_request = look
    await renew_guards(world, kube)
    kube.on_request = None
    assert not closed
    assert reaches(kube, place("front"), place("data"))


async def test_nothing_new_is_applied_before_the_key_is_changed(world: World, kube: FakeKube) -> None:
    """A namespace with a copied stamp must not be taken for our own in between."""
    await deploy_both(world)
    copied = dict(live_labels(kube, place("front")))
    world.stamps._settle = 3600.0
    stolen = {**copied, "cellward.dev/cell": "third"}

    await kube.delete(BINDING)
    await kube.apply(namespace(place("third"), stolen), manager="them")
    binding = next(
        one for one in world.guards if one["metadata"]["name"] == BINDING.name and one["kind"] == BINDING.kind
    )
    await world.until(lambda: not world.engine._sightings._fence.intact)
    await kube.apply(binding, manager="chart")
    await world.until(lambda: world.engine._sightings._fence.intact)
    await world.engine.submit(world.item("third", world.deployment("third", world.release(cell_yaml("third")))))
    await world.until(lambda: any(one.code == "stamps/pending" for one in world.report("third").refusals))
    assert not [ref for ref in kube._objects if ref.namespace == place("third")]
    world.stamps._settle = 0.0
    world.stamps._wake.set()
    await world.until(lambda: any(one.code == "cell/namespace-not-ours" for one in world.report("third").refusals))


async def _impostor_while_the_key_changes(world: World, kube: FakeKube) -> None:
    """Make a namespace ``third`` with stamps copied while the guards were away; a cell that cannot follow holds on."""
    copied = dict(live_labels(kube, place("front")))
    binding = copy.deepcopy(kube._objects[BINDING])
    await kube.delete(BINDING)
    # The name of a manager is anybody's to write, too.
    await kube.apply(namespace(place("third"), {**copied, "cellward.dev/cell": "third"}), manager="cellward-agent")
    await world.until(lambda: not world.engine._sightings._fence.intact)

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb in {"apply", "patch"} and place("front") in {ref.name, ref.namespace}:
            raise KUBE_FORBIDDEN("somebody's webhook says no", by="admission")

    kube.on_request = refuse
    await kube.apply({**binding, "metadata": {"name": BINDING.name}}, manager="chart")
    keeper, roster = world.stamps, world.engine._roster
    await world.until(lambda: keeper._state and keeper._state.step is Step.DONE and not roster.behind(keeper.current))


@pytest.mark.parametrize("how", ["run", "quarantine", "end"])
async def test_v10_a_copied_stamp_proves_nothing_while_the_key_is_changed(
    world: World, kube: FakeKube, how: str
) -> None:
    """Neither a first release nor quarantine nor an end takes it for ours; with the new key it is somebody else's."""
    await deploy_both(world)
    await _impostor_while_the_key_changes(world, kube)
    before = dict(live_labels(kube, place("third")))
    signed = (
        world.tombstone("third") if how == "end" else world.deployment("third", world.release(caller_yaml("third")))
    )
    item = world.item("third", signed, hub_state="quarantine" if how == "quarantine" else "run")
    await world.state.items.put(item)
    await world.engine.submit(item)
    if how == "run":
        await world.until(lambda: world.report("third").refusals)
        assert [one.code for one in world.report("third").refusals] == ["stamps/pending"]
    kube.on_request = None
    world.stamps._grace = 0.3
    world.stamps._wake.set()
    await settled(world, kube)
    if how == "run":
        await world.until(lambda: "cell/namespace-not-ours" in {one.code for one in world.report("third").refusals})
    else:
        ended = {"quarantine": "held", "end": "removed"}[how]
        await world.phase("third", ended)
    assert live_labels(kube, place("third")) == before
    assert not [ref for ref in kube._objects if ref.namespace == place("third")]
    # The policies of the other cells get the new key one after the other.
    await world.until(lambda: not reaches(kube, place("third"), place("data")))
    assert "cell/adopted" not in {one["code"] for one in await world.records()}


def _bare_objects(kube: FakeKube) -> None:
    """Take the stamps off what is in the cluster."""
    none = Stamps((), None, closed=False)
    for ref in list(kube._objects):
        if (ref[:2] == NAMESPACE and "cellward.dev/project" in live_labels(kube, ref.name)) or ref[:2] == POLICY:
            kube._objects[ref] = none.restamp(kube._objects[ref])


def _unstamp(world: World, kube: FakeKube) -> None:
    """Make cells and records as a version without stamps left them."""
    none = Stamps((), None, closed=False)
    _bare_objects(kube)
    for worker in world.engine._roster.workers.values():
        for owned in worker.cell.record.objects:
            if owned.ref[:2] in {NAMESPACE, POLICY}:
                bare = replace(owned, manifest=none.restamp(owned.manifest), baseline=strip(kube._objects[owned.ref]))
                worker.cell.record = worker.cell.record.with_object(bare)


async def test_cells_of_an_older_version_are_stamped_first_and_then_required(world: World, kube: FakeKube) -> None:
    """The upgrade: no edge closes, the impostor that was selected before is not any more, and the mark is set last."""
    await deploy_both(world)
    await kube.apply(namespace("evil", claims("data")), manager="them")
    _unstamp(world, kube)
    assert reaches(kube, "evil", place("data"))
    for worker in world.engine._roster.workers.values():
        await world.state.inventory.put(worker.cell.record.namespace, worker.cell.record.to_json())
    await world._stop()
    # Once more: until it stopped, the agent may have repaired one of them.
    _bare_objects(kube)
    await _forget_stamps(world, kube)
    closed: list[str] = []
    marked: list[bool] = []

    def look(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if not reaches(kube, place("front"), place("data")):
            closed.append(f"{verb} {ref}")
        if ref.name == "cellward-stamps" and verb == "apply":
            marked.append(all("cellward.dev/stamp" in live_labels(kube, place(name)) for name in ("data", "front")))

    kube.on_request = look
    await world._start()
    await world.until(lambda: marked)
    kube.on_request = None
    assert not closed
    assert marked == [True]
    assert not reaches(kube, "evil", place("data"))
    assert reaches(kube, place("front"), place("data"))


async def _forget_stamps(world: World, kube: FakeKube) -> None:
    opened = await open_state(world.directory, clock=world.timer)
    await opened.db._writer.run(lambda connection: connection.execute("DELETE FROM meta WHERE key='stamps'").rowcount)
    await opened.db.close()
    kube._objects.pop(COPY, None)
    kube._objects.pop(ObjectRef("v1", "ConfigMap", "cellward-system", "cellward-stamps"), None)


async def test_v1_a_lost_state_finds_its_cells_by_the_copy(tmp_path: Path, world: World, kube: FakeKube) -> None:
    """The same stamps go on holding, and the cell is taken back."""
    await deploy_both(world)
    before = dict(live_labels(kube, place("front")))
    await world._stop()
    world.directory = tmp_path / "other"
    await world._start()
    assert (await world.deploy(world.peers["data"], "data")).accepted
    assert live_labels(kube, place("front")) == before
    assert reaches(kube, place("front"), place("data"))


async def test_a_cell_that_cannot_be_stamped_holds_nobody_up_for_long(world: World, kube: FakeKube) -> None:
    """It is not selected any more, which closes; and it comes back once it can be."""
    await deploy_both(world)
    world.stamps._grace = 0.3

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb in {"apply", "patch"} and ref == ObjectRef(*NAMESPACE, "", place("front")):
            raise KUBE_FORBIDDEN("somebody's webhook says no", by="admission")

    kube.on_request = refuse
    before = world.stamps.current
    binding = copy.deepcopy(kube._objects[BINDING])
    await kube.delete(BINDING)
    await kube.apply({**binding, "metadata": {"name": BINDING.name}}, manager="chart")
    await world.until(lambda: world.stamps.current != before)
    await world.until(lambda: world.stamps._state and world.stamps._state.step is Step.DONE)
    await world.until(lambda: not reaches(kube, place("front"), place("data")))
    assert condition(world, "stamps").code == "stamps/cell-left-behind"
    kube.on_request = None
    await world.until(lambda: reaches(kube, place("front"), place("data")))
    await world.until(lambda: condition(world, "stamps").ok)


async def test_v13_a_full_disk_keeps_nobody_from_changing_the_key(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy alone makes it durable; a restart goes by the newer of the two."""
    await deploy_both(world)
    copied = dict(live_labels(kube, place("front")))

    async def full(*_: object) -> None:
        raise KUBE_UNAVAILABLE("no room")

    with monkeypatch.context() as patch:
        patch.setattr(world.state.meta, "set", full)
        await renew_guards(world, kube)
    now = dict(live_labels(kube, place("front")))
    assert now["cellward.dev/stamp"] != copied["cellward.dev/stamp"]
    await world._stop()
    await world._start()
    await settled(world, kube)
    assert live_labels(kube, place("front")) == now
    assert reaches(kube, place("front"), place("data"))


def test_the_durable_shape_is_read_strictly() -> None:
    """What is written is read again; anything else is no stamps."""
    first = StampState(b"k" * 32)
    for state in (first, first.renewed(b"n" * 32, "x"), first.renewed(b"n" * 32, "x").advanced(), first.seen("y")):
        assert state_from_text(state.to_text()) == state
    good = json.loads(first.to_text())
    wrong = ({"key": "00"}, {"schema": 2}, {"generation": 0}, {"generation": 2**60}, {"step": "x"}, {"previous": 1})
    for change in wrong:
        with pytest.raises(ValueError):  # noqa: PT011 - any of its kind
            state_from_text(json.dumps({**good, **change}))
    endless = first.to_text().replace('"generation": 1', '"generation": Infinity')
    for text in ("", "[]", "{}", "null", endless):
        with pytest.raises(ValueError):  # noqa: PT011 - any of its kind
            state_from_text(text)


def test_keeper_is_pending_before_it_knows_anything() -> None:
    """Nothing is rendered with stamps that nobody knows."""
    keeper = StampKeeper.__new__(StampKeeper)
    keeper._state, keeper._stamps, keeper._guards = None, None, ""
    for ask in (keeper.require, keeper.check):
        with pytest.raises(Exception, match="stamps"):
            ask()
