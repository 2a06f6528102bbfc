"""The copy of the floors in its real place, with exactly the chart's rights (V1)."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.anchor import ANCHOR_NAME, SecretAnchor
from agent.kube.client import KubeClient
from agent.spool.interfaces import AnchorState, FloorsCopy
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from tests.fakes.cell_world import World, cell_yaml, chart_guards, service_yaml
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_NAMESPACE

pytestmark = pytest.mark.real

ANCHOR = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": ANCHOR_NAME, "namespace": AGENT_NAMESPACE}}


async def test_v1_wiped_volume_does_not_go_back_from_3_to_1(
    tmp_path: Path, kube: KubeClient, admin: ApiClient, cell: str
) -> None:
    """The hub delivers 1.0 again after the agent lost everything: 3.0 stays, and goes on."""
    admin.delete(ANCHOR)
    world = World(tmp_path / "state", kube, chart_guards())
    world.anchor = SecretAnchor(kube, AGENT_NAMESPACE)  # type: ignore[assignment]

    def release(version: str) -> str:
        return world.release(cell_yaml(cell, version, service_yaml(image=f"registry.example/web:{version}")))

    def image() -> str:
        name = {"name": "web", "namespace": f"shop--{cell}--dev"}
        live = admin.get({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": name}).body
        return str(live["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]

    async with world.running():
        first, newest = world.deployment(cell, release("1.0.0")), world.deployment(cell, release("3.0.0"))
        for digest in (first, newest):
            assert (await world.submit(world.item(cell, digest))).accepted
        assert image() == "3.0.0"
        await world._stop()
        shutil.rmtree(world.directory)
        await world._start()
        receipt = await world.submit(world.item(cell, first))
        assert [one.code for one in receipt.refusals] == ["document/older-sequence"]
        assert image() == "3.0.0"
        assert (await world.submit(world.item(cell, newest))).accepted
        assert image() == "3.0.0"
    admin.delete(ANCHOR)


async def test_v1_floors_of_two_thousand_cells_fit_into_the_secret(kube: KubeClient, admin: ApiClient) -> None:
    """The API server takes them, and gives back what it was given."""
    cells = {
        CellKey(f"project-{number % 40}", f"some-service-{number}", "production"): Floor(
            1_800_000_000_000 + number * 7919,
            f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}",
            datetime.fromtimestamp(1_800_000_000 + number, UTC),
        )
        for number in range(2000)
    }
    anchor, state = SecretAnchor(kube, AGENT_NAMESPACE), AnchorState("u-1", 1, 1, FloorsCopy(cells))
    admin.delete(ANCHOR)
    await anchor.save(state)
    assert await anchor.load() == state
    admin.delete(ANCHOR)
