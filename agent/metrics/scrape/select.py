"""What is kept of a page of metrics in Prometheus's text format; pure.

Invariants:

- Nothing is kept whose name the release does not name; a histogram's or summary's name stands for its series.
- What is kept is bounded, whatever the page says; what does not fit, or cannot be read, is counted.
- A line that cannot be read costs that line and no other.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from agent.metrics.snapshot import SampleValue
from cellward.telemetry.series import POD_SERIES, is_name, own_labels

#: Longest line that is read, characters.
_MOST_LINE: Final = 8_192
#: What the series of a histogram or summary end with.
_PARTS: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Selected:
    """What was kept of one page.

    Attributes:
        series: kept, each once.
        cut: how many more were named, and did not fit.
        unreadable: how many lines of named series mean nothing, or are there twice.
    """

    series: tuple[SampleValue, ...]
    cut: int
    unreadable: int


def select(page: str, names: Collection[str], *, limit: int = POD_SERIES) -> Selected:
    """Keep the series of a page that are named."""
    kept: dict[tuple[str, frozenset[tuple[str, str]]], SampleValue] = {}
    cut = unreadable = 0
    for line in _named(page, frozenset(names)):
        if len(kept) >= limit:
            # Not looked at any more: a page that is too long costs no more than one that fits.
            cut += 1
            continue
        sample = _read(line)
        key = ("", frozenset[tuple[str, str]]()) if sample is None else (sample.name, frozenset(sample.labels.items()))
        if sample is None or key in kept:
            unreadable += 1
        else:
            kept[key] = sample
    return Selected(tuple(kept.values()), cut, unreadable)


def _named(page: str, names: frozenset[str]) -> Iterator[str]:
    """Yield the lines of named series; most of a page is mostly not named, and costs no more than this look."""
    for line in page.split("\n"):
        name = line[: len(line) if (end := _end_of_name(line)) < 0 else end]
        if name in names or any(name.endswith(part) and name.removesuffix(part) in names for part in _PARTS):
            yield line


def _end_of_name(line: str) -> int:
    ends = [place for place in (line.find(mark) for mark in "{ \t") if place >= 0]
    return min(ends, default=-1)


def _read(line: str) -> SampleValue | None:
    if len(line) > _MOST_LINE:
        return None
    try:
        (family,) = text_string_to_metric_families(line + "\n")
        (sample,) = family.samples
        value = float(sample.value)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
        # The parser says in many ways that something is not a sample.
        return None
    labels = own_labels(sample.labels)
    if labels is None or not is_name(sample.name):
        return None
    return SampleValue(sample.name, labels, value)
