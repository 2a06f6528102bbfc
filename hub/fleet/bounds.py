"""How much one project may have on this hub, so that none starves another; pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hub.fleet.errors import PROJECT_FULL
from hub.fleet.model import IndexEntry
from hub.store.interfaces import DocumentRow, Usage


@dataclass(frozen=True, slots=True)
class Bounds:
    """Per project: verified documents, others (pending ones), bytes of envelopes, cells times environments.

    Agents hold 4,096 items; four projects at their bound still fit into one cluster.
    """

    documents: int = 20_000
    pending: int = 256
    bytes: int = 512 * 1024**2
    items: int = 1_000


def check_bounds(
    bounds: Bounds, rows: Iterable[DocumentRow], kept: Iterable[IndexEntry], usage: Mapping[str, Usage]
) -> None:
    """Refuse new documents beyond the bounds of their project; raises fleet/project-full.

    ``rows`` are those not kept yet, ``usage`` has every project among them. What a verified document may take and what
    waits for signatures are counted apart, so that neither keeps the other out.
    """
    placed: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for entry in kept:
        placed[entry.project].update((entry.cell, environment) for environment in _placed(entry))
    verified, pending, size = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        project, used = row.project, usage[row.project]
        (verified if row.standing == "verified" else pending)[project] += 1
        size[project] += len(row.envelope)
        if row.kind in _PLACING:
            placed[project].update((row.cell, environment) for environment in row.environments)
        for what, has, most in (
            ("documents", used.verified + verified[project], bounds.documents),
            ("documents that wait for signatures", used.others + pending[project], bounds.pending),
            ("bytes of documents", used.bytes + size[project], bounds.bytes),
            ("cells in environments", len(placed[project]), bounds.items),
        ):
            if has > most:
                raise PROJECT_FULL(
                    f"project {project} would have {has} {what}, at most {most} are kept", project=project
                )


_PLACING = frozenset({"deployment", "tombstone"})


def _placed(entry: IndexEntry) -> tuple[str, ...]:
    return entry.environments if entry.kind in _PLACING else ()
