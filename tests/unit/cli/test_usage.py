"""What ``cellward cells top`` makes of the API's answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cellward.api.usage import CellUsage
from cli.usage import COLUMNS, Sort, chosen, remarks


def usage(cluster: str = "eu-1", project: str = "shop", **fields: Any) -> CellUsage:
    """One row."""
    return CellUsage(project=project, cell="cart", environment="dev", cluster=cluster, **fields)


def row(item: CellUsage) -> dict[str, str]:
    """The row as it is shown."""
    return {heading: get(item) for heading, get in COLUMNS}


BUSY = usage("eu-1", state="current", pods=3, cpu_cores=0.5, memory_bytes=3 * 2**20, cpu_requests_cores=2.0)
FAT = usage("us-1", state="current", pods=1, cpu_cores=0.25, memory_bytes=2.0**30, memory_requests_bytes=2.0**31)
UNKNOWN = usage("ap-1", project="bank")


def test_usage_is_shown_against_requests() -> None:
    """A percentage only where something is requested."""
    shown = row(BUSY)
    assert [shown[name] for name in ("pods", "cpu", "cpu requested", "cpu %")] == ["3", "0.500", "2.000", "25%"]
    assert [shown[name] for name in ("memory", "memory requested", "memory %")] == ["3Mi", "-", "-"]
    assert (row(FAT)["memory"], row(FAT)["memory %"]) == ("1Gi", "50%")


def test_unknown_is_never_zero() -> None:
    """Also of what is requested."""
    shown = row(UNKNOWN)
    assert {shown[name] for name in ("pods", "cpu", "cpu %", "memory", "memory requested")} == {"-"}
    assert shown["state"] == "unknown"


@pytest.mark.parametrize(("sort", "first"), [(Sort.cpu, BUSY), (Sort.memory, FAT)])
def test_who_uses_most_comes_first_and_unknown_last(sort: Sort, first: CellUsage) -> None:
    """Zero is before unknown."""
    idle = usage("za-1", state="current", pods=1, cpu_cores=0.0, memory_bytes=0.0)
    found = chosen([UNKNOWN, idle, FAT, BUSY], clusters=(), projects=(), sort=sort)
    assert found[0] is first
    assert found[2:] == [idle, UNKNOWN]


def test_clusters_and_projects_narrow() -> None:
    """Each of several will do."""
    assert chosen([UNKNOWN, FAT, BUSY], clusters=["us-1", "ap-1"], projects=["shop"], sort=Sort.cpu) == [FAT]


def test_it_says_what_is_old_and_what_is_unknown() -> None:
    """And nothing where all is well."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    old = usage(state="old", measured_at=at, pods=1, cpu_cores=1.0, memory_bytes=1.0)
    assert list(remarks([BUSY, FAT])) == []
    first, second = remarks([BUSY, old, UNKNOWN])
    assert first == "1 of 3 are old, the oldest from 2026-01-01 00:00:00 UTC"
    assert second.startswith("1 of 3 are unknown: ")
