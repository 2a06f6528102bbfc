"""What a hub with every document there ever was, or somebody with an old or far number, can make run."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta

from agent.kube.errors import KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from agent.spool.interfaces import FloorsCopy
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.documents.model import PREVIOUS
from cellward.documents.numbers import milliseconds
from cellward.documents.revocations import Revocations
from tests.fakes.cell_world import REALM, World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
WEB = ObjectRef("apps/v1", "Deployment", f"shop--{CELL}--dev", "web")


def release(world: World, version: str, replicas: int = 0, signer: Ed25519Signer | None = None) -> str:
    """Sign a release whose image says which it is; with a replica it never becomes healthy here."""
    text = service_yaml(image=f"registry.example/web:{version}", replicas=replicas)
    return world.release(cell_yaml(CELL, version, text), signer=signer)


def image(kube: FakeKube) -> str:
    """Return which version runs."""
    containers = kube._objects[WEB]["spec"]["template"]["spec"]["containers"]
    return str(containers[0]["image"]).rpartition(":")[2]


async def settle(world: World, kube: FakeKube, version: str, **changes: object) -> str:
    """Deploy a version and wait until it is healthy; return the digest of its release."""
    digest = release(world, version)
    receipt = await world.submit(world.item(CELL, world.deployment(CELL, digest, **changes)))
    assert receipt.accepted, receipt.refusals
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.until(lambda: world.report(CELL).version == version and world.report(CELL).phase == "ready")
    return digest


async def refusal(world: World, deployment: str) -> list[str]:
    """Hand over a Deployment that is refused; return the codes."""
    receipt = await world.submit(world.item(CELL, deployment))
    assert not receipt.accepted
    return [one.code for one in receipt.refusals]


# -- order -------------------------------------------------------------------------------------------------------------


async def test_higher_number_does_not_bring_older_content_back(world: World, kube: FakeKube) -> None:
    """An author without memory, or a thief, numbers 1.0 above 2.0: what was issued before is not newer."""
    old = release(world, "1.0.0")
    await settle(world, kube, "2.0.0")
    before = datetime.now(UTC) - timedelta(minutes=1)
    assert await refusal(world, world.deployment(CELL, old, issued_at=before)) == ["document/issued-before"]
    assert image(kube) == "2.0.0"
    assert (await world.submit(world.item(CELL, world.deployment(CELL, old)))).accepted
    assert image(kube) == "1.0.0"


async def test_older_tombstone_does_not_end_a_newer_cell(world: World, kube: FakeKube) -> None:
    """The envelope of a removal that was called off, with whatever number, ends nothing issued later."""
    world.sequence += 100
    stone = world.tombstone(CELL, delete_data=True)
    world.sequence = 500
    ahead = datetime.now(UTC) + timedelta(minutes=1)
    await settle(world, kube, "2.0.0", issued_at=ahead)
    world.sequence = 900
    later = world.tombstone(CELL, delete_data=True)
    assert await refusal(world, stone) == ["document/older-sequence"]
    assert await refusal(world, later) == ["document/issued-before"]
    assert image(kube) == "2.0.0"


async def test_number_far_ahead_sets_no_floor(world: World, kube: FakeKube) -> None:
    """The highest number there is would end a cell's updates for good; nothing of it is accepted."""
    await settle(world, kube, "1.0.0")
    bound = milliseconds(world.timer.now()) + 600_000
    for number in (2**53 - 1, bound + 60_000):
        far = world.deployment(CELL, release(world, "6.6.6"), sequence=number)
        assert await refusal(world, far) == ["document/number-ahead"]
    assert image(kube) == "1.0.0"
    await settle(world, kube, "1.1.0", sequence=milliseconds(world.timer.now()))
    assert image(kube) == "1.1.0"


async def test_equal_number_is_refused_and_a_finding(world: World, kube: FakeKube) -> None:
    """Two documents with one number: the first stays, and it is on record."""
    number = milliseconds(world.timer.now())
    await settle(world, kube, "1.0.0", sequence=number)
    twin = world.deployment(CELL, release(world, "6.6.6"), sequence=number)
    assert await refusal(world, twin) == ["document/equal-sequence-other-digest"]
    assert image(kube) == "1.0.0"
    assert any(
        one["decision"] == "finding" and one["code"].startswith("document/equal") for one in await world.records()
    )


async def test_v1_lost_volume_does_not_bring_older_content_back(world: World, kube: FakeKube) -> None:
    """The hub kept every Deployment there ever was, each still good; the floors are in the cluster as well."""
    first = world.deployment(CELL, release(world, "1.0.0"))
    assert (await world.submit(world.item(CELL, first))).accepted
    await settle(world, kube, "3.0.0")
    await world._stop()
    shutil.rmtree(world.directory)
    world.receipts.clear()
    await world._start()
    assert await refusal(world, first) == ["document/older-sequence"]
    assert image(kube) == "3.0.0"
    assert "spool/state-missing" in {one["code"] for one in await world.records()}
    await settle(world, kube, "3.1.0")
    assert image(kube) == "3.1.0"


async def test_v1_nothing_runs_before_its_floor_is_kept_twice(world: World, kube: FakeKube) -> None:
    """While the place of the copy does not answer nothing new is applied: a kill then would leave a window."""
    await settle(world, kube, "1.0.0")
    world.anchor.error = KUBE_UNAVAILABLE("the API server does not answer")
    item = world.item(CELL, world.deployment(CELL, release(world, "2.0.0")))
    await world.state.items.put(item)
    await world.engine.submit(item)
    await world.until(lambda: any(one.code == "kube/unavailable" for one in world.report(CELL).refusals))
    assert image(kube) == "1.0.0"
    world.anchor.error = None
    await world.until(lambda: image(kube) == "2.0.0")


async def test_v1_restored_volume_and_emptied_copy_do_not_add_up(world: World, kube: FakeKube) -> None:
    """Each was lost at another time: what either of them still knows holds, and both losses are on record."""
    first = world.deployment(CELL, release(world, "1.0.0"))
    assert (await world.submit(world.item(CELL, first))).accepted
    await settle(world, kube, "3.0.0")
    await world._stop()
    assert world.anchor.state is not None
    world.anchor.state = dataclasses.replace(world.anchor.state, floors=FloorsCopy())
    world.receipts.clear()
    await world._start()
    assert await refusal(world, first) == ["document/older-sequence"]
    assert world.state.epoch == 2, "what was found begins a new epoch"
    await world._stop()
    shutil.rmtree(world.directory)
    await world._start()
    assert await refusal(world, first) == ["document/older-sequence"]
    assert image(kube) == "3.0.0"


async def test_first_contact_takes_nothing_from_before_the_signed_minimum(world: World, kube: FakeKube) -> None:
    """Volume and copy are both gone: what the security team signed bounds how far back a hub may reach."""
    first = world.deployment(CELL, release(world, "1.0.0"))
    await settle(world, kube, "2.0.0")
    await world._stop()
    shutil.rmtree(world.directory)
    world.anchor.state = None
    world.receipts.clear()
    current = world.policy.current
    assert current is not None

    def bound(**hours: float) -> None:
        minimum = {name: datetime.now(UTC) + timedelta(hours=value) for name, value in hours.items()}
        minimum["*"] = minimum.pop("every")
        revocations = Revocations(REALM, minimum_issued_at=minimum)
        world.policy.current = dataclasses.replace(current, revocations=revocations)

    bound(every=-1, shop=1)
    await world._start()
    assert await refusal(world, first) == ["document/below-minimum"]
    assert await refusal(world, world.tombstone(CELL, delete_data=True)) == ["document/below-minimum"]
    assert image(kube) == "2.0.0"
    bound(every=-1, other=1)
    await settle(world, kube, "2.1.0")
    bound(every=1)
    await settle(world, kube, "2.2.0")
    assert image(kube) == "2.2.0", "where there is a floor, the floor decides"


# -- the way back ------------------------------------------------------------------------------------------------------


def failing(world: World, version: str = "3.0.0", **changes: object) -> str:
    """Place a release that never becomes healthy."""
    bad = release(world, version, replicas=1)
    return world.deployment(CELL, bad, **{"fallback": PREVIOUS, "rollout": {"deadlineSeconds": 1}, **changes})


async def test_hub_does_not_choose_where_a_failed_rollout_goes(world: World, kube: FakeKube) -> None:
    """It showed the author 1.0 as newest; the agent knows that 2.0 was healthy last, whatever is shown."""
    await settle(world, kube, "1.0.0")
    settled = await settle(world, kube, "2.0.0")
    assert (await world.submit(world.item(CELL, failing(world)))).accepted
    world.hub.documents.clear()
    await world.until(lambda: image(kube) == "2.0.0")
    await world.until(lambda: world.report(CELL).phase == "degraded")
    assert world.report(CELL).release_digest == settled


async def test_a_release_is_no_way_back_from_itself(world: World, kube: FakeKube) -> None:
    """What was settled last is the very release that is deployed again: when it fails now, there is nowhere to go."""
    same = await settle(world, kube, "1.0.0", fallback=PREVIOUS)
    again = world.item(CELL, world.deployment(CELL, same, fallback=PREVIOUS))
    assert (await world.submit(again)).accepted
    assert await world.intake.fallback(again) is None


async def test_way_back_survives_a_restart_without_the_hub(world: World, kube: FakeKube) -> None:
    """It is decided and kept when the Deployment is accepted, not when it is needed."""
    await settle(world, kube, "1.0.0")
    await settle(world, kube, "2.0.0")
    digest = failing(world, rollout={"deadlineSeconds": 3})
    assert (await world.submit(world.item(CELL, digest))).accepted
    await world._stop()
    world.hub.documents.clear()
    await world._start()
    await world.until(lambda: image(kube) == "2.0.0")


async def test_what_never_became_healthy_is_no_way_back(world: World, kube: FakeKube) -> None:
    """A release that a hub let be accepted for a moment is not what a later one returns to."""
    await settle(world, kube, "1.0.0")
    assert (await world.submit(world.item(CELL, failing(world, "2.0.0", rollout={"deadlineSeconds": 60})))).accepted
    assert image(kube) == "2.0.0"
    assert (await world.submit(world.item(CELL, failing(world)))).accepted
    await world.until(lambda: image(kube) == "1.0.0")


async def test_first_deployment_goes_nowhere(world: World, kube: FakeKube) -> None:
    """Nothing was healthy before it, here; what the hub holds of the cell is no way back."""
    release(world, "1.0.0")
    assert (await world.submit(world.item(CELL, failing(world)))).accepted
    await world.phase(CELL, "degraded")
    assert image(kube) == "3.0.0"
    assert (await world.submit(world.item(CELL, failing(world, "3.1.0")))).accepted
    await world.until(lambda: world.report(CELL).version == "3.1.0" and world.report(CELL).phase == "degraded")
    assert image(kube) == "3.1.0", "what failed before is no way back either"


async def test_cell_that_ended_has_no_way_back(world: World, kube: FakeKube) -> None:
    """An end is an end: what ran before it comes back by a Deployment that names it, not by a failure."""
    await settle(world, kube, "1.0.0")
    assert (await world.submit(world.item(CELL, world.tombstone(CELL)))).accepted
    await world.phase(CELL, "removed")
    assert (await world.submit(world.item(CELL, failing(world)))).accepted
    await world.phase(CELL, "degraded")
    assert image(kube) == "3.0.0"


# -- who signed --------------------------------------------------------------------------------------------------------


async def test_release_of_a_retired_signer_may_be_named_one_of_a_compromised_may_not(
    world: World, kube: FakeKube
) -> None:
    """Who left did good work; what a thief may have signed is not brought back by naming it."""
    current = world.policy.current
    assert current is not None
    (ada,) = current.keyring.entries
    bob = Ed25519Signer.generate()
    entry = dataclasses.replace(ada, keyid=bob.keyid, spki_der=bob.public_spki_der, owner="bob")

    def publish(state: str) -> None:
        changed = dataclasses.replace(entry, state=state)  # type: ignore[arg-type]
        world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 2, (ada, changed)))

    publish("retired")
    named = release(world, "1.0.0", signer=bob)
    assert await refusal(world, world.deployment(CELL, named, signer=bob)) == ["document/no-valid-signature"]
    assert (await world.submit(world.item(CELL, world.deployment(CELL, named)))).accepted
    assert image(kube) == "1.0.0"
    await settle(world, kube, "1.1.0")
    publish("compromised")
    assert await refusal(world, world.deployment(CELL, named)) == ["document/no-valid-signature"]
    again = world.deployment(CELL, release(world, "1.2.0"), fallback=named)
    assert await refusal(world, again) == ["document/no-valid-signature"]
    assert image(kube) == "1.1.0"


async def test_fix_after_a_theft_is_not_held_up_by_what_it_replaces(world: World, kube: FakeKube) -> None:
    """What is healthy was signed by a key that is compromised now: the fix goes in, and has no way back to it."""
    current = world.policy.current
    assert current is not None
    (ada,) = current.keyring.entries
    bob = Ed25519Signer.generate()
    entry = dataclasses.replace(ada, keyid=bob.keyid, spki_der=bob.public_spki_der, owner="bob")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 2, (ada, entry)))
    stolen = release(world, "1.0.0", signer=bob)
    assert (await world.submit(world.item(CELL, world.deployment(CELL, stolen)))).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    lost = dataclasses.replace(entry, state="compromised")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 3, (ada, lost)))
    assert (await world.submit(world.item(CELL, failing(world)))).accepted
    await world.phase(CELL, "degraded")
    assert image(kube) == "3.0.0"
