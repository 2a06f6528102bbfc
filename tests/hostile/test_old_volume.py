"""An old backup of the agent's volume is put back; asserted by what runs and what is open afterwards.

The copy of the floors and the audit chain's position in the cluster are of today; everything in the volume is not.
"""

from __future__ import annotations

import copy
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.kube.interfaces import JSONObject, ObjectRef, ref_of
from agent.spool.errors import FULL
from agent.spool.interfaces import Also
from agent.spool.state import ANCHOR_CONDITION, AnchorKeeper
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from tests.fakes.cell_world import Policy, World, cell_yaml, service_yaml
from tests.fakes.evaluator import FakeEvaluator
from tests.fakes.kube import FakeKube

CELL = "shop1"
KEY = CellKey("shop", CELL, "dev")
NAMESPACE = f"shop--{CELL}--dev"
WEB = ObjectRef("apps/v1", "Deployment", NAMESPACE, "web")
INSIDE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "allow-within-cell")


async def settle(world: World, kube: FakeKube, version: str) -> str:
    """Deploy a version and wait until it is healthy; return the digest of its Deployment."""
    release = world.release(cell_yaml(CELL, version, service_yaml(image=f"registry.example/web:{version}")))
    digest = world.deployment(CELL, release)
    receipt = await world.submit(world.item(CELL, digest))
    assert receipt.accepted, receipt.refusals
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.until(lambda: world.report(CELL).version == version and world.report(CELL).phase == "ready")
    return digest


def image_of(workload: JSONObject) -> str:
    """Return the version in the image of a workload."""
    return str(workload["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]


def image(kube: FakeKube) -> str:
    """Return which version runs, empty for none."""
    return image_of(kube._objects[WEB]) if WEB in kube._objects else ""


def is_open_policy(policy: JSONObject) -> bool:
    """Whether a NetworkPolicy lets anything through."""
    return bool(policy["spec"]["ingress"] or policy["spec"]["egress"])


def is_open(kube: FakeKube) -> bool:
    """Whether pods of the cell may talk to each other."""
    return is_open_policy(kube._objects[INSIDE])


async def back_up(world: World, place: Path) -> None:
    """Copy the volume of an agent that stands still, and start it again."""
    await world._stop()
    shutil.copytree(world.directory, place)
    await world._start()


def note_writes(kube: FakeKube) -> list[JSONObject]:
    """Return a list that gets every object that is written from now on, in order."""
    written: list[JSONObject] = []
    store = kube._store

    def noted(ref: ObjectRef, old: JSONObject | None, new: JSONObject, *, dry_run: bool = False) -> JSONObject:
        if not dry_run:
            written.append(copy.deepcopy(new))
        return store(ref, old, new, dry_run=dry_run)

    kube._store = noted  # type: ignore[method-assign]
    return written


async def put_back(world: World, kube: FakeKube, place: Path, *, killed: bool = False) -> list[JSONObject]:
    """Start the agent on the copy; return every object that is written from then on, in order.

    There is no policy at first, so that nothing can be verified: what happens then, the volume alone brings about. An
    agent that is ``killed`` has no time to save the chain's position once more.
    """
    if not killed:
        await AnchorKeeper(world.state, world.anchor, world.timer, world.health, 3600).save()
    await world._stop()
    shutil.rmtree(world.directory)
    shutil.copytree(place, world.directory)
    world.receipts.clear()
    written = note_writes(kube)
    policy, world.policy = world.policy, Policy(None, FakeEvaluator())
    await world._start()
    world.policy.current = policy.current
    return written


def versions(written: list[JSONObject]) -> set[str]:
    """Every version of the workload that was written, for however short."""
    return {image_of(one) for one in written if ref_of(one) == WEB}


async def codes(world: World, digest: str) -> list[str]:
    """Let the hub offer a document that is refused; return the codes."""
    receipt = await world.submit(world.item(CELL, digest))
    assert not receipt.accepted
    return [one.code for one in receipt.refusals]


async def test_v1_v14_old_volume_does_not_bring_an_older_release_back(
    world: World, kube: FakeKube, tmp_path: Path
) -> None:
    """Not by drift repair, not by a hub that offers it again; what ran goes on, and is taken up when it is named."""
    first = await settle(world, kube, "1.0.0")
    await back_up(world, tmp_path / "backup")
    newest = await settle(world, kube, "3.0.0")
    written = await put_back(world, kube, tmp_path / "backup")
    assert await codes(world, first) == ["document/older-sequence"]
    assert image(kube) == "3.0.0"
    assert (await world.submit(world.item(CELL, newest))).accepted
    await world.phase(CELL, "ready")
    assert world.report(CELL).version == "3.0.0"
    assert versions(written) <= {"3.0.0"}
    assert world.state.epoch == 2, "it is a finding, which begins a new epoch"


async def test_v1_v14_old_volume_does_not_rebuild_a_cell_that_ended(
    world: World, kube: FakeKube, tmp_path: Path
) -> None:
    """A tombstone took its data and its namespace; an old record of it brings neither back."""
    first = await settle(world, kube, "1.0.0")
    await back_up(world, tmp_path / "backup")
    assert (await world.submit(world.item(CELL, world.tombstone(CELL, delete_data=True)))).accepted
    written = await put_back(world, kube, tmp_path / "backup")
    assert await codes(world, first) == ["document/older-sequence"]
    assert [ref_of(one) for one in written if NAMESPACE in {ref_of(one).name, ref_of(one).namespace}] == []
    assert image(kube) == ""


async def test_v4_old_volume_does_not_open_a_quarantined_cell(world: World, kube: FakeKube, tmp_path: Path) -> None:
    """Quarantine raises no floor: the position of the chain alone says that the volume is old."""
    first = await settle(world, kube, "1.0.0")
    await back_up(world, tmp_path / "backup")
    closing = world.item(CELL, first, hub_state="quarantine")
    await world.state.items.put(closing)
    await world.engine.submit(closing)
    await world.until(lambda: not is_open(kube) and world.report(CELL).phase == "held")
    written = await put_back(world, kube, tmp_path / "backup")
    assert not is_open(kube)
    # The first turn of the cell begins with whatever its record wants repaired.
    again = world.item(CELL, first, hub_state="quarantine")
    await world.engine.submit(again)
    await world.phase(CELL, "held")
    assert not any(is_open_policy(one) for one in written if ref_of(one) == INSIDE)
    assert not is_open(kube)


async def _quarantine(world: World, kube: FakeKube, digest: str) -> None:
    closing = world.item(CELL, digest, hub_state="quarantine")
    await world.engine.submit(closing)
    await world.until(lambda: not is_open(kube) and world.report(CELL).phase == "held")


async def _stays_closed(world: World, kube: FakeKube, written: list[JSONObject], digest: str) -> None:
    """The cell takes a turn, which begins with whatever its record wants repaired, and nothing opens."""
    await _quarantine(world, kube, digest)
    assert not any(is_open_policy(one) for one in written if ref_of(one) == INSIDE)
    assert world.state.epoch == 2, "it is a finding, which begins a new epoch"


async def test_v4_v13_old_volume_opens_nothing_that_was_closed_while_the_spool_was_full(
    world: World, kube: FakeKube, tmp_path: Path
) -> None:
    """The quarantine could only be counted, so that the chain's position did not move."""
    first = await settle(world, kube, "1.0.0")
    await back_up(world, tmp_path / "backup")
    before = (await world.state.audit.head()).seq
    world.state.audit._max_bytes = 0
    await _quarantine(world, kube, first)
    assert (await world.state.audit.head()).seq == before
    await _stays_closed(world, kube, await put_back(world, kube, tmp_path / "backup"), first)


async def test_v4_old_volume_opens_nothing_when_the_node_died_after_the_quarantine(
    world: World, kube: FakeKube, tmp_path: Path
) -> None:
    """Closing itself has it known outside the volume; the anchor's next turn never comes."""
    first = await settle(world, kube, "1.0.0")
    await AnchorKeeper(world.state, world.anchor, world.timer, world.health, 3600).save()
    await back_up(world, tmp_path / "backup")
    await _quarantine(world, kube, first)
    await _stays_closed(world, kube, await put_back(world, kube, tmp_path / "backup", killed=True), first)


async def test_v4_v13_what_was_closed_on_a_full_disk_is_closed_after_a_restart(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume itself is the old one: it had no room for the record of the closing."""

    def no_room(_: str, __: object) -> Also:
        def job(_: object) -> None:
            raise FULL("no room")

        return job

    first = await settle(world, kube, "1.0.0")
    monkeypatch.setattr(world.state.inventory, "putting", no_room)
    await world.engine.submit(world.item(CELL, first, hub_state="quarantine"))
    await world.until(lambda: not is_open(kube))
    written = note_writes(kube)
    await world.restart_without_anything(lambda: None)
    await _stays_closed(world, kube, written, first)


async def test_v4_v16_an_anchor_that_cannot_be_written_does_not_stop_the_narrowing(
    world: World, kube: FakeKube
) -> None:
    """It is a condition, and the count is in the anchor as soon as there is one again."""
    first = await settle(world, kube, "1.0.0")
    world.anchor.error = OSError("connection refused")
    await _quarantine(world, kube, first)
    assert [one.ok for one in world.health.get() if one.name == ANCHOR_CONDITION] == [False]
    world.anchor.error = None
    assert world.anchor.state is not None
    assert world.anchor.state.closings == 0
    await AnchorKeeper(world.state, world.anchor, world.timer, world.health, 3600).save()
    assert world.anchor.state.closings == 1


async def test_v1_an_old_record_of_its_own_gets_no_accepting_receipt(world: World, kube: FakeKube) -> None:
    """What is on record is below the floor, however that came about: an offer of it is not what was accepted last."""
    first = await settle(world, kube, "1.0.0")
    await world.state.floors.set(*KEY, Floor(world.sequence + 5, "sha256:" + "9" * 64, datetime.now(UTC)))
    assert await codes(world, first) == ["document/older-sequence"]
