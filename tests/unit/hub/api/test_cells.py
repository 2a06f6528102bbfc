"""Cells over the fleet: what is counted as ready, and of what nobody knows."""

from __future__ import annotations

from typing import Any

from cellward.documents.names import CellKey
from cellward.wire.v1 import link_pb2
from tests.unit.hub.api.test_api import Api, api

__all__ = ["api"]

KEY = CellKey("shop", "cart", "dev")
DIGEST = "sha256:" + "1" * 64


async def _cell_on(api: Api, cluster: str, phase: int | None) -> None:
    """Mean a cluster to have the cell, and let its agent report it in a phase and leave its link open."""
    clusters = api.services.clusters
    await clusters.create_cluster(cluster, "test")
    await api.store.desired.upsert(cluster, KEY, DIGEST)
    if phase is None:
        return
    await clusters.connected(cluster, "s1")
    status = link_pb2.CellStatus(project="shop", cell="cart", environment="dev", deployment_digest=DIGEST)
    status.phase = phase  # type: ignore[assignment]
    await clusters.cell_status(cluster, status)


async def _counts(api: Api) -> tuple[int, int, int]:
    """Clusters, ready and unknown, the same by list and by cell."""
    _, listed = await api.ask("GET", "/cells")
    (one,) = listed["items"]
    _, shown = await api.ask("GET", "/cells/shop/cart")
    found = [(found["clusters"], found["ready"], found["unknown"]) for found in (one, shown)]
    assert found[0] == found[1]
    return found[0]


async def _states(api: Api) -> dict[str, dict[str, Any]]:
    _, shown = await api.ask("GET", "/cells/shop/cart")
    return {state["cluster"]: state for state in shown["states"]}


async def test_a_cell_on_a_cluster_without_a_link_is_not_ready(api: Api) -> None:
    """Ready counts open links alone; what was reported is shown with since when nobody knows, until it is back."""
    await api.adopt()
    await _cell_on(api, "eu-1", link_pb2.CELL_PHASE_READY)
    await _cell_on(api, "us-1", link_pb2.CELL_PHASE_READY)
    await _cell_on(api, "ap-1", None)
    assert await _counts(api) == (3, 2, 0)
    assert (await _states(api))["us-1"]["unknownSince"] is None
    await api.services.clusters.disconnected("us-1", "s1")
    assert await _counts(api) == (3, 1, 1)
    away = (await _states(api))["us-1"]
    assert (away["phase"], away["connected"]) == ("ready", False)
    assert away["unknownSince"] == (await api.ask("GET", "/clusters/us-1"))[1]["lastSeen"]
    _, status = await api.ask("GET", "/status")
    assert (status["cells"], status["cellsReady"], status["cellsUnknown"]) == (3, 1, 1)
    await api.services.clusters.connected("us-1", "s2")
    assert await _counts(api) == (3, 2, 0)


async def test_a_cell_that_ended_is_not_unknown(api: Api) -> None:
    """It does not come back by itself, whatever the link does."""
    await api.adopt()
    await _cell_on(api, "eu-1", link_pb2.CELL_PHASE_REMOVED)
    await api.services.clusters.disconnected("eu-1", "s1")
    assert await _counts(api) == (1, 0, 0)
