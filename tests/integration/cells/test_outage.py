"""The API server goes away and comes back: visible, and over by itself (V1, V16)."""

from __future__ import annotations

import pytest

from tests.fakes.cell_world import World, cell_yaml
from tools.stack.control_plane import BlockingControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def _ok(world: World) -> bool:
    return next(one.ok for one in world.health.get() if one.name == "api-server")


async def test_v16_watches_survive_an_outage(world: World, control_plane: BlockingControlPlane, cell: str) -> None:
    """Red while it is down; an item waits; afterwards the item is carried out and drift is seen again."""
    await world.deploy(cell_yaml(cell), cell)
    control_plane.stop_apiserver(kill=True)
    try:
        await world.until(lambda: not _ok(world), seconds=30)
        newer = world.deployment(cell, world.release(cell_yaml(cell, "1.1.0")))
        await world.engine.submit(world.item(cell, newer))
        await world.until(lambda: [r.code for r in world.report(cell).refusals] == ["kube/unavailable"], seconds=40)
    finally:
        control_plane.start_apiserver()
    await world.until(lambda: _ok(world), seconds=40)
    await world.until(lambda: world.report(cell).deployment_digest == newer, seconds=40)
    await world.phase(cell, "ready")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": f"shop--{cell}--dev"}}
    assert control_plane.admin.delete(service).ok
    await world.until(lambda: control_plane.admin.get(service).ok)
