"""The diagnostic runner."""

from __future__ import annotations

from collections.abc import Iterator

from cellward.checks.model import Check, Result
from cellward.checks.runner import run_checks, table_lines
from cellward.errors import known
from cli.errors import UNREACHABLE


def _good() -> Iterator[Result]:
    yield Result("hub", "hub/reachable", ok=True, message="answers")


def _bad() -> Iterator[Result]:
    yield Result("clusters", "clusters/policy-engine", ok=True, message="well", subject="eu-1")
    yield Result(
        "clusters", "clusters/policy-engine", ok=False, message="OPA is gone", hint="Look at it.", subject="us-1"
    )


def _down() -> Iterator[Result]:
    yield Result("hub", "hub/configured", ok=True, message="there is an address")
    raise UNREACHABLE("nobody answers")


def test_all_well_is_exit_0() -> None:
    """A report without a red line exits with 0."""
    report = run_checks([Check("hub", "hub/reachable", _good)])
    assert (report.ok, report.exit_code) == (True, 0)


def test_red_line_is_exit_1_with_its_hint() -> None:
    """One red line makes the report red and keeps what to do next."""
    report = run_checks([Check("hub", "hub/reachable", _good), Check("clusters", "clusters/list", _bad)])
    assert report.exit_code == 1
    lines = table_lines(report.results)
    assert "✗ us-1: policy engine: OPA is gone" in lines
    assert "    next: Look at it." in lines
    assert [item["status"] for item in report.to_json()["checks"]] == ["ok", "ok", "failed"]  # type: ignore[attr-defined]


def test_error_of_a_check_becomes_a_red_line_with_the_exit_code_of_the_table() -> None:
    """An unreachable hub is told like everything else; later checks still run."""
    report = run_checks([Check("hub", "hub/reachable", _down), Check("clusters", "clusters/list", _bad)])
    assert report.exit_code == 3
    entry = known("cli/hub-unreachable")
    assert entry is not None
    assert [result.ok for result in report.results] == [True, False, True, False]
    assert report.results[1].hint == entry.hint


def test_skipped_is_not_red() -> None:
    """What could not be looked at is neither green nor red."""
    report = run_checks([Check("a", "a/b", lambda: [Result("a", "a/b", None, "not looked at")])])
    assert report.ok
    assert table_lines(report.results)[-1] == "- b: not looked at"
