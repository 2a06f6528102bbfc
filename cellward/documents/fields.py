"""Strict reading of one JSON object: every field is known, asked for by type, and malformed ones are named.

An unknown field is too-new, never ignored: a signed payload must not be half understood.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from cellward.documents import names
from cellward.documents.canonical import JSON, MAX_INT
from cellward.documents.errors import MALFORMED, UNKNOWN_FIELD
from cellward.errors import ErrorCode

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
KEYID = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z\Z", re.ASCII)
_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
#: Bound on lists of names: environments, projects, kinds.
MAX_LIST = 64
MAX_TEXT = 253


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with whole milliseconds; a time without zone is malformed."""
    if moment.tzinfo is None:
        raise MALFORMED("a time has no zone")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def parse_time(text: str) -> datetime:
    """Read ``YYYY-MM-DDTHH:MM:SS.mmmZ``, nothing else; raises document/malformed."""
    if not _TIME.match(text):
        raise MALFORMED(f"{text[:40]!r} is not a time of the form YYYY-MM-DDTHH:MM:SS.mmmZ")
    try:
        return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise MALFORMED(f"{text[:40]!r} is no moment that exists") from error


class Fields:
    """One object being read; ``where`` names it in messages, ``error`` is raised for malformed fields."""

    def __init__(
        self, value: JSON, known: Collection[str], where: str,
        *, error: ErrorCode = MALFORMED, unknown: ErrorCode = UNKNOWN_FIELD,
    ) -> None:  # fmt: skip
        if not isinstance(value, dict):
            raise error(f"{where} is not an object")
        extra = sorted(set(value) - set(known))
        if extra:
            # Quoted: the names are a stranger's, and go into records and messages.
            listed = ", ".join(repr(name[:80]) for name in extra)[:200]
            raise unknown(f"{where} has fields this version does not know: {listed}", field=repr(extra[0][:80])[1:-1])
        self._value = value
        self._where = where
        self._error = error

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._value

    def raw(self, name: str) -> JSON:
        """Return a field that must be there, unread."""
        if name not in self._value:
            raise self._error(f"{self._where} misses field {name}", field=name)
        return self._value[name]

    def fail(self, name: str, why: str) -> None:
        """Raise the error for a field."""
        raise self._error(f"field {name} of {self._where} {why}", field=name)

    def text(self, name: str, pattern: re.Pattern[str] | None = None, limit: int = MAX_TEXT) -> str:
        """Return text of at most ``limit`` printable characters that matches ``pattern``."""
        value = self.raw(name)
        if not isinstance(value, str) or len(value) > limit or not value.isprintable():
            raise self._error(f"field {name} of {self._where} is not printable text of {limit} at most", field=name)
        if pattern is not None and not pattern.match(value):
            raise self._error(f"field {name} of {self._where} is malformed: {value[:80]!r}", field=name)
        return value

    def name(self, name: str, limit: int) -> str:
        """Return a project's, cell's or environment's name."""
        value = self.raw(name)
        if not names.is_name(value, limit):
            raise self._error(f"field {name} of {self._where} is not a name: {str(value)[:80]!r}", field=name)
        return str(value)

    def integer(self, name: str, low: int, high: int = MAX_INT) -> int:
        """Return a whole number within bounds."""
        value = self.raw(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(f"field {name} of {self._where} is not a whole number from {low} to {high}", field=name)
        return value

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self._error(f"field {name} of {self._where} is not true or false", field=name)
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        """Return one of a few texts."""
        value = self.raw(name)
        if not isinstance(value, str) or value not in choices:
            raise self._error(f"field {name} of {self._where} is not one of {', '.join(choices)}", field=name)
        return value

    def mapping(self, name: str) -> dict[str, JSON]:
        """Return an object, unread."""
        value = self.raw(name)
        if not isinstance(value, dict):
            raise self._error(f"field {name} of {self._where} is not an object", field=name)
        return value

    def time(self, name: str) -> datetime:
        """Return a moment in UTC."""
        value = self.text(name)
        if not _TIME.match(value):
            raise self._error(f"field {name} of {self._where} is not YYYY-MM-DDTHH:MM:SS.mmmZ", field=name)
        return parse_time(value)

    def optional_time(self, name: str) -> datetime | None:
        """Return a moment, or None for null; the field itself must be there."""
        return None if self.raw(name) is None else self.time(name)

    def texts(self, name: str, limit: int = MAX_LIST) -> tuple[str, ...]:
        """Return a list of distinct short texts."""
        value = self.raw(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._error(f"field {name} of {self._where} is not a list of at most {limit}", field=name)
        found = tuple(item for item in value if isinstance(item, str) and 0 < len(item) <= MAX_TEXT)
        if len(found) != len(value) or len(set(found)) != len(found):
            raise self._error(f"field {name} of {self._where} has items that are no text or appear twice", field=name)
        return found

    def names(self, name: str, limit: int, *, star: bool = False, empty: bool = False) -> tuple[str, ...]:
        """Return a list of distinct names; ``star`` also takes the single item ``*``, meaning all."""
        found = self.texts(name)
        if star and found == ("*",):
            return found
        if not found and not empty:
            raise self._error(f"field {name} of {self._where} is empty", field=name)
        for item in found:
            if not names.is_name(item, limit):
                raise self._error(f"field {name} of {self._where} has {item[:80]!r}, which is not a name", field=name)
        return found

    def labels(self, name: str, limit: int = MAX_LIST) -> dict[str, str]:
        """Return a map of short text to short text."""
        value = self.raw(name)
        if not isinstance(value, dict) or len(value) > limit:
            raise self._error(f"field {name} of {self._where} is not a map of at most {limit}", field=name)
        found = {
            key: item
            for key, item in value.items()
            if isinstance(item, str) and 0 < len(key) <= MAX_TEXT and len(item) <= MAX_TEXT
        }
        if len(found) != len(value):
            raise self._error(f"field {name} of {self._where} has a key or value that is no short text", field=name)
        return found

    def base64(self, name: str, limit: int) -> bytes:
        """Return bytes from standard base64 in its only form."""
        value = self.raw(name)
        try:
            if not isinstance(value, str):
                raise self._error(f"field {name} of {self._where} is not text", field=name)
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._error(f"field {name} of {self._where} is not base64", field=name) from error
        if base64.b64encode(data).decode("ascii") != value or len(data) > limit:
            raise self._error(f"field {name} of {self._where} is not plain base64 of {limit} bytes at most", field=name)
        return data


def strings(value: Mapping[str, str]) -> dict[str, JSON]:
    """Return a map of text as JSON."""
    return dict(value.items())
