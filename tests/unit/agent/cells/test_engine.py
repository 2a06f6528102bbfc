"""The engine on an API server in memory: outages, interruptions, fights, many cells."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.audit.interfaces import Entry
from agent.cells.pace import Pace
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef, WatchEvent, WatchType, ref_of
from agent.link.interfaces import ReceiptFacts
from agent.link.messages import report_to_wire
from agent.objects.watcher import Watched
from agent.spool.errors import FULL
from agent.spool.state import open_state
from cellward.wire.v1 import link_pb2
from hub.clusters.rows import cell_body
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

WEB = ObjectRef("apps/v1", "Deployment", "shop--shop1--dev", "web")
SERVICE = ObjectRef("v1", "Service", "shop--shop1--dev", "web")
PLACE = ObjectRef("v1", "Namespace", "", "shop--shop1--dev")
DENY = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", "shop--shop1--dev", "default-deny")
CELL = "shop1"


def _ready(kube: FakeKube, ref: ObjectRef) -> None:
    kube.set_status(ref, {"observedGeneration": 99})


async def _deployed(world: World, kube: FakeKube, cell: str = CELL) -> None:
    receipt = await world.deploy(cell_yaml(cell), cell)
    assert receipt.accepted, receipt.refusals
    _ready(kube, WEB._replace(namespace=f"shop--{cell}--dev"))
    await world.phase(cell, "ready")


def _condition(world: World, name: str) -> bool:
    return next(one.ok for one in world.health.get() if one.name == name)


async def test_v16_outage_is_visible_and_over_by_itself(world: World, kube: FakeKube) -> None:
    """The condition goes red, an item waits without a refusal, and everything is done when the server is back."""
    await _deployed(world, kube)
    kube.go_down()
    await world.until(lambda: not _condition(world, "api-server"))
    item = world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0"))))
    await world.engine.submit(item)
    await world.until(lambda: [r.code for r in world.report(CELL).refusals] == ["kube/unavailable"])
    assert len(world.receipts) == 1
    kube.come_back()
    await world.until(lambda: _condition(world, "api-server"))
    await world.until(lambda: world.report(CELL).version == "1.1.0")
    _ready(kube, WEB)
    await world.phase(CELL, "ready")


async def test_v16_what_a_warming_up_api_server_refused_is_asked_again_when_it_is_back(
    world: World, kube: FakeKube
) -> None:
    """It forbids everything until it has read its roles; that refusal must not stand for a minute."""
    await _deployed(world, kube)

    def forbid(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        raise KUBE_FORBIDDEN(f"{verb} {ref.kind} is forbidden")

    kube.go_down()
    await world.until(lambda: not _condition(world, "api-server"))
    kube.down, kube.on_request = False, forbid
    item = world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0"))))
    await world.engine.submit(item)
    await world.until(lambda: [r.code for r in world.report(CELL).refusals] == ["kube/forbidden"])
    kube.on_request = None
    kube.come_back()
    await world.until(lambda: world.report(CELL).version == "1.1.0")


async def test_v9_isolation_and_rights_come_before_any_workload(world: World, kube: FakeKube) -> None:
    """All of them, in the order of requests, and workloads as the cell's own account."""
    await _deployed(world, kube)
    writes = [(ref.kind, user) for verb, ref, user in kube.requests if verb == "apply" and ref.namespace != ""]
    places = {kind: [i for i, (one, _) in enumerate(writes) if one == kind] for kind, _ in writes}
    assert len(places["NetworkPolicy"]) > 1
    assert max(places["NetworkPolicy"]) < min(places["RoleBinding"])
    ground = max(max(places[kind]) for kind in ("NetworkPolicy", "RoleBinding"))
    assert ground < min(min(places[kind]) for kind in ("Deployment", "Service"))
    assert kube.requests.index(("apply", PLACE, None)) < kube.requests.index(("apply", DENY, None))
    account = "system:serviceaccount:cellward-system:cell-shop--shop1--dev"
    assert {user for kind, user in writes if kind in {"Deployment", "Service"}} == {account}
    assert {user for kind, user in writes if kind in {"NetworkPolicy", "RoleBinding"}} == {None}


async def test_v16_refused_dry_run_leaves_what_ran(world: World, kube: FakeKube) -> None:
    """A webhook refuses one object of an upgrade: nothing of the upgrade is applied, the floor is where it was."""
    await _deployed(world, kube)

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "dry-run" and ref.kind == "Service":
            raise KUBE_FORBIDDEN("no", by="a webhook")

    kube.on_request = refuse
    before = await kube.get(WEB)
    floor = await world.state.floors.get("shop", CELL, "dev")
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0", service_yaml(image="registry.example/web:2")), CELL)
    assert receipt.refusals[0].code == "kube/forbidden"
    assert await kube.get(WEB) == before
    assert await world.state.floors.get("shop", CELL, "dev") == floor


async def test_fights_are_bounded(world: World, kube: FakeKube) -> None:
    """Somebody changes it back every time: the repairs go on, but not in a tight loop."""
    await _deployed(world, kube)
    ours = world.report(CELL).drift_repairs
    evil: dict[str, Any] = {"op": "add", "path": "/spec/paused", "value": True}

    async def fight() -> bool:
        live = await kube.get(WEB)
        if "paused" not in live["spec"]:
            await kube.patch_json(WEB, [evil], manager="them")
        return world.report(CELL).drift_repairs >= ours + 6

    begun = world.timer.monotonic()
    while not await fight():
        await asyncio.sleep(0)
        assert world.timer.monotonic() - begun < 15
    early = world.report(CELL).drift_repairs
    until = world.timer.monotonic() + 0.3
    while world.timer.monotonic() < until:
        await fight()
        await asyncio.sleep(0)
    assert world.report(CELL).drift_repairs <= early + 1


async def test_v14_missing_desired_state_deletes_nothing(world: World, kube: FakeKube) -> None:
    """An agent that starts with no items keeps what runs."""
    await _deployed(world, kube)
    await world._stop()
    opened = await open_state(world.directory, clock=world.timer)
    await opened.db.items.remove("shop", CELL, "dev")
    await opened.db.close()
    deletes = sum(verb == "delete" for verb, _, _ in kube.requests)
    await world._start()
    world.engine.resync()
    await world.phase(CELL, "ready")
    assert sum(verb == "delete" for verb, _, _ in kube.requests) == deletes


async def test_v14_hub_that_names_no_cells_any_more_deletes_nothing(world: World, kube: FakeKube) -> None:
    """Empty is no order to end anything: what was accepted stays until a tombstone."""
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    item = world.item(CELL, digest)
    assert (await world.submit(item)).accepted
    _ready(kube, WEB)
    await world.phase(CELL, "ready")
    deletes = sum(verb == "delete" for verb, _, _ in kube.requests)
    assert not await world.engine.withdraw(item)
    world.engine.resync()
    await kube.delete(SERVICE)
    await world.until(lambda: SERVICE in kube._objects)
    await world.phase(CELL, "ready")
    assert sum(verb == "delete" for verb, _, _ in kube.requests) == deletes + 1


async def test_cells_do_not_wait_for_each_other(world: World, kube: FakeKube) -> None:
    """One cell whose API calls fail does not hold up the others."""

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del verb, user
        if "slow" in ref.namespace or "slow" in ref.name:
            raise KUBE_UNAVAILABLE("slow")

    kube.on_request = refuse
    await world.engine.submit(world.item("slow", world.deployment("slow", world.release(cell_yaml("slow")))))
    for name in ("a1", "a2", "a3"):
        assert (await world.deploy(cell_yaml(name), name)).accepted
    assert [r.code for r in world.report("slow").refusals] == ["kube/unavailable"]


async def test_completed_job_that_goes_is_not_run_again(world: World, kube: FakeKube) -> None:
    """Its end, by its time to live or by a person, is no drift; another object's is."""
    job = "    once:\n      type: job\n      image: registry.example/once:1\n"
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", job), CELL)).accepted
    ref = ObjectRef("batch/v1", "Job", f"shop--{CELL}--dev", "once")
    kube.set_status(ref, {"conditions": [{"type": "Complete", "status": "True"}]})
    await world.phase(CELL, "ready")
    account = ObjectRef("v1", "ServiceAccount", f"shop--{CELL}--dev", "once")
    await kube.delete(ref)
    await kube.delete(account)
    await world.until(lambda: world.report(CELL).drift_repairs == 1)
    refs = {ref_of(one) for one in await kube.list("batch/v1", "Job")}
    assert ref not in refs
    await world.phase(CELL, "ready")


async def test_lost_state_takes_its_own_cells_back(world: World, kube: FakeKube, tmp_path: Path) -> None:
    """The state directory is gone: the namespace is known by guarded labels, and the same item takes hold again."""
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    assert (await world.submit(world.item(CELL, digest))).accepted
    _ready(kube, WEB)
    await world.phase(CELL, "ready")
    uid = (await kube.get(WEB))["metadata"]["uid"]
    await world._stop()
    world.directory = tmp_path / "empty"
    await world._start()
    receipt = await world.submit(world.item(CELL, digest))
    assert receipt.accepted, receipt.refusals
    await world.phase(CELL, "ready")
    assert (await kube.get(WEB))["metadata"]["uid"] == uid


async def test_receipt_is_sent_once_and_after_its_record(world: World, kube: FakeKube) -> None:
    """V13: durable first; a second look at the same refusal is no second receipt."""
    world.policy.evaluator.denied = {"Deployment": ("pods/no", "no")}
    receipt = await world.deploy(cell_yaml(CELL), CELL)
    assert not receipt.accepted
    assert [r["rule"] for r in await world.records() if r["action"] == "cell.decide"] == ["pods/no"]
    asked = len(world.policy.evaluator.asked)
    world.engine.reconsider()
    await world.until(lambda: len(world.policy.evaluator.asked) > asked)
    await _settled(world)
    assert len(world.receipts) == 1


async def test_v13_a_receipt_that_could_not_be_made_durable_is_sent_at_the_next_try(
    world: World, kube: FakeKube
) -> None:
    """A full disk in the moment of the answer must not make the author wait for ever."""
    send, full = world.engine.on_receipt, [FULL("no room"), FULL("no room")]

    async def on_receipt(receipt: ReceiptFacts) -> None:
        if full:
            raise full.pop()
        await send(receipt)

    world.engine.on_receipt = on_receipt
    receipt = await world.deploy(cell_yaml(CELL), CELL)
    assert receipt.accepted
    assert not full
    assert len(world.receipts) == 1


async def test_v16_a_fetch_that_others_cancelled_does_not_end_the_cells_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task group takes a cancelled child for an ordinary end: that cell would never be repaired or narrowed again."""
    fetch, lost = world.hub.fetch_digest, [1]

    async def fetch_digest(digest: str, limit: int) -> bytes | None:
        if lost:
            lost.clear()
            raise asyncio.CancelledError
        return await fetch(digest, limit)

    monkeypatch.setattr(world.hub, "fetch_digest", fetch_digest)
    receipt = await world.deploy(cell_yaml(CELL), CELL)
    assert receipt.accepted
    assert not lost


async def test_a_cell_nobody_works_on_any_more_is_an_alarm(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends a worker that nobody asked to end: the condition says so, and stays."""
    await _deployed(world, kube)
    assert _condition(world, "cells")

    async def wait(_: Pace, times: object) -> None:
        del times
        raise asyncio.CancelledError

    monkeypatch.setattr(Pace, "sleep", wait)
    world.engine.reconsider()
    world.engine.resync()
    await world.until(lambda: not _condition(world, "cells"))
    assert {one.code for one in world.health.get() if one.name == "cells"} == {"cell/worker-ended"}


async def _settled(world: World) -> None:
    """Let the turn that is under way end, by deploying another cell."""
    world.policy.evaluator.denied = {}
    await world.deploy(cell_yaml("other"), "other")
    world.receipts.pop()


async def test_signers_approvals_and_objects_reach_the_policy(world: World, kube: FakeKube) -> None:
    """The input names who signed, which approvals hold, and every object that would be applied."""
    release = world.release(cell_yaml(CELL))
    digest = world.deployment(CELL, release)
    good, other = world.approval(digest), world.approval("sha256:" + "0" * 64)
    await world.submit(world.item(CELL, digest, evidence=(release, good, other)))
    request = world.policy.evaluator.asked[-1]
    assert {signer["owner"] for signer in request.signers} == {"ada"}
    approvals = request.deployment["approvals"]
    assert isinstance(approvals, list)
    assert [one["digest"] for one in approvals] == [good]
    assert {obj["kind"] for obj in request.objects} >= {"Namespace", "NetworkPolicy", "Deployment", "Service"}
    assert request.isolation == "unknown"
    assert DENY.kind in {ref.kind for _, ref, _ in kube.requests}


# -- records and what they are about -----------------------------------------------------------------------------------


class Killed:
    """Holds back the record of one action for ever, as the last thing an agent did before it was killed."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, action: str, decision: str = "done") -> None:
        self.reached = asyncio.Event()
        self._action, self._decision = action, decision
        self._patch = monkeypatch
        for name in ("record", "record_or_count"):
            monkeypatch.setattr(world.recorder, name, self._holding(getattr(world.recorder, name)))

    def _holding(self, real: Any) -> Any:
        async def record(entry: Entry, **joined: Any) -> Any:
            if (entry.action, entry.decision) == (self._action, self._decision):
                self.reached.set()
                await asyncio.Event().wait()
            return await real(entry, **joined)

        return record


async def _recorded(world: World, action: str) -> list[str]:
    return [record["decision"] for record in await world.records() if record["action"] == action]


async def _killed_and_started(world: World, killed: Killed) -> None:
    await asyncio.wait_for(killed.reached.wait(), 30)
    await world._stop()
    await world._start()


async def test_v13_a_killed_agent_records_that_it_applied(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when every object is applied: the next agent finishes, and `done` is on record exactly once."""
    item = world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL))))
    await world.state.items.put(item)
    killed = Killed(world, monkeypatch, "cell.apply")
    await world.engine.submit(item)
    await _killed_and_started(world, killed)
    await world.until(lambda: any(r.accepted for r in world.receipts))
    assert await _recorded(world, "cell.apply") == ["done"]


async def test_v13_a_killed_agent_records_that_it_removed(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when everything is gone: the end of the cell is on record exactly once all the same."""
    await _deployed(world, kube)
    item = world.item(CELL, world.tombstone(CELL))
    await world.state.items.put(item)
    killed = Killed(world, monkeypatch, "cell.remove")
    await world.engine.submit(item)
    await _killed_and_started(world, killed)
    await world.phase(CELL, "removed")
    assert await _recorded(world, "cell.remove") == ["allow", "done"]


async def test_v13_a_killed_agent_records_that_it_quarantined(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the cell is closed: the quarantine is on record exactly once."""
    await _deployed(world, kube)
    digest = world.report(CELL).deployment_digest
    item = world.item(CELL, digest, hub_state="quarantine")
    await world.state.items.put(item)
    killed = Killed(world, monkeypatch, "cell.quarantine")
    await world.engine.submit(item)
    await _killed_and_started(world, killed)
    await world.phase(CELL, "held")
    assert await _recorded(world, "cell.quarantine") == ["done"]


async def test_v13_a_quarantine_that_drift_repair_finished_is_on_record(world: World, kube: FakeKube) -> None:
    """The API server fails between two objects, and repair closes the second before the quarantine is tried again."""
    await _deployed(world, kube)
    digest = world.report(CELL).deployment_digest
    failed: list[ObjectRef] = []

    def once(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref.kind == "NetworkPolicy" and not failed:
            failed.append(ref)
            raise KUBE_UNAVAILABLE("a moment without API server")

    kube.on_request = once
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.until(lambda: failed)
    world.engine.resync()
    await world.phase(CELL, "held")
    assert await _recorded(world, "cell.quarantine") == ["done"]


async def test_v13_a_killed_agent_records_that_it_repaired(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when an object is back and before that is on record: the next agent says that it may have been."""
    await _deployed(world, kube)
    killed = Killed(world, monkeypatch, "drift.repair")
    await kube.delete(SERVICE)
    await _killed_and_started(world, killed)
    assert await kube.get(SERVICE)
    # What the next agent finds may look drifted to it, because the uid of the repair was not saved either.
    assert (await _recorded(world, "drift.repair"))[0] == "finding"


async def test_v13_a_spool_that_fills_during_an_apply_loses_no_record_of_it(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for `done`: the cell is not settled before it is on record."""
    real = world.recorder.record

    async def full(entry: Entry, **joined: Any) -> int:
        if entry.action == "cell.apply":
            raise FULL("the disk is full")
        return await real(entry, **joined)

    monkeypatch.setattr(world.recorder, "record", full)
    await world.engine.submit(world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL)))))
    await world.until(lambda: [r.code for r in world.report(CELL).refusals] == ["spool/full"])
    assert not (await world.state.inventory.get("shop--shop1--dev"))["settled"]
    monkeypatch.undo()
    await world.until(lambda: any(r.accepted for r in world.receipts))
    assert await _recorded(world, "cell.apply") == ["done"]


_OUTSIDE = """\
  connections:
    - external: {host: api.example.com, ports: [{port: 443}]}
"""


async def test_what_a_cluster_cannot_express_is_reported_and_survives_a_restart(world: World, kube: FakeKube) -> None:
    """A host name stays closed with every network plugin that knows NetworkPolicies only; nobody has to guess why."""
    receipt = await world.deploy(cell_yaml(CELL, "1.0.0", service_yaml() + _OUTSIDE), CELL)
    assert receipt.accepted, receipt.refusals
    (told,) = world.report(CELL).conditions
    assert (told.code, told.subject) == ("cells/host-name-not-expressible", "spec.connections.0")
    assert "api.example.com" in told.message
    await world.restart_without_anything(lambda: None)
    assert tuple(world.report(CELL).conditions) == (told,)
    status = report_to_wire(world.report(CELL))
    body = cell_body(link_pb2.CellStatus.FromString(status.SerializeToString()))
    assert [found["code"] for found in body["conditions"]] == [told.code]


async def test_v1_change_to_an_object_that_was_written_a_moment_ago_is_not_missed(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event comes before the answer to our own write: there is nothing to compare with yet, so it is looked at."""
    apply, changed = kube.apply, asyncio.Event()

    async def slow_answer(obj: Any, **options: Any) -> Any:
        answer = await apply(obj, **options)
        if ref_of(obj) == SERVICE and not options.get("dry_run") and not changed.is_set():
            changed.set()
            evil = [{"op": "replace", "path": "/spec/selector", "value": {"somebody": "else"}}]
            await kube.patch_json(SERVICE, evil, manager="them")
            await asyncio.sleep(0.05)
        return answer

    monkeypatch.setattr(kube, "apply", slow_answer)
    await _deployed(world, kube)
    assert changed.is_set()
    await world.until(lambda: kube._objects[SERVICE]["spec"]["selector"] != {"somebody": "else"}, seconds=15)


async def test_v16_late_event_of_an_object_that_was_pruned_is_no_fault(world: World, kube: FakeKube) -> None:
    """Between its deletion and the new index the object is known, and is no longer the cell's."""
    await _deployed(world, kube)
    cell = world.engine._roster.by_ref[WEB].cell
    cell.record = cell.record.without(WEB)
    live = await kube.get(WEB)
    live["metadata"]["resourceVersion"] = "99999"
    world.engine._sightings._object(Watched("apps/v1", "Deployment"), WatchEvent(WatchType.MODIFIED, live))
