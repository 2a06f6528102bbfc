"""What cells use, from what agents push to what the API says."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cellward.wire.v1 import link_pb2, telemetry_pb2
from hub.metrics.endpoint import make_metrics_app
from hub.metrics.service import STALE_SECONDS, FleetMetrics
from hub.metrics.usage import OLD, usage_of
from tests.fakes.clock import ManualClock
from tests.unit.hub.api.test_api import Api, api
from tests.unit.hub.api.test_cells import KEY, _cell_on

__all__ = ["api"]

READY, REMOVED = link_pb2.CELL_PHASE_READY, link_pb2.CELL_PHASE_REMOVED
HERE = ("eu-1", *KEY)
LABELS = {"project": KEY.project, "cell": KEY.cell, "environment": KEY.environment}
GOOD = {"pods": 2.0, "cpu_usage_cores": 0.5, "memory_usage_bytes": 100.0, "cpu_requests_cores": 1.0}


def batch(
    said: dict[str, float], labels: dict[str, str] | None = None, at: float | None = 0.0
) -> telemetry_pb2.MetricsBatch:
    """A push about one cell; ``at`` is when its usage was measured."""
    values = dict(said)
    if at is not None:
        values["usage_timestamp_seconds"] = at
    made = telemetry_pb2.MetricsBatch(seq=1)
    for short, value in values.items():
        name = f"cellward_agent_cell_{short}"
        family = made.families.add(name=name, type="gauge", help="h")
        family.samples.add(name=name, labels=labels or LABELS, value=value)
    return made


async def said(pushed: telemetry_pb2.MetricsBatch, cluster: str = "eu-1") -> Any:
    """What is known of the cell after a push, or None."""
    clock = ManualClock()
    fleet = FleetMetrics(clock)
    await fleet.push(cluster, pushed)
    return usage_of(fleet, frozenset({HERE}), clock.now()).get(HERE)


async def test_the_newest_snapshot_counts_and_what_it_lacks_is_unknown() -> None:
    """A cluster that says no more what was used is not shown with what it said before."""
    clock = ManualClock()
    fleet, now = FleetMetrics(clock), clock.now().timestamp()
    await fleet.push("eu-1", batch(GOOD, at=now))
    found = usage_of(fleet, frozenset({HERE}), clock.now())[HERE]
    assert (found.state, found.pods, found.cpu_cores, found.memory_bytes) == ("current", 2, 0.5, 100.0)
    assert (found.cpu_requests_cores, found.memory_requests_bytes) == (1.0, None)
    later = clock.now() + OLD + timedelta(seconds=1)
    assert usage_of(fleet, frozenset({HERE}), later)[HERE].state == "old"
    await fleet.push("eu-1", batch({"pods": 2.0}, at=None))
    found = usage_of(fleet, frozenset({HERE}), clock.now())[HERE]
    assert (found.state, found.pods, found.cpu_cores, found.measured_at) == ("unknown", 2, None, None)
    clock.advance(STALE_SECONDS + 1)
    assert usage_of(fleet, frozenset({HERE}), clock.now()) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize("name", ["pods", "cpu_usage_cores", "memory_usage_bytes", "usage_timestamp_seconds"])
async def test_v16_a_number_that_cannot_be_is_none(name: str, value: float) -> None:
    """An agent that pushes nonsense is unknown, and costs nobody the answer."""
    found = await said(batch({"usage_timestamp_seconds": 1767225600.0, **GOOD, name: value}, at=None))
    if name == "pods":
        assert (found.state, found.pods) == ("current", None)
    else:
        assert (found.state, found.cpu_cores, found.measured_at) == ("unknown", None, None)
    assert found.cpu_requests_cores == 1.0
    assert found.model_dump_json()


async def test_v3_no_cluster_says_what_another_uses() -> None:
    """Its name comes from the certificate; a series with more labels than an agent sets is none of it."""
    assert await said(batch(GOOD), cluster="us-1") is None
    assert await said(batch(GOOD, {**LABELS, "pod": "x"})) is None


async def test_the_api_lists_cells_with_what_is_known(api: Api) -> None:
    """In pages by cluster; of whom nobody says anything is there and unknown; a removed cell is not."""
    await api.adopt()
    for cluster, phase in (("eu-1", READY), ("us-1", None), ("za-1", REMOVED)):
        await _cell_on(api, cluster, phase)
    fleet = api.services.fleet
    assert fleet is not None
    await fleet.push("eu-1", batch(GOOD, at=datetime.now(UTC).timestamp()))
    status, first = await api.ask("GET", "/usage?limit=1")
    assert (status, first["nextCursor"]) == (200, "eu-1/shop/cart/dev")
    (one,) = first["items"]
    assert (one["cluster"], one["state"], one["pods"], one["cpuCores"]) == ("eu-1", "current", 2, 0.5)
    _, rest = await api.ask("GET", "/usage?cursor=eu-1/shop/cart/dev")
    assert [(one["cluster"], one["state"], one["memoryBytes"]) for one in rest["items"]] == [("us-1", "unknown", None)]
    assert (await api.ask("GET", "/usage?cursor=x"))[1]["code"] == "api/bad-cursor"
    assert (await api.ask("GET", "/usage", role=""))[0] == 401


async def test_the_fleet_page_names_cluster_project_and_cell() -> None:
    """As Prometheus reads it."""
    fleet = FleetMetrics(ManualClock())
    await fleet.push("eu-1", batch(GOOD))
    async with TestClient(TestServer(make_metrics_app(CollectorRegistry(), fleet))) as client:
        page = await (await client.get("/metrics")).text()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    family = families["cellward_agent_cell_cpu_usage_cores"]
    (sample,) = family.samples
    assert (family.type, sample.labels, sample.value) == ("gauge", {"cluster": "eu-1", **LABELS}, 0.5)
