"""Neither repairs nor narrowing wait for a release, their own or another cell's (V1, V13)."""

from __future__ import annotations

import asyncio
import copy

import pytest

from agent.cells.compose import CONCURRENCY
from agent.kube.errors import KUBE_IMMUTABLE
from agent.kube.interfaces import ObjectRef, ref_of
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
SERVICE = ObjectRef("v1", "Service", "shop--shop1--dev", "web")
INSIDE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", "shop--shop1--dev", "allow-within-cell")
JOB = "    {0}:\n      type: job\n      image: registry.example/once:{1}\n"


def job_of(cell: str, name: str = "once") -> ObjectRef:
    """Return the job of a cell."""
    return ObjectRef("batch/v1", "Job", f"shop--{cell}--dev", name)


@pytest.fixture
def stuck(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> FakeKube:
    """Return a cluster whose Jobs cannot be changed, and never go once they are deleted."""
    apply, delete = kube.apply, kube.delete

    async def no_change(obj: dict[str, object], **options: object) -> object:
        ref = ref_of(obj)
        old = kube._objects.get(ref)
        if old is not None and ref.kind == "Job" and old["spec"]["template"] != obj["spec"]["template"]:  # type: ignore[index]
            raise KUBE_IMMUTABLE(f"apply {ref}: field is immutable")
        return await apply(obj, **options)  # type: ignore[arg-type]

    async def hold(ref: ObjectRef, **options: object) -> None:
        if ref.kind != "Job":
            await delete(ref, **options)  # type: ignore[arg-type]
            return
        kube.requests.append(("delete", ref, None))
        old = kube._objects[ref]
        new = copy.deepcopy(old)
        new["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.org/keep"]}
        kube._store(ref, old, new)

    monkeypatch.setattr(kube, "apply", no_change)
    monkeypatch.setattr(kube, "delete", hold)
    return kube


async def replacing(world: World, kube: FakeKube, cell: str, components: str = "") -> str:
    """Deploy a cell whose newer release has to wait for its job to go; return the digest of that placement."""
    extra = components or JOB.format("once", 1)
    assert (await world.deploy(cell_yaml(cell, "1.0.0", extra), cell)).accepted
    release = world.release(cell_yaml(cell, "1.1.0", extra.replace("once:1", "once:2")), replace=True)
    digest = world.deployment(cell, release)
    await world.engine.submit(world.item(cell, digest))
    await world.until(lambda: ("delete", job_of(cell)) in [request[:2] for request in kube.requests])
    return digest


async def test_v1_cells_that_wait_for_objects_to_go_do_not_stop_repairs_of_others(
    world: World, stuck: FakeKube
) -> None:
    """All turns are taken for twenty seconds; a cell that waits for one is repaired, and cut off when asked."""
    running = world.deployment(CELL, world.release(cell_yaml(CELL)))
    assert (await world.submit(world.item(CELL, running))).accepted
    for number in range(CONCURRENCY):
        await replacing(world, stuck, f"busy{number}")
    newer = world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0")))
    await world.engine.submit(world.item(CELL, newer))
    await world.until(lambda: newer in world.hub.fetched)
    await stuck.delete(SERVICE)
    await world.until(lambda: SERVICE in stuck._objects, seconds=15)
    assert world.report(CELL).version == "1.0.0", "it was repaired while its release waited"
    await world.engine.submit(world.item(CELL, running, hub_state="quarantine"))
    await world.until(lambda: stuck._objects[INSIDE]["spec"]["ingress"] == [], seconds=15)


async def test_v1_cell_in_the_middle_of_a_release_is_repaired_and_cut_off(world: World, stuck: FakeKube) -> None:
    """While it waits for an object of its own to go."""
    digest = await replacing(world, stuck, CELL, service_yaml() + JOB.format("once", 1))
    await stuck.delete(SERVICE)
    await world.until(lambda: SERVICE in stuck._objects, seconds=15)
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.until(lambda: stuck._objects[INSIDE]["spec"]["ingress"] == [], seconds=15)
    await world.phase(CELL, "held")


async def _never_go(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no Deployment go that is deleted."""
    delete = kube.delete

    async def hold(ref: ObjectRef, **options: object) -> None:
        if ref.kind != "Deployment":
            await delete(ref, **options)  # type: ignore[arg-type]
            return
        old = kube._objects[ref]
        new = copy.deepcopy(old)
        new["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
        kube._store(ref, old, new)

    monkeypatch.setattr(kube, "delete", hold)


async def test_v11_cells_that_cannot_end_hold_no_turn(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four more than there are turns; a release comes through at once, and each end the moment its objects are gone."""
    cells = [f"leaving{number}" for number in range(CONCURRENCY + 4)]
    for cell in cells:
        assert (await world.deploy(cell_yaml(cell), cell)).accepted
    await _never_go(kube, monkeypatch)
    for cell in cells:
        await world.engine.submit(world.item(cell, world.tombstone(cell)))
    await world.until(lambda: all(world.report(cell).refusals for cell in cells))
    assert {world.report(cell).phase for cell in cells} == {"applying"}
    assert {one.code for cell in cells for one in world.report(cell).refusals} == {"apply/deletion-pending"}
    (slots,) = {worker._pace._slots for worker in world.engine._roster.workers.values()}
    assert slots.work._value == CONCURRENCY
    assert (await asyncio.wait_for(world.deploy(cell_yaml(CELL), CELL), 15)).accepted
    for ref in [ref for ref in kube._objects if ref.kind == "Deployment" and ref.namespace != SERVICE.namespace]:
        kube._drop(ref)
    await world.until(lambda: {world.report(cell).phase for cell in cells} == {"removed"}, seconds=5)
