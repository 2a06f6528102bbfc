"""What is revoked by signature holds, whatever a stolen hub says; asserted by what runs and what is open afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.kube.errors import KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from cellward.documents.revocations import Revocations, SignedLock, SignedQuarantine
from tests.fakes.cell_world import REALM, World, cell_yaml, chart_guards
from tests.fakes.kube import FakeKube

CELL = "shop1"
NAMESPACE = f"shop--{CELL}--dev"
WEB = ObjectRef("apps/v1", "Deployment", NAMESPACE, "web")
INSIDE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "allow-within-cell")
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def revoke(world: World, **revoked: object) -> None:
    """Let another signed set be in force, as the agent's policy tells it."""
    found = Revocations(REALM, **revoked)  # type: ignore[arg-type]
    current = world.policy.current
    assert current is not None
    keyring = found.narrow(current.keyring)
    world.policy.current = replace(current, revocations=found, keyring=keyring, snapshot_version=2)
    world.engine.reconsider()


def lock(kind: str, subject: str) -> SignedLock:
    """A lock."""
    return SignedLock(kind, subject, "stolen", NOW)  # type: ignore[arg-type]


def quarantined(cell: str = CELL) -> SignedQuarantine:
    """A quarantine of one cell."""
    return SignedQuarantine("shop", cell, "dev", "it talks to strangers", NOW)


def is_open(kube: FakeKube) -> bool:
    """Whether pods of the cell may talk to each other."""
    spec = kube._objects[INSIDE]["spec"]
    return bool(spec["ingress"] or spec["egress"])


def open_policies(kube: FakeKube) -> list[str]:
    """Every policy of the cell that lets anything through."""
    policies = {ref.name: one["spec"] for ref, one in kube._objects.items() if ref.kind == "NetworkPolicy"}
    return [name for name, spec in policies.items() if spec["ingress"] or spec["egress"]]


async def deployed(world: World, kube: FakeKube) -> str:
    """A cell that runs."""
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    receipt = await world.submit(world.item(CELL, digest))
    assert receipt.accepted, receipt.refusals
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    assert is_open(kube)
    return digest


async def test_a_hub_cannot_lift_a_signed_quarantine(world: World, kube: FakeKube) -> None:
    """It closes without the hub's word, stays closed through every run, and opens by a signed set alone."""
    digest = await deployed(world, kube)
    revoke(world, quarantines=(quarantined(),))
    await world.until(lambda: not is_open(kube))
    for _ in range(3):
        await world.engine.submit(world.item(CELL, digest))
        await world.phase(CELL, "held")
        assert not is_open(kube)
    newer = world.deployment(CELL, world.release(cell_yaml(CELL).replace("1.0", "1.1")))
    await world.engine.submit(world.item(CELL, newer))
    await world.phase(CELL, "held")
    assert not is_open(kube)
    revoke(world)
    await world.until(lambda: is_open(kube))


async def test_a_signed_quarantine_outlives_a_restart_without_a_set(tmp_path: Path, kube: FakeKube) -> None:
    """Whoever damages the set on disk opens nothing: what is not known is not lifted."""
    world = World(tmp_path / "state", kube, chart_guards())
    async with world.running():
        digest = await deployed(world, kube)
        revoke(world, quarantines=(quarantined(),))
        # Closed first, on record then: an agent ended in between closes it again by the set, which is gone below.
        await world.phase(CELL, "held")
        assert not is_open(kube)
    kept, world.policy.current = world.policy.current, None
    async with world.running():
        await world.engine.submit(world.item(CELL, digest))
        await world.phase(CELL, "held")
        assert not is_open(kube)
        world.policy.current = kept
        world.engine.reconsider()
        await world.phase(CELL, "held")
        assert not is_open(kube)


async def test_a_quarantine_that_came_while_the_agent_was_down_closes(tmp_path: Path, kube: FakeKube) -> None:
    """Also when no hub names the cell any more."""
    world = World(tmp_path / "state", kube, chart_guards())
    async with world.running():
        await deployed(world, kube)
    current = world.policy.current
    assert current is not None
    world.policy.current = replace(current, revocations=Revocations(REALM, quarantines=(quarantined(),)))
    async with world.running():
        await world.until(lambda: not is_open(kube))


@pytest.mark.parametrize("kind", ["agent", "cluster"])
async def test_a_locked_cluster_takes_nothing_new_and_goes_on_repairing(
    world: World, kube: FakeKube, kind: str
) -> None:
    """A hub that delivers on is refused with the reason; what runs is repaired; another cluster's lock is not ours."""
    digest = await deployed(world, kube)
    other = "us-1" if kind == "cluster" else "22222222-2222-4222-8222-222222222222"
    revoke(world, locks=(lock(kind, other),))
    assert (await world.submit(world.item(CELL, digest))).accepted
    subject = world.facts.name if kind == "cluster" else world.facts.uid
    revoke(world, locks=(lock(kind, subject),))
    for document in (
        world.deployment(CELL, world.release(cell_yaml(CELL).replace("1.0", "1.1"))), world.tombstone(CELL),
    ):  # fmt: skip
        receipt = await world.submit(world.item(CELL, document))
        assert [refusal.code for refusal in receipt.refusals] == ["apply/locked"]
        assert "stolen" in receipt.refusals[0].reason
    running = kube._objects[WEB]["spec"]["template"]
    await kube.delete(WEB)
    await world.until(lambda: WEB in kube._objects)
    assert kube._objects[WEB]["spec"]["template"] == running
    revoke(world)
    later = world.deployment(CELL, world.release(cell_yaml(CELL).replace("1.0", "1.2")))
    assert (await world.submit(world.item(CELL, later))).accepted


async def test_a_locked_author_key_signs_nothing(world: World, kube: FakeKube) -> None:
    """A key is cut off by a lock alone, without a new keyring: nothing new by it is taken."""
    await deployed(world, kube)
    revoke(world, locks=(lock("key", world.author.keyid),))
    newer = world.deployment(CELL, world.release(cell_yaml(CELL).replace("1.0", "1.1")))
    receipt = await world.submit(world.item(CELL, newer))
    assert [refusal.code for refusal in receipt.refusals] == ["document/no-valid-signature"]
    assert "compromised" in receipt.refusals[0].reason


@pytest.mark.parametrize("written", [0, 1], ids=["before-the-first-write", "after-the-first-write"])
async def test_v4_an_agent_killed_while_it_closes_a_cell_closes_it_all_the_same(
    world: World, kube: FakeKube, tmp_path: Path, written: int
) -> None:
    """V1, V4: at its next start, with neither hub nor policy; drift repair does not open what was closed already."""
    await deployed(world, kube)
    asked, killed = 0, tmp_path / "killed"

    def die(verb: str, ref: ObjectRef, user: str | None) -> None:
        nonlocal asked
        del user
        if verb not in {"apply", "patch_json"} or (ref.kind != "NetworkPolicy" and not killed.exists()):
            return
        asked += 1
        if asked > written:
            if not killed.exists():
                shutil.copytree(world.directory, killed)
            raise KUBE_UNAVAILABLE("the process is gone")

    kube.on_request = die
    revoke(world, quarantines=(quarantined(),))
    await world.until(killed.exists)

    def put_back() -> None:
        shutil.rmtree(world.directory)
        shutil.copytree(killed, world.directory)
        kube.on_request = None
        assert open_policies(kube), "it was killed too late to show anything"

    await world.restart_without_anything(put_back)
    await world.until(lambda: not open_policies(kube))


async def test_v11_what_was_held_before_it_ever_ran_runs_once_the_signature_is_gone(
    world: World, kube: FakeKube
) -> None:
    """Nothing of it was there to be isolated; nobody has to send it again."""
    revoke(world, quarantines=(quarantined(),))
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    await world.engine.submit(world.item(CELL, digest))
    await world.phase(CELL, "held")
    revoke(world)
    await world.until(lambda: any(one.accepted for one in world.receipts), seconds=10)
    assert WEB in kube._objects
