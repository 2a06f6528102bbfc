"""The agent's metrics: one list, snapshots without surprises, a page on loopback."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from agent.metrics.page import MetricsPage
from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import SampleValue, take_snapshot
from cellward.telemetry import metrics as names
from cellward.telemetry.metrics import AGENT_METRICS, Metric


def test_every_metric_constant_is_on_the_list_once_and_follows_the_rules() -> None:
    """A metric that is not listed would be missing from the reference page; cluster is never a label (V3)."""
    constants = [value for value in vars(names).values() if isinstance(value, Metric)]
    assert sorted(metric.name for metric in constants) == sorted(metric.name for metric in AGENT_METRICS)
    assert len({metric.name for metric in AGENT_METRICS}) == len(AGENT_METRICS)
    for metric in AGENT_METRICS:
        assert metric.name.startswith("cellward_agent_")
        assert not metric.name.endswith(("_total", "_created"))
        assert "cluster" not in metric.labels
        assert bool(metric.buckets) == (metric.type == "histogram")


def test_a_snapshot_holds_values_with_their_labels_and_no_created_series() -> None:
    """Counters, gauges and histograms arrive under their sample names."""
    metrics = AgentMetrics()
    metrics.increment(names.AGENT_DECISIONS, result="deny")
    metrics.increment(names.AGENT_DECISIONS, 2, result="deny")
    metrics.set(names.AGENT_SPOOL_RECORDS, 7)
    metrics.observe(names.AGENT_DECISION_SECONDS, 0.003)
    samples = [sample for family in take_snapshot(metrics.registry) for sample in family.samples]
    assert SampleValue("cellward_agent_decisions_total", {"result": "deny"}, 3.0) in samples
    assert SampleValue("cellward_agent_spool_records", {}, 7.0) in samples
    assert SampleValue("cellward_agent_decision_seconds_count", {}, 1.0) in samples
    assert not [sample for sample in samples if sample.name.endswith("_created")]


def test_a_removed_cell_leaves_no_series() -> None:
    """Gauges of cells are replaced as a whole."""
    metrics = AgentMetrics()
    metrics.replace(names.AGENT_CELL_READY, {("shop", "cart", "dev"): 1, ("shop", "web", "dev"): 0})
    metrics.replace(names.AGENT_CELL_READY, {("shop", "web", "dev"): 1})
    families = {family.name: family for family in take_snapshot(metrics.registry)}
    labels = {"project": "shop", "cell": "web", "environment": "dev"}
    assert families["cellward_agent_cell_ready"].samples == (SampleValue("cellward_agent_cell_ready", labels, 1.0),)


def test_a_snapshot_is_bounded() -> None:
    """Ten thousand cells cannot make a message the hub refuses as a whole."""
    metrics = AgentMetrics()
    metrics.replace(names.AGENT_CELL_READY, {("p", f"c{number}", "dev"): 1 for number in range(500)})
    snapshot = take_snapshot(metrics.registry, limit=100)
    assert sum(len(family.samples) for family in snapshot) == 100


async def test_the_page_serves_the_registry_on_loopback() -> None:
    """A scraper beside the agent sees the same values; the page ends with its task."""
    metrics = AgentMetrics()
    metrics.set(names.AGENT_SPOOL_RECORDS, 7)
    page = MetricsPage(metrics.registry, "127.0.0.1:0")
    running = asyncio.ensure_future(page.run())
    await page.listening.wait()
    url = f"http://127.0.0.1:{page.port}/metrics"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert "cellward_agent_spool_records 7.0" in await answer.text()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url)
