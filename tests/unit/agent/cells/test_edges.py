"""An edge is open only while both sides, as accepted on this cluster, say the same (V10, V15)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.kube.interfaces import ObjectRef
from agent.objects.model import CellRecord, record_from_json
from cellward.cells.edges import Need, Offer, difference
from cellward.cells.load import load_cells
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from tests.fakes.cell_world import REALM, World
from tests.fakes.kube import FakeKube

EDGE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", "shop--front--dev", "connection.shop.back.api")


def back_yaml(version: str, port: int = 8080, admin: int = 9090, endpoint: str = "api") -> str:
    """The callee: an endpoint for everybody, and a port behind another one."""
    return (
        "apiVersion: cellward.dev/v1alpha1\nkind: Cell\nmetadata: {name: back, project: shop}\n"
        f"spec:\n  version: {version}\n  owner: team-back\n  components:\n"
        f"    web:\n      type: service\n      image: registry.example/web:{version}\n      replicas: 0\n"
        f"      ports:\n        http: {{port: {port}}}\n        admin: {{port: {admin}}}\n"
        f"  endpoints:\n    {endpoint}: {{component: web, port: http, visibility: project}}\n"
        "    admin: {component: web, port: admin, visibility: project}\n"
    )


FRONT = (
    "apiVersion: cellward.dev/v1alpha1\nkind: Cell\nmetadata: {name: front, project: shop}\n"
    "spec:\n  version: 1.0.0\n  owner: team-front\n  components:\n"
    "    web:\n      type: service\n      image: registry.example/front:1\n      replicas: 0\n"
    "      ports:\n        http: {port: 8080}\n"
    "  connections:\n  - {cell: back, endpoint: api, env: BACK}\n"
)


async def deploy(world: World, text: str, *peers: str) -> None:
    """Sign a cell, resolved by what it is shown of its peers, and have it accepted."""
    (manifest,) = load_cells(text, "test")
    known = {one.cell.key: resolve_cells([one], {})[one.cell.key] for peer in peers for one in load_cells(peer, "peer")}
    spec = resolve_cells([manifest], known)[manifest.cell.key]
    release = world.sign(build_release(manifest.cell, spec, realm=REALM, issued_at=world.timer.now()))
    cell = manifest.cell.metadata.name
    receipt = await world.submit(world.item(cell, world.deployment(cell, release)))
    assert receipt.accepted, receipt.refusals


def open_to(kube: FakeKube) -> list[Any]:
    """Ports the caller may reach on the callee."""
    return [port["port"] for rule in kube._objects[EDGE]["spec"]["egress"] for port in rule["ports"]]


def complaint(world: World) -> str:
    """Why the edge is closed."""
    found = [one for one in world.report("front").refusals if one.code == "cell/edge-differs"]
    for one in found:
        assert one.rule == ""
        assert one.object == "Connection/shop/back/api"
        assert one.next
    return found[0].reason if found else ""


async def test_v10_port_of_another_release_is_not_opened(world: World, kube: FakeKube) -> None:
    """A hub showed the caller's author a callee whose api was where admin is now: that door stays shut."""
    await deploy(world, back_yaml("2.0.0"))
    await deploy(world, FRONT, back_yaml("1.0.0", port=9090, admin=8080))
    assert open_to(kube) == []
    assert "signed for port 9090/TCP of web" in complaint(world)
    assert "offers port 8080/TCP of web" in complaint(world)
    assert world.report("front").phase == "degraded"
    assert any(one["code"] == "cell/edge-differs" and one["decision"] == "deny" for one in await world.records())


async def test_v10_edge_is_judged_again_when_the_callee_changes(world: World, kube: FakeKube) -> None:
    """It closes when what runs there offers something else, and opens when it offers what was signed."""
    await deploy(world, FRONT, back_yaml("1.0.0"))
    assert open_to(kube) == [8080]
    await deploy(world, back_yaml("1.0.0"))
    assert open_to(kube) == [8080]
    assert not complaint(world)
    await deploy(world, back_yaml("2.0.0", port=7070))
    await world.until(lambda: open_to(kube) == [])
    await world.until(lambda: complaint(world))
    await deploy(world, back_yaml("3.0.0", endpoint="v3"))
    await world.until(lambda: "offers no endpoint api" in complaint(world))
    await deploy(world, back_yaml("4.0.0"))
    await world.until(lambda: open_to(kube) == [8080])
    await world.until(lambda: not complaint(world))


async def test_v1_v13_old_volume_opens_no_edge_that_was_closed_since(
    world: World, kube: FakeKube, tmp_path: Path
) -> None:
    """The spool was full, so that nothing but the count of closings says that the caller's record is old."""
    await deploy(world, back_yaml("1.0.0"))
    await deploy(world, FRONT, back_yaml("1.0.0"))
    await world._stop()
    shutil.copytree(world.directory, tmp_path / "backup")
    await world._start()
    gone = world.anchor.state
    assert gone is not None
    await deploy(world, back_yaml("2.0.0", port=7070))
    await world.until(lambda: open_to(kube) == [] and complaint(world))
    assert world.anchor.state is not None
    # The least that a full spool and a callee whose floor had moved before leave of it.
    world.anchor.state = replace(gone, closings=world.anchor.state.closings)
    await world._stop()
    shutil.rmtree(world.directory)
    shutil.copytree(tmp_path / "backup", world.directory)
    await world._start()
    world.engine.resync()
    await deploy(world, back_yaml("3.0.0", port=7070).replace("name: back", "name: aside"))
    assert open_to(kube) == []


async def test_v10_both_sides_may_change_together_in_any_order(world: World, kube: FakeKube) -> None:
    """Caller first or callee first: nobody is refused for good, and the edge is open when both are there."""
    await deploy(world, back_yaml("1.0.0"))
    await deploy(world, FRONT, back_yaml("1.0.0"))
    await deploy(world, FRONT.replace("1.0.0", "2.0.0"), back_yaml("2.0.0", port=7070))
    assert open_to(kube) == []
    await deploy(world, back_yaml("2.0.0", port=7070))
    await world.until(lambda: open_to(kube) == [7070])
    await world.until(lambda: not complaint(world))


async def test_v1_closed_edge_stays_closed_over_a_restart_and_a_quarantine(world: World, kube: FakeKube) -> None:
    """Lifting a quarantine returns to what signatures allow on this cluster, not to what one side says."""
    await deploy(world, back_yaml("2.0.0"))
    await deploy(world, FRONT, back_yaml("1.0.0", port=9090, admin=8080))
    await world._stop()
    await world._start()
    deployment = world.report("front").deployment_digest
    assert open_to(kube) == []
    await world.engine.submit(world.item("front", deployment, hub_state="quarantine"))
    await world.phase("front", "held")
    await world.engine.submit(world.item("front", deployment))
    await world.phase("front", "degraded")
    assert open_to(kube) == []
    assert complaint(world)
    await deploy(world, back_yaml("3.0.0", port=9090, admin=8080))
    await world.until(lambda: open_to(kube) == [9090])


async def test_v10_closed_edge_is_repaired_closed(world: World, kube: FakeKube) -> None:
    """Somebody opens it by hand: drift repair takes back the closed form."""
    await deploy(world, back_yaml("2.0.0"))
    await deploy(world, FRONT, back_yaml("1.0.0", port=9090, admin=8080))
    live = kube._objects[EDGE]
    spec = {**live["spec"], "egress": [{"ports": [{"port": 9090, "protocol": "TCP"}]}]}
    await kube.apply({**{k: live[k] for k in ("apiVersion", "kind")}, "metadata": {
        "name": EDGE.name, "namespace": EDGE.namespace}, "spec": spec}, manager="somebody", force=True)  # fmt: skip
    await world.until(lambda: open_to(kube) == [])


@pytest.mark.parametrize(
    ("offer", "differs"),
    [
        (Offer("api", "web", 80, 8080, "TCP"), False),
        (Offer("api", "web", 80, 8081, "TCP"), True),
        (Offer("api", "web", 81, 8080, "TCP"), True),
        (Offer("api", "other", 80, 8080, "TCP"), True),
        (Offer("api", "web", 80, 8080, "UDP"), True),
        (Offer("admin", "web", 80, 8080, "TCP"), True),
    ],
)
def test_what_makes_a_difference(offer: Offer, differs: bool) -> None:
    """Everything the caller's release says of the other side."""
    need = Need("shop", "back", Offer("api", "web", 80, 8080, "TCP"))
    assert bool(difference(need, (Offer("zoo", "zoo", 1, 1, "TCP"), offer))) is differs


def test_record_keeps_both_sides() -> None:
    """What an edge is judged by is durable."""
    offer = Offer("api", "web", 80, 8080, "TCP")
    record = CellRecord(
        "shop", "front", "dev", "shop--front--dev", offers=(offer,), needs=(Need("shop", "back", offer),), shut=("x",)
    )
    assert record_from_json(record.to_json()) == record
