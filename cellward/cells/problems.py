"""Turns pydantic's errors into one sentence with field paths, bounded in length."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

_SHOWN = 5
_MESSAGE = 160


@dataclass(frozen=True, slots=True)
class Problems:
    """What is wrong: ``text`` for a person, ``first`` the first field's path, ``unknown`` fields nobody knows."""

    text: str
    first: str
    unknown: tuple[str, ...]


def describe(error: ValidationError) -> Problems:
    """Describe a validation error; values that were given are never repeated, they may be secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{_path(item['loc'])}: {_message(item['type'], item['msg'])}" for item in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    unknown = tuple(_path(item["loc"]) for item in found if item["type"] == "extra_forbidden")
    return Problems("; ".join(lines), _path(found[0]["loc"]), unknown)


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:80] for part in location)[:300] or "the document"


def _message(kind: str, text: str) -> str:
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "missing":
        return "is missing"
    return text.removeprefix("Value error, ")[:_MESSAGE]
