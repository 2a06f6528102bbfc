"""Where a key stands in the line of keys of one identity, and which certificate follows (V7). Pure.

Each renewal certifies generation n + 1. It counts from its first use; until then whoever holds n may ask again for the
*same* new key, because the answer may have been lost. Whoever shows anything else shows that two hold one identity.

Invariants: nobody below the floor goes on; a key is never followed by two others; the generation never goes down.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hub.store.interfaces import ClusterRow

#: Seconds after a renewal in which an agent may still speak on the channel it is leaving; longer than it keeps one.
HANDOVER: Final = 60.0
#: Generations left free when certificates are taken out of force: a store that was restored has forgotten renewals,
#: each at least a quarter of an hour apart, and none of them may come out above the new floor.
TAKE_OVER: Final = 4096


class Place(Enum):
    """Where a key stands."""

    #: The newest one certified.
    NEWEST = auto()
    #: The one before, and the newest was not used yet.
    BEFORE = auto()
    #: Certified by us and unknown to the store, which therefore was restored.
    AHEAD = auto()
    #: A newer one is in use: there are two holders.
    STALE = auto()
    #: Another installation, or a new key asked for by a person, has taken its place.
    REPLACED = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """The certificate that follows, and the key that may ask for it again."""

    generation: int
    previous_spki_sha256: str


def place_of(line: ClusterRow, spki_sha256: str, generation: int) -> Place:
    """Say where a key stands whose certificate has this generation."""
    if generation < line.generation_floor:
        return Place.REPLACED
    if spki_sha256 == line.spki_sha256:
        return Place.NEWEST
    if spki_sha256 == line.previous_spki_sha256:
        return Place.BEFORE
    return Place.AHEAD if generation > line.generation else Place.STALE


def next_step(line: ClusterRow, held: str, generation: int, wanted: str) -> Step | None:
    """Certificate for the key ``wanted`` asked for by the holder of ``held``; None when there are two holders.

    Who is below the floor is the caller's to refuse first.
    """
    match place_of(line, held, generation):
        case Place.NEWEST | Place.BEFORE if wanted == line.spki_sha256:
            # Asked for again: the answer was lost.
            return Step(line.generation, line.previous_spki_sha256)
        case Place.NEWEST:
            return Step(line.generation + 1, held)
        case Place.AHEAD:
            return Step(max(line.generation, generation) + 1, held)
        case _:
            return None


def is_handover(bound_at: datetime | None, now: datetime) -> bool:
    """Whether the newest certificate is so new that its agent may still have calls in flight with the one before."""
    return bound_at is not None and (now - bound_at).total_seconds() < HANDOVER
