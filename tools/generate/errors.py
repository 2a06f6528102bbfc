"""``errors.md``: every error code of hub, agent, command line and what they share; their next steps for the CLI."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from cellward.errors import CellwardError, ErrorCode, catalogue
from tools.generate.page import ROOT, Page, code, plain

#: Packages whose codes a user can meet.
PACKAGES = ("cellward", "hub", "agent", "cli")
_DEFINES = re.compile(r"^\w+ = define\(", re.MULTILINE)


def whole_catalogue() -> Mapping[str, ErrorCode]:
    """Import every module of the packages that defines codes, and return the codes in order of their names."""
    mine: dict[str, ErrorCode] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if _DEFINES.search(file.read_text()):
                module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
                mine |= {value.code: value for value in vars(module).values() if isinstance(value, ErrorCode)}
    # Codes of the working tree's own tools may be defined in this process too; they are no part of the product.
    return {name: entry for name, entry in sorted(catalogue().items()) if name in mine}


def page(out: Path) -> None:
    """Write ``errors.md``."""
    found = whole_catalogue()
    page = Page("Errors", "the catalogue in cellward/errors.py and every room's errors.py")
    page.text(
        "Every expected failure has a stable code, `room/what`, the same in the command line, the API, the audit log "
        "and the agents' conditions. Rule ids of policies (`starter/…`) are not error codes; see "
        "[policy rules](policy-rules.md)."
    )
    page.heading("Classes")
    page.text("The class of a code alone decides what a caller sees.")
    page.table(
        ("class", "HTTP", "gRPC", "exit code", "meaning"),
        (
            (code(kind.__name__), str(kind.http_status), code(kind.grpc_status), str(kind.exit_code), _first(kind))
            for kind in CellwardError.__subclasses__()
        ),
    )
    rooms: dict[str, list[ErrorCode]] = {}
    for name, entry in found.items():
        rooms.setdefault(name.partition("/")[0], []).append(entry)
    for room, entries in rooms.items():
        page.heading(code(room))
        for entry in entries:
            _entry(page, entry)
    page.write(out, "errors.md")


def hints(out: Path) -> None:
    """Write the next step of every code for the command line, which takes none from a hub (``cli/door/steps.py``)."""
    file = out / "cli" / "door" / "hints.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    steps = {name: entry.hint for name, entry in whole_catalogue().items()}
    file.write_text(json.dumps(steps, indent=1, ensure_ascii=False) + "\n")


def _entry(page: Page, entry: ErrorCode) -> None:
    kind = entry.kind
    page.heading(code(entry.code), 3)
    page.text(plain(entry.title))
    facts = f"`{kind.__name__}`, HTTP {kind.http_status}, gRPC `{kind.grpc_status}`, exit code {kind.exit_code}"
    page.bullets([facts, *([f"Next: {entry.hint}"] if entry.hint else [])])


def _first(kind: type[CellwardError]) -> str:
    return plain((kind.__doc__ or "").partition("\n")[0])
