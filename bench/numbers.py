"""Percentiles and rows of the result; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


def percentile(values: Iterable[float], share: float) -> float:
    """Return the nearest-rank percentile; ``nan`` of nothing, and when a value is missing: it may be the slowest."""
    given = list(values)
    if not given or any(math.isnan(value) for value in given):
        return math.nan
    ordered = sorted(given)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number.

    Attributes:
        key: name in the JSON, and stable.
        text: what a person reads.
        value: the number; ``nan`` when it could not be measured.
        unit: s, ms, MB, %, or a noun.
        bar: the bar of the design, None when there is none.
        within: on which side of the bar is good.
        note: shown behind the number.
    """

    key: str
    text: str
    value: float
    unit: str
    bar: float | None = None
    within: Literal["most", "least"] = "most"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar. What could not be measured meets none."""
        if self.bar is None:
            return None
        if math.isnan(self.value):
            return False
        return self.value <= self.bar if self.within == "most" else self.value >= self.bar


def table(title: str, rows: Sequence[Row]) -> str:
    """Return the rows as text for a terminal."""
    lines = [title]
    width = max((len(row.text) for row in rows), default=0)
    for row in rows:
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        sign = "≤" if row.within == "most" else "≥"
        bar = "" if row.bar is None else f"{sign} {shown(row.bar)} {row.unit}"
        line = f"  {row.text:<{width}}  {shown(row.value):>9} {row.unit:<7} {bar:<12} {verdict:<7} {row.note}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def shown(value: float) -> str:
    """Return a number with as many digits as mean something."""
    if math.isnan(value):
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def as_json(rows: Iterable[Row]) -> dict[str, object]:
    """Return the rows as the JSON of the last line; what could not be measured is null."""
    return {
        row.key: {
            "value": None if math.isnan(row.value) else round(row.value, 3),
            "unit": row.unit,
            **({} if row.bar is None else {"bar": row.bar, "met": row.met}),
        }
        for row in rows
    }
