"""Canonical JSON: one value, one byte string, and nothing else is taken."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents import canonical
from cellward.errors import CellwardError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-canonical.MAX_INT, canonical.MAX_INT) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


def code_of(data: bytes) -> str:
    """Return the code that decoding raises."""
    with pytest.raises(CellwardError) as caught:
        canonical.decode(data)
    return caught.value.code


@given(values)
def test_round_trip(value: canonical.JSON) -> None:
    """What is encoded decodes to the same value, and encodes to the same bytes again."""
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(values, st.sampled_from([{"indent": 1}, {"separators": (", ", ": ")}, {"ensure_ascii": True}, {}]))
def test_only_the_canonical_form_is_taken(value: canonical.JSON, style: dict[str, object]) -> None:
    """Any other spelling of the same value is refused, whatever the standard library would take."""
    data = json.dumps(value, **style).encode()  # type: ignore[arg-type]
    if data == canonical.encode(value):
        assert canonical.decode(data) == value
    else:
        assert code_of(data) == "document/not-canonical"


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_raise(data: bytes) -> None:
    """V16: bytes from anywhere decode to themselves or raise one of our errors."""
    try:
        value = canonical.decode(data)
    except CellwardError:
        return
    assert canonical.encode(value) == data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1,"a":1}', "document/duplicate-key"),
        (b'{"b":{"a":1,"a":2}}', "document/duplicate-key"),
        (b"1.0", "document/unsupported-value"),
        (b"1e3", "document/unsupported-value"),
        (b"NaN", "document/unsupported-value"),
        (b"-Infinity", "document/unsupported-value"),
        (b"9007199254740992", "document/unsupported-value"),
        (b"-9007199254740992", "document/unsupported-value"),
        (b"9" * 5000, "document/unsupported-value"),
        (b"-0", "document/not-canonical"),
        (b'{"b":1,"a":1}', "document/not-canonical"),
        (b' {"a":1}', "document/not-canonical"),
        (b'{"a":1}\n', "document/not-canonical"),
        (b'"\\u0041"', "document/not-canonical"),
        (b'"\\ud800"', "document/unsupported-value"),
        (b'\xef\xbb\xbf{"a":1}', "document/not-json"),
        (b'"\xff"', "document/not-json"),
        (b'{"a":', "document/not-json"),
        (b"", "document/not-json"),
        (b"[" * 65 + b"]" * 65, "document/too-deep"),
        (b"[" * 100_000, "document/too-deep"),
        (b'"' + b"a" * canonical.MAX_BYTES + b'"', "document/too-large"),
    ],
)
def test_refused_bytes(data: bytes, code: str) -> None:
    """What the standard library takes and two readers could read differently is refused with its own code."""
    assert code_of(data) == code


def test_bounds_are_inclusive() -> None:
    """The largest integer and the deepest nesting that are allowed pass."""
    assert canonical.decode(str(canonical.MAX_INT).encode()) == canonical.MAX_INT
    nested = b"[" * canonical.MAX_DEPTH + b"]" * canonical.MAX_DEPTH
    assert canonical.encode(canonical.decode(nested)) == nested


@pytest.mark.parametrize(
    "value", [1.5, {1: "a"}, {"a": {2: 3}}, b"bytes", {"a": {1, 2}}, 2**53, "\ud800", {"\ud800": 1}]
)
def test_refused_values(value: object) -> None:
    """Values without a canonical form are refused before anything is signed."""
    with pytest.raises(CellwardError) as caught:
        canonical.encode(value)
    assert caught.value.code == "document/unsupported-value"


def test_a_value_that_contains_itself_is_too_deep() -> None:
    """A cycle ends at the depth bound, not at the interpreter's."""
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CellwardError) as caught:
        canonical.encode(loop)
    assert caught.value.code == "document/too-deep"
    assert sys.getrecursionlimit() > canonical.MAX_DEPTH


def test_keys_are_ordered_by_utf16() -> None:
    """RFC 8785 orders keys by UTF-16 units, which is not the order of code points."""
    assert canonical.encode({"\U0001f600": 1, "\ufb33": 2}) == '{"\U0001f600":1,"\ufb33":2}'.encode()


def test_digest_names_its_algorithm() -> None:
    """Digests are ``alg:hex``."""
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert canonical.digest(b"") == empty


@pytest.mark.parametrize("data", [b'"\\ud800"', b'{"\\udfff":1}', b'[{"a":["b\\ud800c"]}]', b'"\\udc00\\ud800"'])
def test_v16_lone_surrogates_are_refused_in_keys_and_values(data: bytes) -> None:
    """V16: they have no UTF-8 form, so whoever is told why a document was refused could not be told."""
    for read in (canonical.parse, canonical.decode):
        with pytest.raises(CellwardError) as caught:
            read(data)
        assert caught.value.code == "document/unsupported-value"
        caught.value.message.encode()
    with pytest.raises(CellwardError) as caught:
        canonical.encode(json.loads(data))
    assert caught.value.code == "document/unsupported-value"
