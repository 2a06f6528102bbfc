"""Floors of sequence and of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents.floors import Floor, FloorDecision, TimeFloor, Trusted, check_first_contact, check_floor
from cellward.errors import CellwardError, Refused
from tests.fakes.refusals import refused

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
offers = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["sha256:a", "sha256:b"])), max_size=30)


@given(offers)
def test_a_floor_never_goes_down(listed: list[tuple[int, str]]) -> None:
    """Whatever is offered in whatever order, sequence never falls and one sequence is one digest."""
    floor: Floor | None = None
    accepted: dict[int, str] = {}
    for sequence, digest in listed:
        try:
            decision = check_floor(floor, sequence, digest, NOW)
        except CellwardError:
            assert floor is not None
            assert sequence < floor.sequence or (sequence == floor.sequence and digest != floor.digest)
            continue
        assert floor is None or sequence >= floor.sequence
        assert accepted.setdefault(sequence, digest) == digest
        assert (decision is FloorDecision.ACCEPT_SAME) == (floor == Floor(sequence, digest))
        floor = Floor(sequence, digest)


@pytest.mark.parametrize(
    ("sequence", "digest", "later", "code"),
    [
        (6, "sha256:b", 0, ""),
        (6, "sha256:b", 1, ""),
        (6, "sha256:b", -1, "document/issued-before"),
        (9, "sha256:a", -(10**9), "document/issued-before"),
        (5, "sha256:a", -1, ""),
        (4, "sha256:b", 1, "document/older-sequence"),
        (5, "sha256:b", 1, "document/equal-sequence-other-digest"),
    ],
)
def test_a_higher_number_does_not_make_older_content_newer(sequence: int, digest: str, later: int, code: str) -> None:
    """What was issued before what is in force is refused, whatever its number; the same document is the same."""
    current = Floor(5, "sha256:a", NOW)
    issued = NOW + timedelta(milliseconds=later)
    if not code:
        check_floor(current, sequence, digest, issued)
        return
    with pytest.raises(Refused) as caught:
        check_floor(current, sequence, digest, issued)
    assert caught.value.code == code


def test_first_contact_has_a_signed_minimum() -> None:
    """A cluster without memory takes nothing from before the minimum, and anything while none is signed."""
    check_first_contact(NOW, None)
    check_first_contact(NOW, NOW)
    with pytest.raises(Refused) as caught:
        check_first_contact(NOW - timedelta(milliseconds=1), NOW)
    assert caught.value.code == "document/below-minimum"


def test_codes_of_refused_floors() -> None:
    """Older, and equal with another digest, are different findings."""
    current = Floor(5, "sha256:a")
    for sequence, digest, code in (
        (4, "sha256:a", "document/older-sequence"),
        (5, "sha256:b", "document/equal-sequence-other-digest"),
    ):
        with pytest.raises(Refused) as caught:
            check_floor(current, sequence, digest, NOW)
        assert caught.value.code == code
    with refused("document/bad-floor"):
        check_floor(None, 0, "sha256:a", NOW)


@given(st.lists(st.integers(-700, 700), max_size=20))
def test_the_time_floor_never_goes_down(steps: list[int]) -> None:
    """A small step back is absorbed, a large one refused; the floor stays where it was."""
    floor: datetime | None = None
    clock = NOW
    for step in steps:
        clock += timedelta(seconds=step)
        if floor is not None and floor - clock > timedelta(minutes=5):
            with pytest.raises(Refused) as caught:
                TimeFloor.advance(floor, clock)
            assert caught.value.code == "document/clock-stepped-back"
            continue
        advanced = TimeFloor.advance(floor, clock)
        assert advanced >= clock
        assert floor is None or advanced >= floor
        floor = advanced


def trust(*readings: tuple[float, float]) -> list[tuple[float, bool]]:
    """Believe readings (seconds on the clock, seconds that passed); return how far, and whether it is doubted."""
    believed, found = Trusted(NOW, 0.0), []
    for clock, passed in readings:
        believed = TimeFloor.believe(believed, NOW + timedelta(seconds=clock), passed)
        found.append(((believed.time - NOW).total_seconds(), believed.doubted_since is not None))
    return found


@pytest.mark.parametrize(
    ("readings", "believed"),
    [
        ([(60, 60), (700, 700)], [(60, False), (700, False)]),
        # Up to ten minutes ahead of what passed is a correction.
        ([(660, 60), (661, 61)], [(660, False), (661, False)]),
        # Beyond, the floor follows what passed, until the clock is right again.
        ([(661, 60), (900, 299), (400, 400)], [(60, True), (299, True), (400, False)]),
        ([(10**8, 60), (10**8, 3659), (10**8, 3660)], [(60, True), (3659, True), (10**8, False)]),
        # Right for a moment in between: the hour begins anew.
        ([(10**6, 60), (120, 120), (10**6, 180), (10**6, 3700)], [(60, True), (120, False), (180, True), (3700, True)]),
        # Backwards is the business of the floor itself.
        ([(-1000, 60), (120, 1180)], [(-1000, False), (120, False)]),
    ],
)
def test_a_jump_ahead_is_believed_when_it_lasts(
    readings: list[tuple[float, float]], believed: list[tuple[float, bool]]
) -> None:
    """The floor never falls: a clock that was ahead for a moment must not refuse everything afterwards."""
    assert trust(*readings) == believed


def test_time_needs_a_zone() -> None:
    """A naive time is a mistake of the caller."""
    with refused("document/bad-floor"):
        TimeFloor.advance(None, datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test
