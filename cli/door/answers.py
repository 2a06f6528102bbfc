"""Strict reading of a hub's answers: one JSON value with one meaning, then a typed value; anything else is refused."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from cellward.documents.strict import strict_json
from cellward.errors import CellwardError, ErrorCode, known
from cli import errors
from cli.door.steps import own_step, relayed_step

if TYPE_CHECKING:
    from pydantic import BaseModel

    _M = TypeVar("_M", bound=BaseModel)

#: Longest text of a hub's problem that is shown.
MAX_TEXT = 4000
#: Detail of an error that a hub sent: its own next step, empty where it says what this program says.
RELAYED = "relayed"


def parse_answer(data: bytes, model: type[_M], source: str) -> _M:
    """Read an answer as a model; raises cli/bad-answer."""
    try:
        found = model.model_validate(strict_json(data))
        _check_times(found)
    except (ValueError, RecursionError) as error:
        raise errors.BAD_ANSWER(f"{source} answered something else than {model.__name__}") from error
    return found


def problem(status: int, data: bytes, target: str) -> CellwardError:
    """Return the error of a problem: the very code when this CLI knows it, otherwise one of cli/hub-*."""
    try:
        found = strict_json(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "code" not in found:
        return errors.BAD_ANSWER(f"{target} answered with status {status}, which is not an answer of a hub")
    details = found.get("details")
    details = {str(key): _text(value) for key, value in details.items()} if isinstance(details, dict) else {}
    code = _text(found["code"])
    # A code of the command line's own is never a hub's to give: commands go on by them.
    entry = None if code.startswith("cli/") else known(code)
    if entry is None:
        entry = _fallback(status)
        code = entry.code if code.startswith("cli/") else code
    # What a person does next is never a hub's to choose; its words are kept apart, and shown as its own.
    step = own_step(code) or entry.hint
    details = {**details, RELAYED: relayed_step(_text(found.get("hint", "")), step)}
    return entry.kind(code, _text(found.get("title", "")), _text(found.get("detail", "")), step, details)


def _text(value: object) -> str:
    return str(value)[:MAX_TEXT]


def _fallback(status: int) -> ErrorCode:
    if status in {401, 403}:
        return errors.HUB_DENIED
    if status in {429, 503}:
        return errors.HUB_UNAVAILABLE
    if status == 404:
        return errors.HUB_NOT_FOUND
    if status == 409:
        return errors.HUB_CONFLICT
    if status == 400:
        return errors.BAD_OPTION
    return errors.HUB_REFUSED if status == 422 else errors.HUB_ERROR


def _check_times(value: object) -> None:
    """Refuse a time without a zone anywhere in an answer: it can be compared with nothing; raises ValueError."""
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("a time has no zone")
    if isinstance(value, list | tuple):
        inner: Iterable[object] = value
    elif isinstance(value, dict):
        inner = value.values()
    else:
        inner = (getattr(value, name) for name in getattr(type(value), "model_fields", ()))
    for item in inner:
        _check_times(item)
