"""Who has a lease, as a decision: time says who may begin, the token who may write."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.errors import CellwardError
from hub.store.leases import Lease, first
from tests.contract.store_rows import NOW

LIFE = timedelta(seconds=15)
KEPT = Lease("job", "a", 4, NOW + LIFE)


@pytest.mark.parametrize(
    ("holder", "after", "expected"),
    [
        ("a", 0, Lease("job", "a", 4, NOW + LIFE)),
        ("a", 14, Lease("job", "a", 4, NOW + LIFE + timedelta(seconds=14))),
        ("a", 15, Lease("job", "a", 5, NOW + 2 * LIFE)),
        ("b", 0, None),
        ("b", 14, None),
        ("b", 15, Lease("job", "b", 5, NOW + 2 * LIFE)),
    ],
)
def test_it_is_renewed_by_its_holder_and_taken_when_it_has_run_out(
    holder: str, after: int, expected: Lease | None
) -> None:
    """Renewed it keeps its token; begun anew it never does, also by who had it."""
    assert KEPT.taken_by(holder, NOW + timedelta(seconds=after), LIFE) == expected


@pytest.mark.parametrize("kept", [None, Lease("job", "b", 5, NOW), Lease("job", "a", 5, NOW)])
def test_who_was_followed_may_not_write(kept: Lease | None) -> None:
    """V15: whoever came next, also the same process anew; the error says who has it."""
    with pytest.raises(CellwardError) as caught:
        KEPT.check(kept)
    assert caught.value.code == "store/lease-moved"
    assert ("nobody" if kept is None else kept.holder) in caught.value.message


def test_who_was_followed_by_nobody_may_write() -> None:
    """Also when it has run out: nobody else has begun."""
    KEPT.check(Lease("job", "a", 4, NOW - LIFE))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=40))
def test_two_holders_never_have_one_token(steps: list[tuple[str, int]]) -> None:
    """Whatever the order and the pauses: of two with one token both are the same process, and tokens only grow."""
    now, kept = NOW, first("job", "a", NOW, LIFE)
    holders = {1: "a"}
    for holder, seconds in steps:
        now += timedelta(seconds=seconds)
        taken = kept.taken_by(holder, now, LIFE)
        if taken is None:
            assert kept.holder != holder
            continue
        assert taken.token >= kept.token
        assert holders.setdefault(taken.token, holder) == holder
        kept = taken
