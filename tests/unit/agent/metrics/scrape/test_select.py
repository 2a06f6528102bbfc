"""What is kept of a page of metrics: what is named, bounded, and never at the cost of anything else."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.metrics.scrape.select import select
from agent.metrics.snapshot import SampleValue
from cellward.telemetry.series import MOST_LABELS, MOST_VALUE, OWN_LABELS, POD_SERIES, is_name

_PAGE = """\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200",method="GET"} 1027 1395066363000
http_requests_total{code="500"} 3
# TYPE latency_seconds histogram
latency_seconds_bucket{le="0.1"} 5
latency_seconds_bucket{le="+Inf"} 7
latency_seconds_sum 1.5
latency_seconds_count 7
latency_seconds_created 1.6e9
secrets_in_memory{key="hunter2"} 1
process_start_time_seconds 1.7e9
"""


def test_only_what_is_named_is_kept() -> None:
    """A histogram's name stands for its series; nothing else leaves the cell."""
    found = select(_PAGE, ["http_requests_total", "latency_seconds"])
    assert [(one.name, dict(one.labels), one.value) for one in found.series] == [
        ("http_requests_total", {"code": "200", "method": "GET"}, 1027.0),
        ("http_requests_total", {"code": "500"}, 3.0),
        ("latency_seconds_bucket", {"le": "0.1"}, 5.0),
        ("latency_seconds_bucket", {"le": "+Inf"}, 7.0),
        ("latency_seconds_sum", {}, 1.5),
        ("latency_seconds_count", {}, 7.0),
    ]
    assert (found.cut, found.unreadable) == (0, 0)
    assert select(_PAGE, []).series == ()


def test_v3_labels_of_ours_are_kept_under_another_name() -> None:
    """No program says whose its series are."""
    (one,) = select('up_x{cluster="eu-1",pod="other",a="b"} 1', ["up_x"]).series
    assert dict(one.labels) == {"exported_cluster": "eu-1", "exported_pod": "other", "a": "b"}
    assert select('up_x{cluster="eu-1",exported_cluster="x"} 1', ["up_x"]).unreadable == 1


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "x{",
        'x{a="b} 1',
        'x{a="b"} one',
        'x{a="1",a="2"} 1',
        "x 1 2 3 4",
        'x{__name__="y"} 1',
        "x{a=" + '"' + "v" * (MOST_VALUE + 1) + '"} 1',
        "x{" + ",".join(f'l{n}="v"' for n in range(MOST_LABELS + 1)) + "} 1",
        "x" + " " * 10_000 + "1",
    ],
)
def test_v16_a_line_that_means_nothing_costs_itself(line: str) -> None:
    """What stands before and after it is kept."""
    found = select(f'x 1\n{line}\nx{{n="2"}} 2\n', ["x"])
    assert [one.value for one in found.series] == [1.0, 2.0]
    assert found.unreadable == 1


def test_v16_one_pod_has_so_many_series_and_no_more() -> None:
    """The rest is counted; the first one of two that are one is kept."""
    page = "\n".join(f'x{{n="{number}"}} {number}' for number in range(POD_SERIES + 7))
    found = select(page, ["x"])
    assert (len(found.series), found.cut) == (POD_SERIES, 7)
    twice = select('x{a="1",b="2"} 1\nx{b="2",a="1"} 2\n', ["x"])
    assert ([one.value for one in twice.series], twice.unreadable) == ([1.0], 1)


def test_values_that_are_not_numbers_are_values() -> None:
    """Prometheus has them: a quantile without observations is not a number."""
    first, second = select("x NaN\ny +Inf\n", ["x", "y"]).series
    assert math.isnan(first.value)
    assert second.value == math.inf


@example('cellward_agent_condition{condition="x"} 1\n')
@given(st.text(alphabet=st.sampled_from('abx_{}=",\\ \n1.-+eNaI#\t\r\x00é'), max_size=400))
def test_v16_any_page_is_read(page: str) -> None:
    """Whatever it says: no name but a named one, none of ours, no label of ours."""
    found = select(page, ["x", "ab", "cellward_agent_condition"])
    for one in found.series:
        _sane(one)


def _sane(one: SampleValue) -> None:
    assert one.name in {base + part for base in ("x", "ab") for part in ("", "_bucket", "_sum", "_count")}
    assert is_name(one.name)
    assert not OWN_LABELS & set(one.labels)
