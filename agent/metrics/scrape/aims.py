"""Where and what is read of each cell: what the signed release says that runs, and nobody else (V2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from cellward.cells.model import CellSpec
from cellward.cells.spec import spec_of
from cellward.documents.kept import kept_release
from cellward.documents.names import CellKey


@dataclass(frozen=True, slots=True)
class Aim:
    """Port, path and names of one component's metrics."""

    port: int
    path: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell runs, and the digest of the release that does."""

    namespace: str
    release: str


@dataclass(frozen=True, slots=True)
class Aimed:
    """What is read of a cell: its namespace, and an aim for each component that has one."""

    namespace: str
    aims: Mapping[str, Aim]


def aims_of(spec: CellSpec) -> dict[str, Aim]:
    """Return the aims of a cell; pure. A component that names no metrics has none."""
    return {
        name: Aim(component.ports[scrape.port].port, scrape.path, frozenset(scrape.metrics))
        for name, component in spec.components.items()
        if (scrape := component.scrape) is not None and scrape.metrics
    }


class KeptAims:
    """The aims of what runs; each release is read once.

    Args:
        running: returns the cells that run.
        kept: returns a kept document by its digest, None when it is not kept.
    """

    def __init__(
        self, running: Callable[[], Mapping[CellKey, Place]], kept: Callable[[str], Awaitable[bytes | None]]
    ) -> None:
        self._running = running
        self._kept = kept
        self._read: dict[str, dict[str, Aim]] = {}

    async def now(self) -> dict[CellKey, Aimed]:
        """Return what is to be read of each cell that has anything; raises what the store raises."""
        running = self._running()
        self._read = {place.release: await self._aims(place.release) for place in running.values()}
        found = {key: Aimed(place.namespace, self._read[place.release]) for key, place in running.items()}
        return {key: aimed for key, aimed in found.items() if aimed.aims}

    async def _aims(self, release: str) -> dict[str, Aim]:
        if (known := self._read.get(release)) is not None:
            return known
        found = kept_release(await self._kept(release))
        return {} if found is None else aims_of(spec_of(found))
