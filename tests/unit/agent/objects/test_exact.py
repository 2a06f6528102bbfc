"""A baseline is what the API server makes of the release, nothing that somebody added before it was known (V1, V10).

Whoever may patch objects in a cell can add to one and edit the entry of managedFields away: no manager shows it then.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_QUOTA
from agent.kube.interfaces import JSONObject, ObjectRef
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
PLACE = f"shop--{CELL}--dev"
WEB = ObjectRef("apps/v1", "Deployment", PLACE, "web")
SERVICE = ObjectRef("v1", "Service", PLACE, "web")
SETTINGS = ObjectRef("v1", "ConfigMap", PLACE, "settings")
EVIL = {"name": "evil", "image": "evil.example/x:1"}
RAW = """    raw:
      type: manifests
      manifests:
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {greeting: VERSION}}
"""


def text(version: str, more: str = "") -> str:
    """Return a cell with one service, whose image says its version, and a ConfigMap."""
    web = service_yaml(image=f"registry.example/web:{version}")
    return cell_yaml(CELL, version, web + more + RAW.replace("VERSION", f"v{version}"))


async def plant(kube: FakeKube, ref: ObjectRef, path: str, value: object) -> None:
    """Add to an object, and then edit away who did."""
    before = (await kube.get(ref))["metadata"]["managedFields"]
    await kube.patch_json(ref, [{"op": "add", "path": path, "value": value}], manager="kubectl")
    kept = [{"op": "replace", "path": "/metadata/managedFields", "value": before}]
    await kube.patch_json(ref, kept, manager="kubectl")


async def plant_container(kube: FakeKube) -> None:
    """Add a container to the workload, that nobody owns."""
    await plant(kube, WEB, "/spec/template/spec/containers/-", EVIL)


def runs(kube: FakeKube) -> list[str]:
    """Return the images of the workload."""
    found = kube._objects[WEB]["spec"]["template"]["spec"]["containers"]
    return [str(one["image"]).rpartition("/")[2] for one in found]


async def deploy(world: World, kube: FakeKube, version: str) -> None:
    """Deploy a version and wait until it is healthy."""
    receipt = await world.deploy(text(version), CELL)
    assert receipt.accepted, receipt.refusals
    await ready(world, kube, version)


async def ready(world: World, kube: FakeKube, version: str) -> None:
    """Wait until a version is in force; controllers say that it is well."""

    def is_ready() -> bool:
        for ref in [ref for ref in kube._objects if ref.kind == "Deployment"]:
            kube.set_status(ref, {"observedGeneration": 99})
        report = world.report(CELL)
        return report.version == version and report.phase == "ready"

    await world.until(is_ready)


def before_write(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, version: str, what: Any) -> None:
    """Have something happen once, between everything before it and the write of a version of the workload."""
    apply, once = kube.apply, [True]

    async def hooked(obj: Mapping[str, Any], **how: Any) -> JSONObject:
        if once and obj["kind"] == "Deployment" and not how.get("dry_run") and f"web:{version}" in str(obj):
            once.clear()
            await what()
        return await apply(obj, **how)

    monkeypatch.setattr(kube, "apply", hooked)


@pytest.mark.parametrize("tried", ["tried", "not-tried"])
async def test_v10_what_is_added_between_repair_and_write_does_not_stay(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch, tried: str
) -> None:
    """Also where nothing may be tried under another name, by a quota that is used up for one."""
    await deploy(world, kube, "1.0.0")
    before_write(kube, monkeypatch, "2.0.0", lambda: plant_container(kube))

    def full(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "dry-run" and ref.name.startswith("cellward-"):
            raise KUBE_QUOTA("exceeded quota")

    kube.on_request = full if tried == "not-tried" else None
    await deploy(world, kube, "2.0.0")
    assert runs(kube) == ["web:2.0.0"]
    assert world.report(CELL).drift_repairs == 0


async def test_v10_what_is_added_before_the_first_write_does_not_stay(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by somebody a moment before, with nothing in it that contradicts the release."""

    async def make() -> None:
        pods = {"containers": [EVIL]}
        metadata = {"name": WEB.name, "namespace": PLACE}
        theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
        await kube.apply({**theirs, "spec": {"template": {"spec": pods}}}, manager="them")
        kube._objects[WEB]["metadata"]["managedFields"] = []

    before_write(kube, monkeypatch, "1.0.0", make)
    await deploy(world, kube, "1.0.0")
    assert runs(kube) == ["web:1.0.0"]


async def test_v10_what_is_added_while_a_rollout_is_stalled_does_not_stay(world: World, kube: FakeKube) -> None:
    """The second of two new Services is refused when it is written; nothing is known of the workload until then."""
    await deploy(world, kube, "1.0.0")
    stalled = [True]

    def refuse(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if stalled and verb == "apply" and ref.kind == "Service" and ref.name == "y":
            raise KUBE_FORBIDDEN("exceeded quota: services", by="admission")

    kube.on_request = refuse
    more = service_yaml("x") + service_yaml("y")
    assert not (await world.deploy(text("2.0.0", more), CELL)).accepted
    await plant_container(kube)
    stalled.clear()
    world.engine.reconsider()
    await ready(world, kube, "2.0.0")
    assert runs(kube) == ["web:2.0.0"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_v10_what_is_added_while_an_agent_killed_in_a_rollout_is_down_does_not_stay(
    world: World, kube: FakeKube, tmp_path: Path, when: str
) -> None:
    """Killed before or after it wrote the workload; the record names the new form either way."""
    await deploy(world, kube, "1.0.0")
    apply, killed = kube.apply, tmp_path / "killed"

    async def hooked(obj: Mapping[str, Any], **how: Any) -> JSONObject:
        hit = obj["kind"] == "Deployment" and not how.get("dry_run") and "web:2.0.0" in str(obj)
        if hit and when == "after":
            await apply(obj, **how)
        if hit:
            shutil.copytree(world.directory, killed)
            await asyncio.Event().wait()
        return await apply(obj, **how)

    kube.apply = hooked  # type: ignore[method-assign]
    item = world.item(CELL, world.deployment(CELL, world.release(text("2.0.0"))))
    await world.state.items.put(item)
    await world.engine.submit(item)
    await world.until(killed.exists)
    await world._stop()
    kube.apply = apply  # type: ignore[method-assign]
    world.directory = killed
    await plant_container(kube)
    await world._start()
    await ready(world, kube, "2.0.0")
    assert runs(kube) == ["web:2.0.0"]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_v10_what_was_added_before_a_cell_is_taken_back_ends_with_the_release(
    world: World, kube: FakeKube, tmp_path: Path, version: str
) -> None:
    """A lost volume: what is there is adopted as it is, and becomes what is released: container, key, address."""
    await deploy(world, kube, "1.0.0")
    await world._stop()
    await plant_container(kube)
    await plant(kube, SETTINGS, "/data/evil", "1")
    await plant(kube, SERVICE, "/spec/externalIPs", ["192.0.2.1"])
    world.directory = tmp_path / "empty"
    world.receipts.clear()
    await world._start()
    await deploy(world, kube, version)
    assert runs(kube) == [f"web:{version}"]
    assert (await kube.get(SETTINGS))["data"] == {"greeting": f"v{version}"}
    assert "externalIPs" not in (await kube.get(SERVICE))["spec"]


async def test_v10_a_job_that_runs_anything_else_is_told_of(world: World, kube: FakeKube, tmp_path: Path) -> None:
    """What a job runs cannot be changed, so it is no baseline; once it is deleted the released one is made."""
    job = ObjectRef("batch/v1", "Job", PLACE, "once")
    once = "    once: {type: job, image: 'registry.example/once:1'}\n"
    assert (await world.deploy(text("1.0.0", once), CELL)).accepted
    await world._stop()
    await plant(kube, job, "/spec/template/spec/containers/-", EVIL)
    world.directory = tmp_path / "empty"
    world.receipts.clear()
    await world._start()
    receipt = await world.deploy(text("2.0.0", once), CELL)
    assert [(one.code, one.object) for one in receipt.refusals] == [("kube/immutable-field", str(job))]
    assert "delete it" in receipt.refusals[0].next
    await kube.delete(job)
    world.engine.reconsider()
    await world.until(lambda: job in kube._objects and world.report(CELL).phase != "refused")
    assert [one["image"] for one in kube._objects[job]["spec"]["template"]["spec"]["containers"]] == [
        "registry.example/once:1"
    ]
