"""Series of cells' own programs at the fleet's endpoint: labelled and bounded here, and always readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from cellward.telemetry.series import CLUSTER_SERIES, MOST_LABELS
from cellward.wire.v1 import telemetry_pb2
from hub.metrics.pods import checked
from hub.metrics.service import FleetMetrics
from tests.fakes.clock import ManualClock


def _pod(
    *series: tuple[str, dict[str, str], float], cell: str = "web", pod: str = "web-1", component: str = "web"
) -> telemetry_pb2.PodSeries:
    said = telemetry_pb2.PodSeries(project="shop", cell=cell, environment="dev", component=component, pod=pod)
    for name, labels, value in series:
        said.series.add(name=name, labels=labels, value=value)
    return said


def _page(metrics: FleetMetrics) -> str:
    return generate_latest(metrics).decode()  # type: ignore[arg-type]  # a collector is all that it asks for


async def test_v3_the_hub_says_whose_it_is() -> None:
    """Cluster by the certificate, the rest by the agent, beside the program's own labels; as untyped series."""
    metrics = FleetMetrics(ManualClock())
    batch = telemetry_pb2.MetricsBatch(pods=[_pod(("http_requests_total", {"code": "200"}, 7.0))])
    assert await metrics.push("eu-1", batch) == 0
    assert await metrics.push("us-1", batch) == 0
    page = _page(metrics)
    labels = 'cell="web",cluster="eu-1",code="200",component="web",environment="dev",pod="web-1",project="shop"'
    assert f"http_requests_total{{{labels}}} 7.0" in page
    assert page.count("# TYPE http_requests_total untyped") == 1
    assert metrics.series_count() == 2


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cellward_hub_connected_agents", {}),
        ("cellward_agent_cells", {}),
        ("up x", {}),
        ("x\n# TYPE y counter", {}),
        ("", {}),
        ("x", {"cluster": "eu-1"}),
        ("x", {"project": "bank"}),
        ("x", {"__name__": "y"}),
        ("x", {'a"b': "c"}),
        ("x", {f"l{number}": "v" for number in range(MOST_LABELS + 1)}),
        ("x", {"a": "v" * 10_000}),
    ],
)
async def test_v16_what_would_pass_for_another_is_refused_and_counted(name: str, labels: dict[str, str]) -> None:
    """The good one beside it is served."""
    metrics = FleetMetrics(ManualClock())
    batch = telemetry_pb2.MetricsBatch(pods=[_pod((name, labels, 1.0), ("good", {}, 2.0))])
    assert await metrics.push("eu-1", batch) == 1
    found = [line for line in _page(metrics).splitlines() if not line.startswith("#")]
    assert [line.partition("{")[0] for line in found] == ["good", "cellward_hub_refused_samples_total"]


@pytest.mark.parametrize("field", ["cell", "component", "pod"])
def test_v16_whose_it_is_must_be_a_name(field: str) -> None:
    """Nothing of it is kept."""
    found = checked([_pod(("x", {}, 1.0), **{field: 'a"} 1'})])
    assert (found.series, found.refused) == ((), 1)


def test_v16_one_cluster_has_so_many_series_and_no_more() -> None:
    """The first of two that are one; the rest is refused."""
    many = _pod(*(("x", {"n": str(number)}, 1.0) for number in range(CLUSTER_SERIES + 5)))
    found = checked([_pod(("x", {}, 1.0), ("x", {}, 2.0)), many, many])
    assert len(found.series) == CLUSTER_SERIES
    assert found.refused == 2 + 2 * (CLUSTER_SERIES + 5) - CLUSTER_SERIES
    assert found.values[0] == 1.0


_TEXT = st.text(alphabet=st.sampled_from('ax_:"\\\n{}=#1.é '), max_size=12)
_SERIES = st.tuples(
    st.one_of(st.sampled_from(["x_total", "x", "x_bucket"]), _TEXT),
    st.dictionaries(_TEXT, _TEXT, max_size=3),
    st.floats(),
)


@given(st.lists(st.tuples(st.lists(_SERIES, max_size=4), st.sampled_from(["web", "b-1", "", "A"])), max_size=4))
async def test_v16_the_page_is_readable_whatever_is_pushed(
    pods: list[tuple[list[tuple[str, dict[str, str], float]], str]],
) -> None:
    """By both of Prometheus's parsers, with each series once."""
    metrics = FleetMetrics(ManualClock())
    await metrics.push("eu-1", telemetry_pb2.MetricsBatch(pods=[_pod(*series, pod=pod) for series, pod in pods]))
    families = list(parser.text_string_to_metric_families(_page(metrics)))
    found = [(one.name, tuple(sorted(one.labels.items()))) for family in families for one in family.samples]
    assert len(found) == len(set(found))
    assert sum(name != "cellward_hub_refused_samples_total" for name, _ in found) == metrics.series_count()
    list(read_openmetrics(generate_openmetrics(metrics).decode()))  # type: ignore[arg-type]  # as above
