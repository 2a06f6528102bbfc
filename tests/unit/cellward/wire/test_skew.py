"""One minor version of skew each way, and what cannot be read is nobody's version."""

from __future__ import annotations

import pytest

from cellward.errors import CellwardError
from cellward.version import VERSION, Release, release_of
from cellward.wire.version import check_skew


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("0.1.0", (0, 1, 0)), ("1.20.3", (1, 20, 3)), ("0.1.0.dev0", (0, 1, 0)), ("2.0.0-rc.1+x", (2, 0, 0)),
        ("", None), ("0.1", None), ("v0.1.0", None), ("0.01.0", None), ("0.1.0 ", None), ("0.1.0\n", None),
        ("0.1.0.", None), ("-1.0.0", None), ("0.1234567.0", None), ("\u0660.1.0", None), ("0.1.0;rm", None),
    ],
)  # fmt: skip
def test_a_version_is_read_whole_or_not_at_all(text: str, release: tuple[int, int, int] | None) -> None:
    """V16: no guess at what a peer may have meant."""
    assert release_of(text) == (None if release is None else Release(*release))


def test_our_own_version_can_be_read() -> None:
    """Or nobody would be compared with it."""
    assert release_of(VERSION) is not None


@pytest.mark.parametrize(
    ("theirs", "ours"), [("1.4.0", "1.5.9"), ("1.6.2", "1.5.0"), ("1.5.7", "1.5.0"), ("", "1.5.0")]
)
def test_one_minor_version_apart_is_near_enough(theirs: str, ours: str) -> None:
    """Either way, whatever the patch; and without a version the protocol alone decides."""
    check_skew(theirs, ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "older"),
    [("1.3.9", "1.5.0", "agent"), ("1.7.0", "1.5.0", "hub"), ("0.5.0", "1.5.0", "agent"), ("2.5.0", "1.5.0", "hub")],
)
def test_v15_two_apart_is_refused_and_the_older_side_is_named(theirs: str, ours: str, older: str) -> None:
    """V15: code, both versions, which side to upgrade, and the command that says how."""
    with pytest.raises(CellwardError) as caught:
        check_skew(theirs, ours)
    assert caught.value.code == "wire/version-skew"
    assert f"the {older} is too old" in caught.value.message
    assert theirs in caught.value.message
    assert ours in caught.value.message
    assert caught.value.hint.startswith(f"Upgrade the {older}")
    assert "cellward clusters upgrade" in caught.value.hint
