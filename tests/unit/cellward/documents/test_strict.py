"""One reader of strict JSON for every file and answer that is no signed document."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellward.documents.strict import MAX_DEPTH, strict_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}', b'[{"a": {"b": 1, "b": 2}}]', b"NaN", b"[-Infinity]", b'"\\ud800"', b"\xff", b"",
        b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), b"[" * 200_000, b"1 2", b"[1e999]",
        b'{"a": -1e400}',
    ],
    ids=[
        "twice", "inside", "nan", "infinity", "surrogate", "not-utf8", "empty", "deep", "deeper", "two", "huge", "less",
    ],
)  # fmt: skip
def test_v16_what_reads_in_two_ways_or_in_none_is_refused(data: bytes) -> None:
    """V16: each of it is a ValueError, whatever went wrong."""
    with pytest.raises(ValueError):  # noqa: PT011 - the one promise
        strict_json(data)


@settings(max_examples=60, deadline=None)
@given(_VALUES)
def test_v16_everything_else_is_read_as_it_was_written(value: object) -> None:
    """V16: strict, and not lossy."""
    try:
        data = json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return
    assert strict_json(data) == value
