"""How much one project may have on this hub, so that none starves another; pure.

Invariants: a document that verifies is never refused because of documents that do not; what does not verify makes way,
and of that which waits for signatures the owner who has most; what an agent was given stays (V14).
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.documents.errors import PROJECT_FULL
from hub.placement.model import IndexEntry

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Bounds:
    """Per project: verified documents, those that wait for signatures, bytes of envelopes, cells times environments.

    Agents hold 4,096 items; four projects at their bound still fit into one cluster.
    """

    documents: int = 20_000
    pending: int = 256
    bytes: int = 512 * 1024**2
    items: int = 1_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What a project has already.

    Attributes:
        documents: verified documents, besides those that are uploaded again; ``size``: bytes of their envelopes.
        places: cells times environments with a document in force, with those of the upload.
        loose: what does not verify, in the order it came, besides what is uploaded again. Those that were verified
            before may be left out where there is room for all.
    """

    documents: int = 0
    size: int = 0
    places: int = 0
    loose: tuple[IndexEntry, ...] = ()


def make_room(
    bounds: Bounds,
    project: str,
    fresh: Iterable[IndexEntry],
    kept: Kept,
    now: datetime,
    placed: frozenset[str] = frozenset(),
) -> tuple[IndexEntry, ...]:
    """Return what makes way for an upload; raises fleet/project-full where nothing can.

    ``fresh`` is what is uploaded of the project. ``placed`` are documents that agents were given: where they do not
    verify any more they neither count nor go.
    """
    given = list(fresh)
    verified = [entry for entry in given if entry.verified]
    documents, size = kept.documents + len(verified), kept.size + sum(map(_size, verified))
    if verified:
        # What agents could take is bounded by itself; nothing else counts here.
        _check(project, "documents", documents, bounds.documents)
        _check(project, "bytes of documents", size, bounds.bytes)
        _check(project, "cells in environments", kept.places, bounds.items)
    loose = [entry for entry in kept.loose if entry.digest not in placed]
    waiting = [entry for entry in given if not entry.verified]
    room = (bounds.documents + bounds.pending - documents, bounds.bytes - size)
    return tuple(_make_way(bounds, project, room, waiting, loose, now))


def _make_way(
    bounds: Bounds,
    project: str,
    room: tuple[int, int],
    waiting: list[IndexEntry],
    loose: list[IndexEntry],
    now: datetime,
) -> list[IndexEntry]:
    """Choose among ``loose``, what is kept and does not verify; ``waiting`` is what comes and does not.

    ``room`` are the documents and bytes that verified ones leave.
    """
    gone = [entry for entry in loose if not entry.once and entry.not_after is not None and entry.not_after < now]
    loose = _without(loose, gone)
    # What was verified once may be completed again, when a threshold rose: it takes no place of what never was.
    new = [entry for entry in waiting if not entry.once]
    if new:
        more = _evict([entry for entry in loose if not entry.once], new, bounds.pending, _one)
        gone, loose = gone + more, _without(loose, more)
        _check(project, "documents that wait for signatures", len(new), bounds.pending)
    for weigh, left in zip((_one, _size), room, strict=True):
        more = _evict(loose, waiting, left, weigh)
        gone, loose = gone + more, _without(loose, more)
    if waiting:
        size = bounds.bytes - room[1] + sum(map(_size, waiting))
        _check(project, "bytes of documents", size, bounds.bytes)
    return gone


def _evict(
    candidates: Iterable[IndexEntry], coming: Iterable[IndexEntry], room: int, weigh: Callable[[IndexEntry], int]
) -> list[IndexEntry]:
    """Choose the fewest of the candidates, oldest first, that must go until what is left fits; all where none does.

    First goes what nobody signed who counts, then what is signed by those alone who have most: whoever adds his
    signature to another's document does not make it go.
    """
    groups: defaultdict[tuple[str, ...], deque[IndexEntry]] = defaultdict(deque)
    has, total = Counter[str](), 0
    for entry, stays in (*((entry, True) for entry in coming), *((entry, False) for entry in candidates)):
        total += weigh(entry)
        has.update(dict.fromkeys(entry.owners, weigh(entry)))
        if not stays:
            groups[entry.owners].append(entry)
    gone: list[IndexEntry] = []
    while total > room and groups:
        owners = max(groups, key=lambda names: (not names, min((has[name] for name in names), default=0), names))
        entry = groups[owners].popleft()
        if not groups[owners]:
            del groups[owners]
        total -= weigh(entry)
        has.subtract(dict.fromkeys(owners, weigh(entry)))
        gone.append(entry)
    return gone


def _check(project: str, what: str, has: int, most: int) -> None:
    if has > most:
        raise PROJECT_FULL(f"project {project} would have {has} {what}, at most {most} are kept", project=project)


def _without(entries: Iterable[IndexEntry], gone: Iterable[IndexEntry]) -> list[IndexEntry]:
    digests = {entry.digest for entry in gone}
    return [entry for entry in entries if entry.digest not in digests]


def _one(_: IndexEntry) -> int:
    return 1


def _size(entry: IndexEntry) -> int:
    return entry.size
