"""What cells use against what they ask for, as ``cellward cells top`` shows it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from cellward.api.usage import CellUsage

_UNITS: Final = ("B", "Ki", "Mi", "Gi", "Ti", "Pi")


class Sort(StrEnum):
    """What comes first."""

    cpu = "cpu"
    memory = "memory"


ProjectOption = Annotated[list[str] | None, typer.Option("--project", help="Only of this project; may be repeated.")]
SortOption = Annotated[Sort, typer.Option("--sort", help="Who uses most of this comes first.")]


def chosen(
    items: Iterable[CellUsage], *, clusters: Collection[str], projects: Collection[str], sort: Sort
) -> list[CellUsage]:
    """Those of some clusters and projects, or of all; who uses most first, of whom nobody knows last."""
    found = [
        item
        for item in items
        if (not clusters or item.cluster in clusters) and (not projects or item.project in projects)
    ]

    def order(item: CellUsage) -> tuple[float, tuple[str, ...]]:
        used = item.cpu_cores if sort is Sort.cpu else item.memory_bytes
        return (1.0 if used is None else -used, (item.cluster, item.project, item.cell, item.environment))

    return sorted(found, key=order)


def remarks(items: Sequence[CellUsage]) -> Iterator[str]:
    """What has to be known about the numbers."""
    old = [item for item in items if item.state == "old"]
    unknown = [item for item in items if item.state == "unknown"]
    if old:
        since = min(item.measured_at for item in old if item.measured_at is not None)
        yield f"{len(old)} of {len(items)} are old, the oldest from {since:%Y-%m-%d %H:%M:%S} UTC"
    if unknown:
        yield (
            f"{len(unknown)} of {len(items)} are unknown: their cluster has no metrics server or no link to this hub, "
            "or none of their pods runs"
        )


def _cores(cores: float | None) -> str:
    return "-" if cores is None else f"{cores:.3f}"


def _bytes(amount: float | None) -> str:
    """Bytes with three figures: 512B, 1.50Mi."""
    if amount is None:
        return "-"
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f}{_UNITS[unit]}" if not unit or amount >= 100 else f"{amount:.3g}{_UNITS[unit]}"


def _share(used: float | None, asked: float | None) -> str:
    return f"{100 * used / asked:.0f}%" if used is not None and asked else "-"


COLUMNS: Final[tuple[tuple[str, Callable[[CellUsage], str]], ...]] = (
    ("cluster", lambda item: item.cluster),
    ("cell", lambda item: f"{item.project}/{item.cell}"),
    ("environment", lambda item: item.environment),
    ("pods", lambda item: "-" if item.pods is None else str(item.pods)),
    ("cpu", lambda item: _cores(item.cpu_cores)),
    ("cpu requested", lambda item: _cores(item.cpu_requests_cores)),
    ("cpu %", lambda item: _share(item.cpu_cores, item.cpu_requests_cores)),
    ("memory", lambda item: _bytes(item.memory_bytes)),
    ("memory requested", lambda item: _bytes(item.memory_requests_bytes)),
    ("memory %", lambda item: _share(item.memory_bytes, item.memory_requests_bytes)),
    ("state", lambda item: item.state),
)
