"""Pure rules of the local state: what is newest, which number comes next, what a faulty clock left behind.

A number or time more than MAX_AHEAD beyond this machine's clock is a clock fault: everybody refuses it, so it counts
for nothing here either, and is reported. It stays until `cellward trust repair` takes it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from cellward.documents.numbers import MAX_AHEAD, milliseconds
from cli.state.errors import BAD_STATE, NUMBER_USED
from cli.state.model import Key, Record, State

#: Records kept of one cell, besides those that are newest somewhere.
KEPT = 32


@dataclass(frozen=True, slots=True)
class Fault:
    """A number beyond this machine's clock."""

    what: str
    number: int


def bound(now: datetime) -> int:
    """Return the highest number that counts now, in milliseconds since 1970: one that a next one can still follow."""
    return milliseconds(now + MAX_AHEAD) - 1


def name_of(key: Key) -> str:
    """``project/cell``."""
    return "/".join(key)


def faults(state: State, now: datetime) -> tuple[Fault, ...]:
    """Every number of the state that is a clock fault; TUF's root counts from 1 and is none."""
    limit = bound(now)
    found = {Fault(f"sequence of {name}", number) for name, number in state.sequences.items() if number > limit}
    found |= {Fault(f"sequence of {name_of(one.key)}", one.sequence) for one in state.documents if one.sequence > limit}
    found |= {Fault(f"floor of {role}", floor.version) for role, floor in state.floors.items() if floor.version > limit}
    found |= {Fault(f"version of the lock of {name}", since) for name, since in state.locks.items() if since > limit}
    return tuple(sorted(found, key=lambda fault: (fault.what, fault.number)))


def without_faults(state: State, now: datetime) -> State:
    """Return the state without what :func:`faults` reports; a lock stays, with a version that a set can reach."""
    limit = bound(now)
    sequences = {name: number for name, number in state.sequences.items() if number <= limit}
    documents = tuple(one for one in state.documents if one.sequence <= limit)
    for one in documents:
        if one.sequence:
            sequences[name_of(one.key)] = max(sequences.get(name_of(one.key), 0), one.sequence)
    floors = {role: floor for role, floor in state.floors.items() if floor.version <= limit}
    locks = {name: min(since, limit) for name, since in state.locks.items()}
    return state.model_copy(update={"sequences": sequences, "floors": floors, "locks": locks, "documents": documents})


def numbers(state: State, key: Key) -> tuple[int, ...]:
    """Every number used for a cell, faults included: ``next_number`` leaves those out."""
    kept = state.sequences.get(name_of(key))
    return tuple({one.sequence for one in _of(state, key) if one.sequence} | ({kept} if kept else set()))


def newest(state: State, key: Key, environment: str, now: datetime) -> Record | None:
    """The newest own Deployment or tombstone of a cell in an environment."""
    limit = bound(now)
    found = [
        one for one in _of(state, key) if one.own and environment in one.environments and 0 < one.sequence <= limit
    ]
    return max(found, key=lambda one: one.sequence, default=None)


def newest_issued(state: State, key: Key, now: datetime) -> datetime | None:
    """The latest time of issue among own Deployments and tombstones of a cell."""
    times = [one.issued_at for one in _of(state, key) if one.sequence and one.issued_at <= now + MAX_AHEAD]
    return max(times, default=None)


def releases(state: State, key: Key) -> tuple[Record, ...]:
    """Releases of a cell known here, newest first."""
    found = [one for one in _of(state, key) if one.kind == "release"]
    return tuple(sorted(found, key=lambda one: one.issued_at, reverse=True))


def find(state: State, digest: str) -> Record | None:
    """The record of a digest."""
    return next((one for one in state.documents if one.digest == digest), None)


def required(state: State, digest: str) -> Record:
    """The record of a digest; raises cli/bad-state for none."""
    found = find(state, digest)
    if found is None:
        raise BAD_STATE(f"{digest} is not in local memory")
    return found


def remember(state: State, *records: Record) -> State:
    """Add records and raise the sequences; raises cli/number-used for a number that stands for another document."""
    documents = {one.digest: one for one in state.documents}
    sequences = dict(state.sequences)
    for record in records:
        for other in documents.values() if record.sequence else ():
            if (other.key, other.sequence) == (record.key, record.sequence) and other.digest != record.digest:
                raise NUMBER_USED(f"{record.sequence} of {name_of(record.key)} is {other.digest}")
        documents[record.digest] = record
        if record.sequence:
            name = name_of(record.key)
            sequences[name] = max(sequences.get(name, 0), record.sequence)
    return state.model_copy(
        update={"documents": tuple(_kept(documents.values())), "sequences": dict(sorted(sequences.items()))}
    )


def delivered(state: State, digests: Iterable[str]) -> State:
    """Mark documents as taken by a hub."""
    taken = set(digests)
    return state.model_copy(
        update={
            "documents": tuple(
                one.model_copy(update={"delivered": True}) if one.digest in taken else one for one in state.documents
            )
        }
    )


def _of(state: State, key: Key) -> Iterator[Record]:
    return (one for one in state.documents if one.key == key)


def _kept(documents: Iterable[Record]) -> list[Record]:
    """Leave out what is old: everything newest somewhere stays with its release, and so do KEPT records of a cell."""
    ordered = sorted(documents, key=lambda one: (one.issued_at, one.sequence, one.digest), reverse=True)
    counts: dict[Key, int] = {}
    seen: set[tuple[Key, str]] = set()
    needed: set[str] = set()
    kept: list[Record] = []
    for one in ordered:
        counts[one.key] = counts.get(one.key, 0) + 1
        fresh = {(one.key, environment) for environment in one.environments} - seen
        if one.sequence:
            seen |= fresh
        if counts[one.key] <= KEPT or fresh or one.digest in needed:
            kept.append(one)
            needed |= {one.release} if one.release else set()
    return kept[::-1]
