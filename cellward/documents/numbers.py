"""How documents are numbered: by the clock of whoever signs them, and by what he knows himself, never by a listing.

Numbers are milliseconds since 1970. Sequences of Deployments and tombstones are numbered so, and versions of TUF
targets, delegations and snapshot.

Invariants: a number that :func:`next_number` returns is above every known one that counts, and :func:`check_number`
takes it at that time. Nobody takes a number more than :data:`MAX_AHEAD` ahead of his clock, so that no wrong clock and
no thief sets a floor that outlives him by more than that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from cellward.documents.errors import NO_FLOOR_VALUE, NUMBER_AHEAD

#: How far ahead of a clock a number may be.
MAX_AHEAD: Final = timedelta(minutes=10)
_MAX_AHEAD: Final = 600_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Return the whole milliseconds from 1970 to a moment; raises document/bad-floor for one without zone."""
    if moment.tzinfo is None:
        raise NO_FLOOR_VALUE("the time has no zone")
    return (moment - _EPOCH) // _MILLISECOND


def next_number(now: datetime, known: Iterable[int] = ()) -> int:
    """Return the number to sign with: the clock's, or one above the highest known that counts."""
    clock = milliseconds(now)
    return max([clock, *(number + 1 for number in known if number < clock + _MAX_AHEAD)])


def newest_number(now: datetime) -> int:
    """Return the highest number that :func:`check_number` takes."""
    return milliseconds(now) + _MAX_AHEAD


def check_number(number: int, now: datetime, what: str = "the sequence") -> None:
    """Refuse a number further ahead of the clock than :data:`MAX_AHEAD` (document/number-ahead)."""
    ahead = number - milliseconds(now)
    if ahead > _MAX_AHEAD:
        raise NUMBER_AHEAD(
            f"{what} {number} is {ahead // 1000} s ahead of this clock, at most {_MAX_AHEAD // 1000} s are taken",
            number=number,
        )


def next_issued_at(now: datetime, newest: datetime | None = None) -> datetime:
    """Return the time of issue to sign with: now, or a millisecond after that of the newest known document.

    Two machines whose clocks differ by minutes so make no document that looks older than what is in force. One further
    ahead than :data:`MAX_AHEAD` is left out, as a number is.
    """
    clock = milliseconds(now)
    after = clock if newest is None else milliseconds(newest) + 1
    return _EPOCH + _MILLISECOND * (clock if after > clock + _MAX_AHEAD else max(clock, after))
