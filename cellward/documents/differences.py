"""Every difference between two JSON values, named by its path: what a person is shown of what he is asked to sign.

Pure. Nothing here knows a field, so none can be hidden, nor one that is added later. Invariants: equal values have no
differences and other values have some; with the value before, the differences give the value after. A text of a
:class:`Difference` is printable ASCII on one line, values are JSON, and no run of spaces in one can push words into the
next line of a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cellward.documents.canonical import JSON

#: What names an item of a list; the first that all items have, each with a value of its own. Else its place does.
_NAMES = (("keyid",), ("name",), ("kind", "subject"), ("project", "cell", "environment"))
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_SPACES = re.compile(r"(?<= ) +")


class Absent:
    """Where there is no value at all, which is not null."""

    def __bool__(self) -> bool:
        """Return false: there is nothing."""
        return False


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference; ``before`` and ``after`` are JSON, None where there is nothing."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """Return it as a line: ``+`` for what comes, ``-`` for what goes, ``~`` for what changes."""
        if self.before is None:
            return f"+ {self.path}: {self.after}"
        if self.after is None:
            return f"- {self.path}: {self.before}"
        return f"~ {self.path}: {self.before} -> {self.after}"


def differences(before: JSON | Absent, after: JSON | Absent, path: str = "") -> Iterator[Difference]:
    """Return what differs between two values; ``path`` names the values themselves."""
    emptied = isinstance(after, dict | list) and not after
    if _are(dict, before, after) and not emptied:
        old, new = (one if isinstance(one, dict) else {} for one in (before, after))
        for name in sorted({*old, *new}):
            yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), _member(path, name))
    elif _are(list, before, after) and not emptied and all(isinstance(item, dict) for item in _items(before, after)):
        yield from _of_items(_items(before), _items(after), path)
    elif _text(before) != _text(after):
        yield Difference(path, _text(before), _text(after))


def quoted(value: JSON) -> str:
    """Return a value as JSON in printable ASCII; further spaces of a run are escaped, so that none is mere padding."""
    text = json.dumps(value, sort_keys=True)
    # Outside of texts there are only single spaces. DEL is ASCII that JSON does not escape.
    return _SPACES.sub(lambda run: "\\u0020" * len(run[0]), text).replace("\x7f", "\\u007f")


def _text(value: JSON | Absent) -> str | None:
    return None if isinstance(value, Absent) else quoted(value)


def _are(kind: type, *values: JSON | Absent) -> bool:
    """Whether one of two values is a non-empty object, or list, and the other is one as well, or absent."""
    return any(values) and all(isinstance(one, kind | Absent) for one in values)


def _items(*values: JSON | Absent) -> list[JSON]:
    return [item for value in values if isinstance(value, list) for item in value]


def _member(path: str, name: str) -> str:
    if not _PLAIN.match(name):
        return f"{path}[{quoted(name)}]"
    return f"{path}{name}" if not path or path.endswith(" ") else f"{path}.{name}"


def _of_items(before: list[JSON], after: list[JSON], path: str) -> Iterator[Difference]:
    """Compare lists of objects by what names each, else by place; another order is a difference of its own."""
    names = next((names for names in _NAMES if _all_named(names, before) and _all_named(names, after)), None)
    old, new = ({_item(names, place, item): item for place, item in enumerate(items)} for items in (before, after))
    for name in [*old, *(name for name in new if name not in old)]:
        yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), path + name)
    usual = [*(name for name in old if name in new), *(name for name in new if name not in old)]
    if usual != [*new]:
        yield Difference(f"{path.removesuffix(' ')} (order)", quoted([*old]), quoted([*new]))


def _all_named(names: tuple[str, ...], items: list[JSON]) -> bool:
    found = [tuple(item.get(name) for name in names) for item in items if isinstance(item, dict)]
    return all(isinstance(text, str) for one in found for text in one) and len({*found}) == len(found)


def _item(names: tuple[str, ...] | None, place: int, item: JSON) -> str:
    if names is None or not isinstance(item, dict):
        return f"[{place}]"
    return f"[{' '.join(f'{name}={quoted(item[name])}' for name in names)}]"
