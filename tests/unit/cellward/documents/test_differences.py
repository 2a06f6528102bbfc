"""Differences of JSON values: none is left out, and with the value before they give the value after."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cellward.documents.differences import ABSENT, differences, quoted

TEXTS = st.sampled_from(
    ["", "a", "b", "a b", "a  b", "\u00e9", "\x1b[2J", '"', "\\u0020", "a -> b", "\u202e", "x.y", "[0]"]
)
LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | TEXTS
NAMED = st.lists(
    st.dictionaries(st.just("name"), TEXTS, min_size=1).flatmap(
        lambda item: LEAVES.map(lambda leaf: {**item, "more": leaf})
    ),
    max_size=3,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES | NAMED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("keyid"), inner, max_size=3),
    max_leaves=6,
)


def lines(before: Any, after: Any) -> list[str]:
    """What a person is shown."""
    return [str(one) for one in differences(before, after, "payload ")]


@given(VALUES, VALUES)
def test_equal_values_alone_have_no_differences(before: Any, after: Any) -> None:
    """True is not 1, an empty object is not an empty list, and nothing is not null."""
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (lines(before, after) == []) == same
    assert lines(ABSENT, after) != []
    assert lines(before, ABSENT) != []


@given(VALUES, VALUES, VALUES)
def test_other_values_are_shown_otherwise(before: Any, one: Any, other: Any) -> None:
    """Beside the same value in force, no two proposals look the same."""
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert lines(before, one) != lines(before, other)
        assert lines(before, one) != lines(before, ABSENT)
        assert lines(ABSENT, one) != lines(ABSENT, other)


@example([{"name": "a"}], [{"name": ""}, {"name": "a"}])
@given(VALUES, VALUES)
def test_a_line_is_printable_and_not_padded(before: Any, after: Any) -> None:
    """What somebody chose is quoted, and cannot push words into the next line of a terminal."""
    for line in lines(before, after):
        assert line.isascii()
        assert line.isprintable()
        assert "  " not in line


def test_lines_name_path_and_both_values() -> None:
    """Items of a list by what names them, first; an order of its own; what comes, goes and changes."""
    before = {"version": 1, "entries": [{"keyid": "aa", "owner": "ada"}, {"keyid": "bb", "owner": "bob"}], "gone": {}}
    after = {"version": 2, "entries": [{"keyid": "bb", "owner": "eve"}, {"keyid": "aa", "owner": "ada"}], "x y": [1]}
    a, b = (json.dumps(f'[keyid="{name}"]') for name in ("aa", "bb"))
    assert lines(before, after) == [
        '~ payload entries[keyid="bb"].owner: "bob" -> "eve"',
        f"~ payload entries (order): [{a}, {b}] -> [{b}, {a}]",
        "- payload gone: {}",
        "~ payload version: 1 -> 2",
        '+ payload ["x y"]: [1]',
    ]


@pytest.mark.parametrize("text", ["a   b", "\x7f", "\u00a0", "\n", "\ud800"])
def test_quoted_values_are_read_back(text: str) -> None:
    """Escaped, not replaced."""
    assert json.loads(quoted(text)) == text
    assert quoted(text).isprintable()
