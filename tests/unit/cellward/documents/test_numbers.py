"""Numbers and times of issue: by the author's clock, above what he knows, never far ahead of a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents.numbers import (
    check_number,
    milliseconds,
    next_issued_at,
    next_number,
)
from cellward.errors import Refused
from tests.fakes.refusals import refused

NOW = datetime(2026, 5, 1, 12, 0, 0, 5000, tzinfo=UTC)
CLOCK = milliseconds(NOW)
#: Around everything that matters: small counters of old, the clock, its bound, the highest number there is.
numbers = st.one_of(
    st.integers(1, 10), st.integers(CLOCK - 3, CLOCK + 3), st.integers(CLOCK + 599_997, CLOCK + 600_003),
    st.integers(1, 2**53 - 1),
)  # fmt: skip


def test_the_clock_in_milliseconds() -> None:
    """Whole milliseconds since 1970, whatever the zone."""
    assert CLOCK == 1_777_636_800_005
    assert milliseconds(NOW.astimezone(tz=None) + timedelta(microseconds=999)) == CLOCK
    with refused("document/bad-floor"):
        milliseconds(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test


@given(st.lists(numbers, max_size=6))
def test_the_next_number_is_taken_and_above_all_that_count(known: list[int]) -> None:
    """Whatever was known, what is signed next is taken at once; a clock far ahead is no measure."""
    number = next_number(NOW, known)
    check_number(number, NOW)
    assert number >= CLOCK
    assert all(number > other for other in known if other < CLOCK + 600_000)


@pytest.mark.parametrize(
    ("known", "number"),
    [((), CLOCK), ((7, 3), CLOCK), ((CLOCK, 9), CLOCK + 1), ((CLOCK + 50,), CLOCK + 51), ((CLOCK + 700_000,), CLOCK)],
)
def test_the_next_number(known: tuple[int, ...], number: int) -> None:
    """By the clock; a colleague's that is minutes ahead is passed, one that is hours ahead is nobody's measure."""
    assert next_number(NOW, known) == number


@pytest.mark.parametrize(
    ("ahead", "refused"), [(-(10**12), False), (0, False), (600_000, False), (600_001, True), (10**15, True)]
)
def test_a_number_is_at_most_ten_minutes_ahead(ahead: int, refused: bool) -> None:
    """A thief who signs the highest number there is must not end a cell's updates for good: the floor never falls."""
    if not refused:
        check_number(CLOCK + ahead, NOW)
        return
    with pytest.raises(Refused) as caught:
        check_number(CLOCK + ahead, NOW)
    assert caught.value.code == "document/number-ahead"


@given(st.integers(-(10**9), 10**9))
def test_the_next_time_of_issue_is_after_the_newest(offset: int) -> None:
    """Two machines with clocks minutes apart make no document that looks older than the one before."""
    newest = NOW + timedelta(milliseconds=offset)
    issued = next_issued_at(NOW, newest)
    assert issued >= NOW
    assert issued > newest or newest >= NOW + timedelta(minutes=10)
    assert issued - NOW <= timedelta(minutes=10)
    assert issued.microsecond % 1000 == 0


def test_the_first_time_of_issue_is_now() -> None:
    """Cut to what a document can say, or it would not be read back as it was."""
    assert next_issued_at(NOW + timedelta(microseconds=789)) == NOW
