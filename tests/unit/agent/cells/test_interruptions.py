"""The agent is killed between a write on the cluster and the record of it: what it wrote stays its own (V1, V11)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from agent.kube.errors import KUBE_QUOTA
from agent.kube.interfaces import ObjectRef
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
WEB = ObjectRef("apps/v1", "Deployment", "shop--shop1--dev", "web")
ZOO = WEB._replace(name="zoo")
EDGE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", "shop--shop1--dev", "endpoint.api")


async def killed_after(world: World, kube: FakeKube, target: ObjectRef, item: DesiredItem) -> None:
    """Hand over an item; once the object is written nothing is saved any more, and the agent is gone."""
    put, begun, hung = world.state.inventory.put, len(kube.requests), asyncio.Event()

    async def put_or_die(namespace: str, value: Any) -> None:
        if any(request[:2] == ("apply", target) for request in kube.requests[begun:]):
            hung.set()
            await asyncio.Event().wait()
        await put(namespace, value)

    world.state.inventory.put = put_or_die  # type: ignore[method-assign]
    await world.state.items.put(item)
    await world.engine.submit(item)
    await asyncio.wait_for(hung.wait(), 20)


async def test_v11_apply_of_a_killed_agent_is_finished_at_its_next_start(world: World, kube: FakeKube) -> None:
    """Also when somebody changed meanwhile what was written: it is our own object, and no conflict."""
    item = world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL))))
    await killed_after(world, kube, WEB, item)
    await world._stop()
    await kube.patch_json(WEB, [{"op": "replace", "path": "/spec/replicas", "value": 7}], manager="them")
    await world._start()
    await world.until(lambda: any(one.accepted for one in world.receipts))
    assert (await kube.get(WEB))["spec"]["replicas"] == 0


async def test_v11_what_a_killed_agent_wrote_ends_with_the_cell(world: World, kube: FakeKube) -> None:
    """A tombstone must not leave pods that nobody owns."""
    await killed_after(world, kube, WEB, world.item(CELL, world.deployment(CELL, world.release(cell_yaml(CELL)))))
    await world.state.items.put(world.item(CELL, world.tombstone(CELL)))
    await world._stop()
    assert WEB in kube._objects
    await world._start()
    await world.phase(CELL, "removed")
    assert WEB not in kube._objects


async def test_v16_object_of_somebody_else_is_not_pruned(world: World, kube: FakeKube) -> None:
    """What we meant to make and never made, somebody else made since: the name alone does not make it ours."""
    assert (await world.deploy(cell_yaml(CELL), CELL)).accepted

    def no_zoo(verb: str, ref: ObjectRef, user: str | None) -> None:
        if verb == "apply" and ref == ZOO and user is not None:
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = no_zoo
    assert not (await world.deploy(cell_yaml(CELL, "1.1.0", service_yaml() + service_yaml("zoo")), CELL)).accepted
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3},
              "metadata": {"name": "zoo", "namespace": "shop--shop1--dev"}}  # fmt: skip
    await kube.apply(theirs, manager="them")
    receipt = await world.deploy(cell_yaml(CELL, "1.2.0"), CELL)
    assert receipt.accepted, receipt.refusals
    assert (await kube.get(ZOO))["spec"] == {"replicas": 3}


async def test_v10_policy_that_is_no_longer_released_goes_before_anything_new_runs(
    world: World, kube: FakeKube
) -> None:
    """Else the new pods are open for a while to whom only the old ones were."""
    wide = service_yaml() + "  endpoints: {api: {component: web, port: http, visibility: organization}}\n"
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", wide), CELL)).accepted
    assert EDGE in kube._objects
    begun = len(kube.requests)
    closed = cell_yaml(CELL, "1.1.0", service_yaml(image="registry.example/web:2"))
    assert (await world.deploy(closed, CELL)).accepted
    order = [request[:2] for request in kube.requests[begun:]]
    assert order.index(("delete", EDGE)) < order.index(("apply", WEB))
    assert EDGE not in kube._objects


async def test_v14_a_release_after_an_interrupted_one_needs_no_confirmation(world: World, kube: FakeKube) -> None:
    """What was half applied was never in force: to go back from it deletes nothing that was released."""
    assert (await world.deploy(cell_yaml(CELL), CELL)).accepted
    more = service_yaml() + "".join(service_yaml(f"part{number}") for number in range(4)) + service_yaml("zoo")

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref == ZOO:
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = refuse
    assert not (await world.deploy(cell_yaml(CELL, "1.1.0", more), CELL)).accepted
    part = WEB._replace(name="part3")
    assert part in kube._objects
    assert (await world.deploy(cell_yaml(CELL, "1.2.0"), CELL)).accepted
    assert part not in kube._objects
    # What was in force is counted as ever.
    kube.on_request = None
    assert (await world.deploy(cell_yaml(CELL, "1.3.0", more), CELL)).accepted
    (refusal,) = (await world.deploy(cell_yaml(CELL, "1.4.0"), CELL)).refusals
    assert refusal.code == "apply/prune-needs-confirmation"


async def _kept(world: World) -> set[str]:
    return {digest for digest in world.hub.documents if await world.state.blobs.get(digest) is not None}


async def test_v13_superseded_documents_are_dropped_while_the_agent_runs(world: World, kube: FakeKube) -> None:
    """Ten releases of a cell take the room of two: what is in force, and what became healthy last."""
    first = world.release(cell_yaml(CELL))
    assert (await world.submit(world.item(CELL, world.deployment(CELL, first)))).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    for number in range(1, 10):
        release = world.release(cell_yaml(CELL, f"1.{number}.0", service_yaml(replicas=number)))
        digest = world.deployment(CELL, release)
        assert (await world.submit(world.item(CELL, digest))).accepted
    await world.until(lambda: world.report(CELL).deployment_digest == digest)
    await _becomes(world, {first, release, digest})
    kube.set_status(WEB, {"observedGeneration": 99, "replicas": 9, "updatedReplicas": 9, "availableReplicas": 9})
    await world.phase(CELL, "ready")
    await _becomes(world, {release, digest})


async def _becomes(world: World, wanted: set[str]) -> None:
    async with asyncio.timeout(10):
        while await _kept(world) != wanted:
            await asyncio.sleep(0.01)


async def test_v13_a_document_that_another_cell_needs_is_kept(world: World, kube: FakeKube) -> None:
    """One release in two environments has one digest."""
    world.facts = replace(world.facts, environments=("dev", "qa"))
    shared = world.release(cell_yaml(CELL))
    both = world.deployment(CELL, shared, environments=("dev", "qa"))
    assert (await world.submit(world.item(CELL, both))).accepted
    assert (await world.submit(replace(world.item(CELL, both), environment="qa"))).accepted
    newer = world.release(cell_yaml(CELL, "1.1.0"))
    digest = world.deployment(CELL, newer)
    assert (await world.submit(world.item(CELL, digest))).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.until(lambda: _settled(world, "dev") == newer)
    await _becomes(world, {shared, both, newer, digest})


def _settled(world: World, environment: str) -> str:
    return world.engine._roster.workers[CellKey("shop", CELL, environment)].cell.record.settled_release


async def test_v14_a_refusal_by_the_prune_limit_is_judged_again_when_less_would_go(
    world: World, kube: FakeKube
) -> None:
    """Nobody sends it again: what it was refused for went with the release before it, once that came through."""
    many = service_yaml() + "".join(service_yaml(f"part{number}") for number in range(4))
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", many), CELL)).accepted
    broken = True

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if broken and verb == "apply" and ref == ZOO:
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = refuse
    fewer = service_yaml() + service_yaml("zoo")
    assert not (await world.deploy(cell_yaml(CELL, "1.1.0", fewer), CELL, confirm_prune=20)).accepted
    newest = world.deployment(CELL, world.release(cell_yaml(CELL, "1.2.0")))
    (refusal,) = (await world.submit(world.item(CELL, newest))).refusals
    assert refusal.code == "apply/prune-needs-confirmation"
    broken = False
    await world.until(lambda: world.report(CELL).version == "1.2.0" and not world.report(CELL).refusals, seconds=10)
