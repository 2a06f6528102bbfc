"""Floors: what was accepted once is never undercut, in sequence or in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from cellward.documents.errors import (
    BEFORE_MINIMUM,
    CLOCK_BACK,
    EQUAL_SEQUENCE,
    NO_FLOOR_VALUE,
    OLDER_ISSUE,
    OLDER_SEQUENCE,
)
from cellward.documents.fields import format_time

#: A step back of the clock up to this is taken as correction, beyond it is a finding.
MAX_STEP_BACK = timedelta(minutes=5)
#: A step ahead up to this, against the monotonic clock, enters the floor at once.
MAX_STEP_AHEAD = timedelta(minutes=10)
#: A longer one does when it has lasted this long.
CONFIRMED_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Floor:
    """Highest accepted sequence of one (project, cell, environment), which document it was, and when it was issued.

    ``issued_at`` is None where it is not known; then no time is compared.
    """

    sequence: int
    digest: str
    issued_at: datetime | None = None


class FloorDecision(Enum):
    """What a floor says of a document that it does not refuse."""

    ACCEPT_NEW = "accept-new"
    ACCEPT_SAME = "accept-same"


def check_floor(current: Floor | None, sequence: int, digest: str, issued_at: datetime) -> FloorDecision:
    """Compare a Deployment or tombstone with the floor.

    Raises document/older-sequence when something newer was accepted, document/equal-sequence-other-digest when
    somebody signed two documents with one sequence (the latter is a finding as well), and document/issued-before when
    it was issued before what is in force: a higher number alone must not bring older content back.
    """
    if sequence < 1:
        raise NO_FLOOR_VALUE(f"sequence {sequence} is below 1")
    if current is None:
        return FloorDecision.ACCEPT_NEW
    if sequence > current.sequence:
        if current.issued_at is not None and issued_at < current.issued_at:
            raise OLDER_ISSUE(
                f"sequence {sequence} was issued at {format_time(issued_at)}, sequence {current.sequence}, which is in "
                f"force, at {format_time(current.issued_at)}",
                sequence=sequence, floor=current.sequence,
            )  # fmt: skip
        return FloorDecision.ACCEPT_NEW
    if sequence < current.sequence:
        raise OLDER_SEQUENCE(
            f"sequence {sequence} is below the accepted {current.sequence}", sequence=sequence, floor=current.sequence
        )
    if digest != current.digest:
        raise EQUAL_SEQUENCE(
            f"sequence {sequence} was accepted with digest {current.digest}, now it comes with {digest[:80]}",
            sequence=sequence, accepted=current.digest, offered=digest[:80],
        )  # fmt: skip
    return FloorDecision.ACCEPT_SAME


def check_first_contact(issued_at: datetime, minimum: datetime | None) -> None:
    """Refuse, where nothing of a cell was ever accepted, what was issued before the signed minimum.

    A new cluster, or one that lost its state and the copy of it, has no floor: without a minimum a hub could hand it
    any Deployment that is still good. Raises document/below-minimum; no minimum refuses nothing.
    """
    if minimum is not None and issued_at < minimum:
        raise BEFORE_MINIMUM(
            f"it was issued at {format_time(issued_at)}; without memory of the cell nothing issued before "
            f"{format_time(minimum)} is accepted",
        )


@dataclass(frozen=True, slots=True)
class Trusted:
    """How far the clock is believed: ``time`` at the monotonic reading ``at``.

    ``doubted_since`` is the monotonic reading when the clock was first seen further ahead than that, None while it is
    not.
    """

    time: datetime
    at: float
    doubted_since: float | None = None


class TimeFloor:
    """The durable floor of the agent's clock."""

    @staticmethod
    def believe(before: Trusted, now: datetime, monotonic: float) -> Trusted:
        """Return how far a reading of the clock is believed, by the machine's monotonic clock.

        A floor never falls, so a clock that jumped ahead would refuse everything after it was set right, until real
        time has caught up. A jump beyond MAX_STEP_AHEAD is therefore believed only when it has lasted CONFIRMED_AFTER.
        """
        expected = before.time + timedelta(seconds=max(0.0, monotonic - before.at))
        if now - expected <= MAX_STEP_AHEAD:
            return Trusted(now, monotonic)
        since = monotonic if before.doubted_since is None else before.doubted_since
        if monotonic - since >= CONFIRMED_AFTER.total_seconds():
            return Trusted(now, monotonic)
        return Trusted(expected, monotonic, since)

    @staticmethod
    def advance(floor: datetime | None, now: datetime) -> datetime:
        """Return the new floor, never below the old one; raises document/clock-stepped-back past five minutes."""
        if now.tzinfo is None:
            raise NO_FLOOR_VALUE("the time has no zone")
        if floor is None:
            return now
        if floor - now > MAX_STEP_BACK:
            behind = int((floor - now).total_seconds())
            raise CLOCK_BACK(f"the clock is {behind} s behind the last time it showed", seconds=behind)
        return max(floor, now)
