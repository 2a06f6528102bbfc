"""What agents may push, and how the fleet endpoint shows it."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from bench.fleet.snapshot import metrics_batch
from cellward.wire.v1 import telemetry_pb2
from hub.metrics.endpoint import make_metrics_app
from hub.metrics.own import Facts, FactsCollector, HubMetrics
from hub.metrics.service import STALE_SECONDS, FleetMetrics, _key_of
from tests.fakes.clock import ManualClock

GOOD = "cellward_agent_decisions"


def _batch(
    name: str = GOOD, kind: str = "counter", sample: str = GOOD + "_total", value: float = 1.0, **labels: str
) -> telemetry_pb2.MetricsBatch:
    family = telemetry_pb2.MetricFamily(name=name, type=kind, help="h")
    family.samples.append(telemetry_pb2.Sample(name=sample, labels=labels, value=value))
    return telemetry_pb2.MetricsBatch(seq=1, families=[family])


def _labelled(labels: dict[str, str]) -> telemetry_pb2.MetricsBatch:
    batch = _batch()
    batch.families[0].samples[0].labels.update(labels)
    return batch


async def _scrape(metrics: FleetMetrics) -> str:
    registry = CollectorRegistry()
    HubMetrics(registry, version="1")
    facts = Facts(connected_agents=1, clusters=2, desired_items=3, audit_size=4, certificates={"api": 5.0})
    app = make_metrics_app(registry, metrics, FactsCollector(lambda: facts))
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/metrics")
        assert response.status == 200
        return await response.text()


async def test_samples_get_the_cluster_label_from_the_certificate() -> None:
    """V3: the same series of two clusters are told apart by a label that no agent sets."""
    metrics = FleetMetrics(ManualClock())
    assert await metrics.push("eu-1", _batch(decision="allow")) == 0
    assert await metrics.push("us-1", _batch(decision="allow", value=2)) == 0
    text = await _scrape(metrics)
    assert 'cellward_agent_decisions_total{cluster="eu-1",decision="allow"} 1.0' in text
    assert 'cellward_agent_decisions_total{cluster="us-1",decision="allow"} 2.0' in text
    assert "cellward_hub_connected_agents 1.0" in text
    assert text.count("# TYPE cellward_agent_decisions_total counter") == 1


@pytest.mark.parametrize(
    "batch",
    [
        _batch(cluster="us-1"),
        _batch(name="process_cpu", sample="process_cpu_total"),
        _batch(name="cellward_hub_clusters", kind="gauge", sample="cellward_hub_clusters"),
        _batch(sample="cellward_other_total"),
        _batch(kind="summary"),
        _batch(value=float("nan")),
        _batch(__name__="x"),
        _batch(label="x" * 257),
        _labelled({f"l{number}": "v" for number in range(17)}),
        _labelled({'bad"label': "v"}),
    ],
)
async def test_what_is_not_allowed_is_refused_and_counted(batch: telemetry_pb2.MetricsBatch) -> None:
    """A cluster label of the agent's own, foreign names, reserved names, odd types, labels and values are refused."""
    metrics = FleetMetrics(ManualClock())
    assert await metrics.push("eu-1", batch) == 1
    assert metrics.series_count() == 0
    assert 'cellward_hub_refused_samples_total{cluster="eu-1"} 1.0' in await _scrape(metrics)


async def test_series_of_one_cluster_are_bounded() -> None:
    """V16: a cluster with runaway labels loses series, not the others their endpoint."""
    metrics = FleetMetrics(ManualClock(), series_limit=10)
    batch = _batch()
    for number in range(25):
        batch.families[0].samples.append(telemetry_pb2.Sample(name=GOOD + "_total", labels={"n": str(number)}, value=1))
    assert await metrics.push("eu-1", batch) == 16
    assert await metrics.push("us-1", _batch()) == 0
    assert metrics.series_count() == 11


async def test_an_ordinary_snapshot_needs_no_thread() -> None:
    """A thousand idle agents push them all the time; only what takes long is checked beside the loop."""
    metrics = FleetMetrics(ManualClock())
    metrics._checker.shutdown()
    assert await metrics.push("eu-1", telemetry_pb2.MetricsBatch.FromString(metrics_batch())) == 0
    assert metrics.series_count() > 0


async def test_newest_snapshot_wins_and_a_silent_cluster_fades() -> None:
    """Old values are not served for ever as if they were news."""
    clock = ManualClock()
    metrics = FleetMetrics(clock)
    await metrics.push("eu-1", _batch(value=1))
    await metrics.push("eu-1", _batch(value=2))
    assert "} 2.0" in await _scrape(metrics)
    clock.advance(STALE_SECONDS + 1)
    assert metrics.series_count() == 0


async def test_no_cluster_touches_the_series_of_another() -> None:
    """Another type, another help, a name of the hub's own, one series twice: only its sender's is left out, counted."""
    metrics = FleetMetrics(ManualClock())
    liar = _batch(kind="gauge", sample=GOOD)
    twice = _batch(result="x", value=7).families[0]
    twice.samples.append(twice.samples[0])
    twice.help = "lies"
    hub = [
        _batch(name="cellward_hub", kind="histogram", sample="cellward_hub_count").families[0],
        _batch(name="cellward_hub_refused_samples", sample="cellward_hub_refused_samples_total").families[0],
        _batch(name="cellward_hub_clusters", kind="gauge", sample="cellward_hub_clusters").families[0],
    ]
    bucket = telemetry_pb2.MetricFamily(name="cellward_agent_apply_seconds", type="histogram", help="h")
    bucket.samples.append(
        telemetry_pb2.Sample(name="cellward_agent_apply_seconds_bucket", labels={"le": "many"}, value=1)
    )
    liar.families.extend([twice, *hub, bucket])
    # The name that sorts first is served first: it must not decide for the others.
    assert await metrics.push("a", liar) == 6
    assert await metrics.push("b", _batch(result="deny")) == 0
    text = await _scrape(metrics)
    assert text.count("# TYPE cellward_agent_decisions_total counter") == 1
    assert 'cellward_agent_decisions_total{cluster="b",result="deny"} 1.0' in text
    assert text.count('cellward_agent_decisions_total{cluster="a",result="x"} 7.0') == 1
    assert "lies" not in text
    assert 'cellward_hub_refused_samples_total{cluster="a"} 6.0' in text
    assert text.count("cellward_hub_clusters ") == 3
    assert "cellward_hub_count" not in text


async def test_a_family_that_comes_twice_is_taken_once() -> None:
    """Its values are not shifted to other series, and the whole scrape of everybody else stays readable."""
    metrics = FleetMetrics(ManualClock())
    batch = _batch(value=1, n="1")
    batch.families.append(_batch(value=2, n="2").families[0])
    cells = telemetry_pb2.MetricFamily(name="cellward_agent_cells", type="gauge", help="h")
    cells.samples.append(telemetry_pb2.Sample(name="cellward_agent_cells", value=3))
    batch.families.append(cells)
    assert await metrics.push("eu-1", batch) == 1
    text = await _scrape(metrics)
    assert 'decisions_total{cluster="eu-1",n="1"} 1.0' in text
    assert 'cellward_agent_cells{cluster="eu-1"} 3.0' in text
    assert 'n="2"' not in text


async def test_a_fleet_that_pushes_the_same_series_shares_their_names() -> None:
    """A thousand agents cost their values; what nobody pushes any more is forgotten, what is refused never kept."""
    clock = ManualClock()
    metrics = FleetMetrics(clock)
    for number in range(20):
        await metrics.push(f"c{number}", _batch(value=number, decision="allow"))
    assert len(metrics._shapes) == 1
    assert len({id(snapshot.shape) for snapshot in metrics._snapshots.values()}) == 1
    assert 'decisions_total{cluster="c7",decision="allow"} 7.0' in await _scrape(metrics)
    await metrics.push("c0", _labelled({"cluster": "us-1"}))
    assert len(metrics._shapes) == 1
    clock.advance(301)
    assert metrics.series_count() == 0
    assert (len(metrics._shapes), metrics._snapshots) == (0, {})


async def test_who_pushes_the_same_series_again_costs_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and labels are read once; anything else about them, and they are read again, refused ones too."""
    metrics, read = FleetMetrics(ManualClock()), list[str]()

    def counted(batch: telemetry_pb2.MetricsBatch, limit: int) -> object:
        read.append(batch.families[0].name)
        return _key_of(batch, limit)

    monkeypatch.setattr("hub.metrics.service._key_of", counted)
    for value in (1, 2, float("nan"), 0, 5):
        same = _batch(value=value, decision="allow")
        same.seq, same.at_unix_ms = len(read) + 1, int(metrics.series_count())
        await metrics.push("eu-1", same)
    assert (len(read), metrics.series_count()) == (1, 1)
    assert 'decisions_total{cluster="eu-1",decision="allow"} 5.0' in await _scrape(metrics)
    await metrics.push("eu-1", _batch(value=5, decision="deny"))
    text = await _scrape(metrics)
    assert ('decision="deny"} 5.0' in text, 'decision="allow"' in text, len(read)) == (True, False, 2)
    assert [await metrics.push("eu-1", _batch(cluster="us-1")) for _ in range(2)] == [1, 1]


async def test_values_stay_with_their_series_when_others_are_refused_or_not_a_number() -> None:
    """What is refused takes no neighbour's value along; not a number is news of a gauge only."""
    metrics = FleetMetrics(ManualClock())
    gauge = telemetry_pb2.MetricFamily(name="cellward_agent_cells", type="gauge", help="h")
    gauge.samples.append(telemetry_pb2.Sample(name="cellward_agent_cells", labels={"k": "x"}, value=float("nan")))
    batch = _batch(value=1, n="1")
    nan = float("nan")
    for labels, value in (({"cluster": "no"}, 2.0), ({"n": "3"}, nan), ({"n": "4"}, 4.0)):
        batch.families[0].samples.append(telemetry_pb2.Sample(name=GOOD + "_total", labels=labels, value=value))
    batch.families.append(gauge)
    assert await metrics.push("eu-1", batch) == 2
    assert metrics.series_count() == 3
    text = await _scrape(metrics)
    assert 'decisions_total{cluster="eu-1",n="1"} 1.0' in text
    assert 'decisions_total{cluster="eu-1",n="4"} 4.0' in text
    assert 'n="3"' not in text
    assert 'cellward_agent_cells{cluster="eu-1",k="x"} NaN' in text
