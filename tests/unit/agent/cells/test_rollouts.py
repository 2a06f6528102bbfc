"""A rollout from accept to its end: applies that fail, outages meanwhile, newer items, and the way back (V11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_QUOTA
from agent.kube.interfaces import ObjectRef
from agent.spool.errors import FULL
from cellward.errors import CellwardError
from tests.fakes.cell_world import World, cell_yaml, chart_guards, service_yaml
from tests.fakes.clock import ShiftedClock
from tests.fakes.kube import FakeKube

CELL = "shop1"
WEB = ObjectRef("apps/v1", "Deployment", "shop--shop1--dev", "web")
EXTRA = WEB._replace(name="zoo")
JOB = ObjectRef("batch/v1", "Job", "shop--shop1--dev", "once")
NEWER = "registry.example/web:2"
DONE = {"conditions": [{"type": "Complete", "status": "True"}]}


def ready(kube: FakeKube, ref: ObjectRef, pods: int = 0) -> None:
    """Say of a Deployment what its controller would."""
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), pods)
    kube.set_status(ref, {"observedGeneration": 99, **counts})


async def first(world: World, kube: FakeKube) -> str:
    """Deploy 1.0.0 and wait until it is ready; return the digest of its release."""
    good = world.release(cell_yaml(CELL))
    assert (await world.submit(world.item(CELL, world.deployment(CELL, good)))).accepted
    ready(kube, WEB)
    await world.phase(CELL, "ready")
    return good


def second(world: World, fallback: str, components: str, seconds: int = 1, *, replace: bool = False) -> str:
    """Sign 1.1.0 with 1.0.0 as fallback; return the digest of its placement."""
    bad = world.release(cell_yaml(CELL, "1.1.0", components), replace=replace)
    return world.deployment(CELL, bad, fallback=fallback, rollout={"deadlineSeconds": seconds})


def failing(target: ObjectRef, error: Callable[[], CellwardError], times: int = 1_000_000) -> Callable[..., None]:
    """Return what refuses to apply one object for real, its dry run is fine."""
    left = [times]

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref == target and left[0]:
            left[0] -= 1
            raise error()

    return refuse


def image(kube: FakeKube, ref: ObjectRef = WEB) -> str:
    """Return the image an object runs."""
    found: str = kube._objects[ref]["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


# -- applies that fail -------------------------------------------------------------------------------------------------


async def test_v11_apply_that_fails_after_accept_goes_back_to_the_fallback(world: World, kube: FakeKube) -> None:
    """Every dry run was fine, then the quota is used up: neither half a release for ever, nor called accepted."""
    good = await first(world, kube)
    kube.on_request = failing(EXTRA, lambda: KUBE_QUOTA("exceeded quota"))
    digest = second(world, good, service_yaml(image=NEWER) + service_yaml("zoo"), 2)
    receipt = await world.submit(world.item(CELL, digest))
    assert [one.code for one in receipt.refusals] == ["kube/quota"]
    assert world.report(CELL).phase == "refused"
    assert image(kube) == NEWER
    await world.until(lambda: world.report(CELL).version == "1.0.0" and world.report(CELL).phase == "degraded")
    assert image(kube) == "registry.example/web:1"
    refusals = world.report(CELL).refusals
    assert refusals[0].code == "cell/not-healthy"
    assert "exceeded quota" in refusals[0].reason
    assert not world.receipts[-1].accepted


async def test_v11_apply_that_fails_after_accept_is_tried_again(world: World, kube: FakeKube) -> None:
    """Nobody has to send the item again, and nobody has to restart the agent."""
    await first(world, kube)
    kube.on_request = failing(EXTRA, lambda: KUBE_QUOTA("exceeded quota"), times=2)
    release = world.release(cell_yaml(CELL, "1.1.0", service_yaml(image=NEWER) + service_yaml("zoo")))
    assert not (await world.submit(world.item(CELL, world.deployment(CELL, release)))).accepted
    await world.until(lambda: EXTRA in kube._objects and world.receipts[-1].accepted)
    ready(kube, WEB)
    ready(kube, EXTRA)
    await world.phase(CELL, "ready")
    assert world.report(CELL).refusals == ()


async def test_v11_what_a_quota_refused_is_judged_again_when_more_of_it_is_free(world: World, kube: FakeKube) -> None:
    """Nobody sends the item again, and it does not take the minute after which anything is asked again."""
    await first(world, kube)
    quota: dict[str, Any] = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods", "namespace": WEB.namespace},
        "spec": {"hard": {"pods": "2"}},
    }  # fmt: skip
    await kube.apply(quota, manager="an admin")

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "dry-run" and ref == EXTRA and quota["spec"]["hard"] == {"pods": "2"}:
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = refuse
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0", service_yaml() + service_yaml("zoo")), CELL)
    assert [one.code for one in receipt.refusals] == ["kube/quota"]
    quota["spec"] = {"hard": {"pods": "9"}}
    await kube.apply(quota, manager="an admin")
    await world.until(lambda: EXTRA in kube._objects and world.receipts[-1].accepted, seconds=10)


async def test_v11_fallback_whose_own_apply_fails_is_finished(world: World, kube: FakeKube) -> None:
    """A refusal that nobody called passing must not leave a cell between two releases until the next restart."""
    good = await first(world, kube)
    assert (await world.submit(world.item(CELL, second(world, good, service_yaml(replicas=1))))).accepted
    kube.on_request = failing(WEB, lambda: KUBE_FORBIDDEN("not now", by="a webhook"), times=2)
    await world.until(lambda: world.report(CELL).version == "1.0.0" and world.report(CELL).phase == "degraded")
    assert (await kube.get(WEB))["spec"]["replicas"] == 0
    assert [one.code for one in world.report(CELL).refusals] == ["cell/not-healthy"]


async def test_rights_that_one_api_server_has_not_seen_yet_are_waited_for(world: World, kube: FakeKube) -> None:
    """The dry run went to a peer that had seen them."""
    kube.on_request = failing(WEB, lambda: KUBE_FORBIDDEN("forbidden", by="rbac"), times=3)
    receipt = await world.deploy(cell_yaml(CELL), CELL)
    assert receipt.accepted, receipt.refusals


async def test_v13_a_release_that_failed_is_not_called_accepted_when_it_is_listed_again(
    world: World, kube: FakeKube
) -> None:
    """There is nothing to go back to, so it stays; neither a newer revision nor a restart makes it well."""
    await first(world, kube)
    release = world.release(cell_yaml(CELL, "1.1.0", service_yaml(replicas=1)))
    digest = world.deployment(CELL, release, rollout={"deadlineSeconds": 1})
    assert (await world.submit(world.item(CELL, digest))).accepted
    await world.until(lambda: not world.receipts[-1].accepted)
    assert [one.code for one in (await world.submit(world.item(CELL, digest))).refusals] == ["cell/not-healthy"]
    await world._stop()
    await world._start()
    assert [one.code for one in (await world.submit(world.item(CELL, digest))).refusals] == ["cell/not-healthy"]


# -- time --------------------------------------------------------------------------------------------------------------


async def test_v1_outage_longer_than_the_deadline_fails_no_release(world: World, kube: FakeKube) -> None:
    """It became healthy while nobody could look: what nobody saw is not unhealthy."""
    good = await first(world, kube)
    assert (await world.submit(world.item(CELL, second(world, good, service_yaml(replicas=1))))).accepted
    kube.go_down()
    ready(kube, WEB, pods=1)
    await asyncio.sleep(1.5)
    kube.come_back()
    await world.phase(CELL, "ready")
    assert world.report(CELL).version == "1.1.0"
    assert "failed" not in {record["decision"] for record in await world.records()}


async def test_v1_agent_that_was_down_longer_than_the_deadline_fails_no_release(world: World, kube: FakeKube) -> None:
    """At its start it has seen nothing yet."""
    good = await first(world, kube)
    assert (await world.submit(world.item(CELL, second(world, good, service_yaml(replicas=1))))).accepted
    await world._stop()
    ready(kube, WEB, pods=1)
    await asyncio.sleep(1.5)
    await world._start()
    await world.phase(CELL, "ready")
    assert world.report(CELL).version == "1.1.0"
    assert "failed" not in {record["decision"] for record in await world.records()}


async def test_step_of_the_wall_clock_fails_no_release(tmp_path: Path, kube: FakeKube) -> None:
    """A virtual machine that was suspended wakes up an hour later, by its wall clock."""
    clock = ShiftedClock()
    async with World(tmp_path / "state", kube, chart_guards(), clock).running() as world:
        good = await first(world, kube)
        assert (await world.submit(world.item(CELL, second(world, good, service_yaml(replicas=1), 600)))).accepted
        clock.advance(900)
        world.engine.resync()
        await world.deploy(cell_yaml("other"), "other")
        assert world.report(CELL).phase == "progressing"
        ready(kube, WEB, pods=1)
        await world.phase(CELL, "ready")
        assert world.report(CELL).version == "1.1.0"


async def test_v13_full_spool_does_not_make_a_cell_spin(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a rollout is counted if it cannot be recorded: left open, what is long healthy could be taken back."""
    good = await first(world, kube)
    assert (await world.submit(world.item(CELL, second(world, good, service_yaml(replicas=1))))).accepted
    asked: list[None] = []

    async def full(*_: object, **__: object) -> int:
        asked.append(None)
        raise FULL("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(world.state.audit, "append", full)
        ready(kube, WEB, pods=1)
        await world.until(lambda: not world.engine._roster.workers[_key()].cell.record.rollout_started)
        assert 0 < len(asked) < 40
        assert await world.state.audit.lost() == 1
    await world.phase(CELL, "ready")
    saved = await world.state.inventory.get(f"shop--{CELL}--dev")
    assert saved is not None
    assert not saved["rollout_started"]


def _key() -> tuple[str, str, str]:
    return ("shop", CELL, "dev")


# -- newer items -------------------------------------------------------------------------------------------------------


async def test_v11_newer_item_that_is_refused_does_not_cancel_the_fallback(world: World, kube: FakeKube) -> None:
    """The failed release is what runs, whatever else was asked for."""
    good = await first(world, kube)
    digest = second(world, good, service_yaml(replicas=1))
    assert (await world.submit(world.item(CELL, digest))).accepted
    newer = world.release(cell_yaml(CELL, "1.2.0"), signer=world.stranger)
    assert not (await world.submit(world.item(CELL, world.deployment(CELL, newer)))).accepted
    await world.until(lambda: world.report(CELL).version == "1.0.0")
    await world.until(lambda: kube._objects[WEB]["spec"]["replicas"] == 0)
    await world.until(lambda: world.receipts[-1].deployment_digest == digest and not world.receipts[-1].accepted)
    codes = {one.code for one in world.report(CELL).refusals}
    assert codes == {"document/no-valid-signature", "cell/not-healthy"}


async def test_v16_newer_item_that_is_refused_does_not_strand_a_half_applied_one(world: World, kube: FakeKube) -> None:
    """What was accepted is finished, whatever became of the item after it."""
    await first(world, kube)
    kube.on_request = failing(EXTRA, lambda: KUBE_QUOTA("exceeded quota"))
    half = world.release(cell_yaml(CELL, "1.1.0", service_yaml(image=NEWER) + service_yaml("zoo")))
    assert not (await world.submit(world.item(CELL, world.deployment(CELL, half)))).accepted
    newer = world.release(cell_yaml(CELL, "1.2.0"), signer=world.stranger)
    assert not (await world.submit(world.item(CELL, world.deployment(CELL, newer)))).accepted
    kube.on_request = None
    await world.until(lambda: EXTRA in kube._objects)
    await world.until(lambda: world.engine._roster.workers[_key()].cell.record.settled)
    assert world.report(CELL).version == "1.1.0"
    assert [one.code for one in world.report(CELL).refusals] == ["document/no-valid-signature"]


# -- jobs --------------------------------------------------------------------------------------------------------------


def job(number: int) -> str:
    """Return a component that runs once."""
    return f"    once:\n      type: job\n      image: registry.example/once:{number}\n"


async def ran(world: World, kube: FakeKube) -> None:
    """Deploy a cell with a job, and let the job complete."""
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", job(1)), CELL)).accepted
    kube.set_status(JOB, DONE)
    await world.phase(CELL, "ready")


async def test_job_that_a_release_replaces_has_yet_to_run(world: World, kube: FakeKube) -> None:
    """The one before it completed; that says nothing about this one."""
    await ran(world, kube)
    before = (await kube.get(JOB))["metadata"]["uid"]
    await kube.delete(JOB)
    assert (await world.deploy(cell_yaml(CELL, "1.1.0", job(2)), CELL)).accepted
    assert (await kube.get(JOB))["metadata"]["uid"] != before
    assert world.report(CELL).phase == "progressing"
    kube.set_status(JOB, DONE)
    await world.phase(CELL, "ready")


async def test_job_that_went_is_not_run_once_more_as_it_was(world: World, kube: FakeKube) -> None:
    """Only the new one is written."""
    await ran(world, kube)
    await kube.delete(JOB)
    written = sum(request[:2] == ("apply", JOB) for request in kube.requests)
    assert (await world.deploy(cell_yaml(CELL, "1.1.0", job(2)), CELL)).accepted
    assert image(kube, JOB) == "registry.example/once:2"
    assert sum(request[:2] == ("apply", JOB) for request in kube.requests) == written + 1
