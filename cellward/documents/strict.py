"""Strict JSON for what is no signed document: one value with one meaning, or a ValueError.

Signed documents are canonical as well (:mod:`cellward.documents.canonical`). This is for answers of a hub, files of
this machine and files that travel between people: what two readers could read in two ways is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

#: Most levels of nesting.
MAX_DEPTH = 64


def strict_json(data: bytes) -> Any:
    """Read JSON in UTF-8 in which no key is there twice, every number is one, and text is text; raises ValueError.

    Nesting beyond :data:`MAX_DEPTH` levels is a ValueError too. The caller bounds the bytes.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number, parse_float=finite
        )
        _check_depth(value, MAX_DEPTH)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates are no text
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def finite(text: str) -> float:
    """Return a number with a fraction or an exponent; one beyond every float is a ValueError, not infinity."""
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:80])


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise ValueError("nested too deep")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _check_depth(item, left - 1)
