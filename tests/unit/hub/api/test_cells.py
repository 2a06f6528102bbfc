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


async def test_v9_clusters_where_isolation_was_measured_to_hold_are_counted(api: Api) -> None:
    """What an agent without a link said last is counted no longer."""
    await api.adopt()
    for cluster, isolation in (("eu-1", "enforced"), ("us-1", "enforced"), ("ap-1", "not-enforced")):
        await _cell_on(api, cluster, link_pb2.CELL_PHASE_READY)
        status = link_pb2.CellStatus(project="shop", cell="cart", environment="dev", isolation=isolation)
        await api.services.clusters.cell_status(cluster, status)
    assert (await api.ask("GET", "/cells"))[1]["items"][0]["enforced"] == 2
    await api.services.clusters.disconnected("us-1", "s1")
    assert (await api.ask("GET", "/cells/shop/cart"))[1]["enforced"] == 1


async def test_a_cell_that_ended_is_not_unknown(api: Api) -> None:
    """It does not come back by itself, whatever the link does."""
    await api.adopt()
    await _cell_on(api, "eu-1", link_pb2.CELL_PHASE_REMOVED)
    await api.services.clusters.disconnected("eu-1", "s1")
    assert await _counts(api) == (1, 0, 0)


async def test_v9_what_isolation_was_measured_by_is_shown_and_its_edges_when_asked_for(api: Api) -> None:
    """In the agent's words; a cell that was never measured has none, and an agent of before sends none."""
    await api.adopt()
    await _cell_on(api, "eu-1", link_pb2.CELL_PHASE_READY)
    assert (await _states(api))["eu-1"]["isolationProof"] is None
    edge = link_pb2.IsolationEdge(
        direction="egress", component="web", peer="the agent", protocol="TCP", port=7445, expected="closed",
        measured="open", node="n1",
    )  # fmt: skip
    proof = link_pb2.IsolationProof(
        state="not-enforced", measured_at_unix=1_780_000_000, prober="pods", text="open", edges=[edge], edges_cut=2,
        egress_lag_ms=1250,
    )  # fmt: skip
    status = link_pb2.CellStatus(project="shop", cell="cart", environment="dev", isolation="not-enforced", proof=proof)
    await api.services.clusters.cell_status("eu-1", status)
    shown = (await _states(api))["eu-1"]
    found = shown["isolationProof"]
    assert (shown["isolation"], found["state"], found["tried"], found["wrong"]) == (
        "not-enforced", "not-enforced", 3, 1,
    )  # fmt: skip
    assert (found["egressLagSeconds"], found["edges"]) == (1.25, [])
    assert found["measuredAt"].startswith("2026-05-28T")
    _, detailed = await api.ask("GET", "/cells/shop/cart?edges=true")
    (edge_shown,) = detailed["states"][0]["isolationProof"]["edges"]
    assert edge_shown == {
        "direction": "egress", "component": "web", "peer": "the agent", "protocol": "TCP", "port": 7445,
        "expected": "closed", "measured": "open", "node": "n1",
    }  # fmt: skip
