"""``audit-fields.md``: the audit record as it is written, exported and verified."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from pydantic.alias_generators import to_camel

from cellward.audit.record import (
    ACTIONS,
    ALLOWED_DETAILS,
    BOUNDS,
    DECISIONS,
    MAX_DETAIL,
    MAX_DETAILS,
    NO_RECORD,
    SCHEMA,
    Record,
)
from tools.generate.page import Page, code, plain, sources

_ATTRIBUTE = re.compile(r"^(\w+): (.*?)(?=^\w+: |\Z)", re.MULTILINE | re.DOTALL)
#: Names of constants in the docstring, and what a reader of the page sees instead.
_READABLE = {
    "``NO_RECORD``": f"`sha256:` and {len(NO_RECORD.partition(':')[2])} zeros",
    "one of ``ACTIONS``": "one of the actions below",
    "one of ``DECISIONS``": "one of the decisions below, or empty",
    "keys of ``ALLOWED_DETAILS``": "only the keys below",
}


def page(out: Path) -> None:
    """Write ``audit-fields.md``."""
    page = Page("Audit records", "cellward/audit/record.py")
    page.text(
        f"A record is one canonical JSON object (RFC 8785) of schema `{SCHEMA}`. Its identity is the SHA-256 of its "
        "exact bytes. It is durable before the action it tells of is acknowledged. Longer text is cut to its bound and "
        "ends in an ellipsis."
    )
    page.heading("Fields")
    meanings = _meanings()
    rows = [("schema", f"always `{SCHEMA}`")]
    rows += [(to_camel(field.name), meanings[field.name]) for field in dataclasses.fields(Record)]
    rows += [("dropped", "how many details were left out by the allow-list; absent when none were")]
    page.table(
        ("field", "at most", "meaning"),
        ((code(name), f"{BOUNDS[name]} characters" if name in BOUNDS else "", plain(text)) for name, text in rows),
    )
    page.heading("Decisions")
    page.text(
        "`decision` is one of "
        + ", ".join(code(name) for name in sorted(DECISIONS) if name)
        + ", or empty where nothing was decided. A `finding` is something that should not be and was seen."
    )
    page.heading("Actions")
    page.text("`action` is one of these. A verifier takes an unknown one too: the writer may be one version newer.")
    written = _written()
    subjects: dict[str, list[str]] = {}
    for action in sorted(written):
        subjects.setdefault(action.partition(".")[0], []).append(action)
    page.bullets(", ".join(map(code, actions)) for actions in subjects.values())
    page.text(f"Reserved, written by nothing in this version: {', '.join(map(code, sorted(ACTIONS - written)))}.")
    page.heading("Details")
    page.text(
        f"`details` holds at most {MAX_DETAILS} of the keys below, with text of at most {MAX_DETAIL} characters: "
        "names, digests, counts and states. Every other key is dropped before hashing and counted in `dropped`, so "
        "nothing secret hides behind a digest."
    )
    page.text(", ".join(map(code, sorted(ALLOWED_DETAILS))))
    page.write(out, "audit-fields.md")


def _written() -> frozenset[str]:
    """Actions that stand as text in the code of hub or agent."""
    text = sources("hub", "agent", "cli")
    return frozenset(action for action in ACTIONS if f'"{action}"' in text)


def _meanings() -> dict[str, str]:
    """What the record's docstring says of each attribute; a field without a sentence is a mistake of ours."""
    documented = inspect.cleandoc(Record.__doc__ or "").partition("Attributes:\n")[2]
    found = {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(inspect.cleandoc(documented))}
    missing = {field.name for field in dataclasses.fields(Record)} - found.keys()
    if missing:
        raise LookupError(f"Record's docstring says nothing of {', '.join(sorted(missing))}")
    return {name: _readable(text) for name, text in found.items()}


def _readable(text: str) -> str:
    for constant, readable in _READABLE.items():
        text = text.replace(constant, readable)
    return text.rstrip(".")
