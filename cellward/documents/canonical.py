"""Canonical JSON (RFC 8785), strictly: one value has one byte string, and nothing else is taken.

``json.loads`` takes duplicate keys, floats, NaN and integers beyond 2^53; two programs may then read two values from
one signed byte string. Here all of these are refused, so that a digest of the bytes is an identity of the value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import NoReturn, TypeAlias, Union, cast

import rfc8785

from cellward.documents.errors import (
    BAD_VALUE,
    DUPLICATE_KEY,
    NOT_CANONICAL,
    NOT_JSON,
    TOO_DEEP,
    TOO_LARGE,
)

#: A JSON value without floats.
JSON: TypeAlias = Union[bool, int, str, list["JSON"], dict[str, "JSON"], None]  # noqa: UP007 - recursive alias

#: Bound on the bytes of one document.
MAX_BYTES = 1024 * 1024
#: Bound on nesting of arrays and objects.
MAX_DEPTH = 64
#: Largest magnitude of an integer that every JSON reader keeps exactly.
MAX_INT = 2**53 - 1
_MAX_INT_DIGITS = 17


def encode(value: object) -> bytes:
    """Return the canonical bytes of ``value``; tuples and other mappings count as arrays and objects.

    Raises document/unsupported-value for floats, integers beyond 2^53, keys that are not text, lone surrogates and
    other types, document/too-deep and document/too-large past the bounds.
    """
    plain = _plain(value, 1)
    try:
        data = rfc8785.dumps(cast("dict[str, object]", plain))  # type: ignore[arg-type]
    except rfc8785.CanonicalizationError as error:
        raise BAD_VALUE(f"not representable in canonical JSON: {error}") from error
    if len(data) > MAX_BYTES:
        raise TOO_LARGE(f"{len(data)} bytes, at most {MAX_BYTES} are allowed")
    return data


def parse(data: bytes, *, limit: int = MAX_BYTES) -> JSON:
    """Parse JSON strictly without asking for the canonical form; for envelopes, whose bytes are no identity.

    Raises document/not-json, document/duplicate-key, document/unsupported-value, document/too-deep,
    document/too-large.
    """
    if len(data) > limit:
        raise TOO_LARGE(f"{len(data)} bytes, at most {limit} are allowed")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise NOT_JSON(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise NOT_JSON(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise TOO_DEEP(f"more than {MAX_DEPTH} levels") from error
    return _plain(value, 1)


def decode(data: bytes) -> JSON:
    """Parse canonical bytes; bytes that are not their own canonical form are refused as document/not-canonical.

    Raises what :func:`parse` raises, and document/not-canonical.
    """
    value = parse(data)
    if encode(value) != data:
        raise NOT_CANONICAL("key order, white space, escapes or number form differ from RFC 8785")
    return value


def digest(data: bytes) -> str:
    """Return ``sha256:<64 hex>`` of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _plain(value: object, depth: int) -> JSON:
    """Copy into plain lists and dictionaries, refusing what has no canonical form."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise BAD_VALUE("an integer is beyond 2^53")
        return int(value)
    if depth > MAX_DEPTH:
        raise TOO_DEEP(f"more than {MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        result: dict[str, JSON] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise BAD_VALUE("a key of an object is not text")
            result[_text(key)] = _plain(item, depth + 1)
        return result
    raise BAD_VALUE(f"a value of type {type(value).__name__} has no canonical form")


def _text(value: str) -> str:
    """Refuse a lone surrogate: it has no UTF-8 form, so nobody could be shown the text."""
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BAD_VALUE(f"a text has a lone surrogate: {value[:40]!a}")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DUPLICATE_KEY(f"key {twice[:80]!r} appears twice in one object")
    return result


def _no_float(text: str) -> NoReturn:
    raise BAD_VALUE(f"the number {text[:40]} is not an integer")


def _integer(text: str) -> int:
    if len(text) > _MAX_INT_DIGITS or abs(int(text)) > MAX_INT:
        raise BAD_VALUE(f"the integer {text[:20]} is beyond 2^53")
    return int(text)
