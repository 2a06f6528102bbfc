"""What a Deployment needs to be finished and undone is had, verified and kept before it is accepted (V1, V11)."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from agent.cells.compose import CONCURRENCY
from agent.kube.errors import KUBE_QUOTA
from agent.kube.interfaces import ObjectRef
from agent.spool.errors import FULL
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.policy.model import Decision, DecisionInput, Staleness, Violation
from cellward.wire.codec import DesiredItem
from tests.fakes.cell_world import REALM, Hub, World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
WEB = ObjectRef("apps/v1", "Deployment", "shop--shop1--dev", "web")
ZOO = WEB._replace(name="zoo")
JOB = ObjectRef("batch/v1", "Job", "shop--shop1--dev", "once")


def ready(kube: FakeKube) -> None:
    """Say that what wants no pods has none."""
    kube.set_status(WEB, {"observedGeneration": 99})


async def first(world: World, kube: FakeKube, signer: Ed25519Signer | None = None) -> str:
    """Deploy 1.0.0 and wait until it is ready; return the digest of its release."""
    good = world.release(cell_yaml(CELL), signer=signer)
    digest = world.deployment(CELL, good)
    assert (await world.submit(world.item(CELL, digest, evidence=(world.approval(digest),)))).accepted
    ready(kube)
    await world.phase(CELL, "ready")
    return good


def failing(world: World, fallback: str, components: str = "", seconds: int = 1, **changes: object) -> str:
    """Sign 1.1.0 that never gets its pods, with a fallback."""
    bad = world.release(cell_yaml(CELL, "1.1.0", components or service_yaml(replicas=1)))
    return world.deployment(CELL, bad, fallback=fallback, rollout={"deadlineSeconds": seconds}, **changes)


async def back(world: World) -> None:
    """Wait for the way back."""
    await world.until(lambda: world.report(CELL).version == "1.0.0" and world.report(CELL).phase == "degraded")


def needs_approval(world: World) -> None:
    """Let the policy demand an approval of every deployment and every end."""

    async def decide(request: DecisionInput) -> Decision:
        world.policy.evaluator.asked.append(request)
        found = () if request.deployment["approvals"] else (Violation("x/approval", "nobody approved it"),)
        return Decision(not found, found, (), {}, "1")

    world.policy.evaluator.decide = decide  # type: ignore[method-assign]


# -- the fallback ------------------------------------------------------------------------------------------------------


async def test_v11_fallback_is_covered_by_the_approval_of_its_deployment(world: World, kube: FakeKube) -> None:
    """Production demands approvals: that must not make every way back impossible there."""
    needs_approval(world)
    digest = failing(world, await first(world, kube))
    assert (await world.submit(world.item(CELL, digest, evidence=(world.approval(digest),)))).accepted
    await back(world)


async def test_v1_fallback_needs_no_hub(world: World, kube: FakeKube) -> None:
    """Release and approval are kept from the accept on, also over a restart, whatever the hub called evidence."""
    needs_approval(world)
    digest = failing(world, await first(world, kube), seconds=2)
    assert (await world.submit(world.item(CELL, digest, evidence=(world.approval(digest),)))).accepted
    await world._stop()
    world.hub = Hub()
    await world._start()
    await back(world)


async def test_v1_hub_that_stalls_holds_up_neither_the_way_back_nor_half_a_release(
    world: World, kube: FakeKube
) -> None:
    """It names evidence it never delivers, and takes every turn with cells that are not there."""
    digest = failing(world, await first(world, kube), seconds=2)
    assert (await world.submit(world.item(CELL, digest))).accepted
    delivered = world.hub.fetch_digest

    async def stall(digest: str, limit: int) -> bytes | None:
        await asyncio.sleep(600)
        return await delivered(digest, limit)

    world.hub.fetch_digest = stall  # type: ignore[method-assign]
    for number in range(2 * CONCURRENCY):
        await world.engine.submit(DesiredItem(100, "shop", f"ghost{number}", "dev", "sha256:" + "1" * 64))
    await world.engine.submit(world.item(CELL, digest, evidence=("sha256:" + "3" * 64,)))
    await back(world)


async def test_v11_signer_of_the_fallback_may_be_retired(world: World, kube: FakeKube) -> None:
    """It runs already: a retirement does not undo it, and so it may be gone back to."""
    bob = Ed25519Signer.generate()
    current = world.policy.current
    assert current is not None
    (ada,) = current.keyring.entries
    entry = dataclasses.replace(ada, keyid=bob.keyid, spki_der=bob.public_spki_der, owner="bob")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 1, (ada, entry)))
    good = await first(world, kube, bob)
    retired = dataclasses.replace(entry, state="retired")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 2, (ada, retired)))
    receipt = await world.submit(world.item(CELL, failing(world, good)))
    assert receipt.accepted, receipt.refusals
    await back(world)


async def test_v11_deployment_whose_fallback_does_not_hold_is_not_accepted(world: World, kube: FakeKube) -> None:
    """Its author is told while something can be done about it."""
    await first(world, kube)
    foreign = world.release(cell_yaml(CELL, "0.9.0"), signer=world.stranger)
    receipt = await world.submit(world.item(CELL, failing(world, foreign)))
    assert [one.code for one in receipt.refusals] == ["document/no-valid-signature"]
    await world.engine.submit(world.item(CELL, failing(world, "sha256:" + "1" * 64)))
    await world.until(lambda: [r.code for r in world.report(CELL).refusals] == ["cell/document-missing"])
    assert world.report(CELL).version == "1.0.0"


async def test_v11_fallback_that_no_longer_holds_is_said(world: World, kube: FakeKube) -> None:
    """Its signer was found to be compromised since: the cell stays where it is, and nobody has to guess why."""
    bob = Ed25519Signer.generate()
    current = world.policy.current
    assert current is not None
    (ada,) = current.keyring.entries
    entry = dataclasses.replace(ada, keyid=bob.keyid, spki_der=bob.public_spki_der, owner="bob")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 1, (ada, entry)))
    digest = failing(world, await first(world, kube, bob))
    assert (await world.submit(world.item(CELL, digest))).accepted
    lost = dataclasses.replace(entry, state="compromised")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 2, (ada, lost)))
    await world.until(lambda: not world.receipts[-1].accepted)
    assert [one.code for one in world.receipts[-1].refusals] == ["cell/not-healthy", "document/no-valid-signature"]
    assert world.report(CELL).phase == "degraded"
    assert world.report(CELL).version == "1.1.0"


async def test_v11_what_the_failed_release_replaced_is_replaced_back(world: World, kube: FakeKube) -> None:
    """``replace: true`` allowed the way there, so it allows the way back."""
    good = world.release(cell_yaml(CELL))
    bad = world.release(cell_yaml(CELL, "1.1.0"), replace=True)
    digest = world.deployment(CELL, bad, fallback=good)
    assert (await world.submit(world.item(CELL, digest))).accepted
    intake = world.intake
    found = await intake.fallback(world.item(CELL, digest))
    assert found is not None
    assert found.release.digest == good
    assert found.replace
    assert not found.release.document.replace


async def test_v14_fallback_that_would_delete_what_stands_is_asked_about_before(world: World, kube: FakeKube) -> None:
    """On the way back nobody can confirm anything any more, and what goes then is more than the Deployment brought."""
    old = world.release(cell_yaml(CELL, "0.9.0"))
    many = "".join(service_yaml(f"p{number}") for number in range(6)) + service_yaml()
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", many), CELL)).accepted
    digest = failing(world, old, many.replace("web:1", "web:2"))
    receipt = await world.submit(world.item(CELL, digest))
    assert [one.code for one in receipt.refusals] == ["apply/prune-needs-confirmation"]
    assert receipt.refusals[0].reason.startswith("the fallback deletes 18 of")
    assert world.report(CELL).version == "1.0.0"
    digest = failing(world, old, many.replace("web:1", "web:2"), confirm_prune=18)
    assert (await world.submit(world.item(CELL, digest))).accepted
    await world.until(lambda: world.report(CELL).version == "0.9.0")
    await world.until(lambda: WEB._replace(name="p0") not in kube._objects)


async def test_v13_full_disk_does_not_block_the_fallback(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recovery: done, and its records are counted as lost."""
    digest = failing(world, await first(world, kube))
    assert (await world.submit(world.item(CELL, digest))).accepted

    async def full(*_: object, **__: object) -> int:
        raise FULL("the disk is full")

    for store, name in (("audit", "append"), ("inventory", "put"), ("blobs", "put")):
        monkeypatch.setattr(getattr(world.state, store), name, full)
    await back(world)
    assert kube._objects[WEB]["spec"]["replicas"] == 0
    assert world.recorder.lost > 0
    monkeypatch.undo()
    await world.until(lambda: world.receipts[-1].deployment_digest == digest and not world.receipts[-1].accepted)


# -- approvals ---------------------------------------------------------------------------------------------------------


async def test_v11_half_a_release_is_finished_by_the_approval_it_was_begun_with(world: World, kube: FakeKube) -> None:
    """The hub is gone and the approval has expired since: neither may leave it half applied for good."""
    needs_approval(world)
    await first(world, kube)

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref == ZOO:
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = refuse
    release = world.release(cell_yaml(CELL, "1.1.0", service_yaml() + service_yaml("zoo")))
    digest = world.deployment(CELL, release)
    item = world.item(CELL, digest, evidence=(world.approval(digest, seconds=2),))
    assert [one.code for one in (await world.submit(item)).refusals] == ["kube/quota"]
    world.hub.documents.clear()
    later = datetime.now(UTC) + timedelta(seconds=3)
    await world.until(lambda: datetime.now(UTC) > later)
    kube.on_request = None
    await world.until(lambda: ZOO in kube._objects)
    await world.until(lambda: world.receipts[-1].accepted)


async def test_v16_evidence_that_is_no_envelope_counts_for_none(world: World, kube: FakeKube) -> None:
    """A hub must not be able to have a deployment refused by junk beside it."""
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    junk = "sha256:" + "2" * 64
    world.hub.documents[junk] = b"\x00 not an envelope"
    receipt = await world.submit(world.item(CELL, digest, evidence=(junk,)))
    assert receipt.accepted, receipt.refusals
    assert WEB in kube._objects


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_v11_policy_is_asked_before_a_cell_ends(world: World, kube: FakeKube) -> None:
    """A tombstone is a change like any other: refused, it is on record and nothing goes; approved, it is done."""
    await first(world, kube)
    needs_approval(world)
    digest = world.tombstone(CELL, delete_data=True)
    receipt = await world.submit(world.item(CELL, digest))
    assert [(one.code, one.rule) for one in receipt.refusals] == [("policy/denied", "x/approval")]
    assert WEB in kube._objects
    floor = await world.state.floors.get("shop", CELL, "dev")
    assert floor is not None
    assert floor.digest != digest
    assert ("cell.decide", "deny", "x/approval") in {
        (one["action"], one["decision"], one["rule"]) for one in await world.records()
    }
    asked = world.policy.evaluator.asked[-1]
    assert (asked.operation, asked.objects, asked.deployment["deleteData"]) == ("remove", (), True)
    assert [one["signed"] for one in asked.signers] == ["tombstone"]
    item = world.item(CELL, digest, evidence=(world.approval(digest),))
    receipt = await world.submit(item)
    assert receipt.accepted, receipt.refusals
    await world.phase(CELL, "removed")
    assert WEB not in kube._objects


async def test_v8_accepted_tombstone_is_carried_out_although_the_policy_grew_old(world: World, kube: FakeKube) -> None:
    """The agent was killed between the floor and its own record of it: it is no new document any more."""
    await first(world, kube)
    digest = world.tombstone(CELL)
    item = world.item(CELL, digest)
    raised = world.state.floors.set

    async def die(*arguments: object) -> None:
        await raised(*arguments)  # type: ignore[arg-type]
        raise FULL("killed here")

    world.state.floors.set = die  # type: ignore[method-assign]
    await world.state.items.put(item)
    await world.engine.submit(item)
    await world.until(lambda: [r.code for r in world.report(CELL).refusals] == ["spool/full"])
    await world._stop()
    world.policy.stale = Staleness(100, 10, "keep")
    await world._start()
    await world.phase(CELL, "removed")
    assert WEB not in kube._objects
