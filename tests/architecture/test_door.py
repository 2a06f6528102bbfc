"""One door: what a hub sends reaches the command line as checked, typed values, and what is signed was remembered.

That no module outside ``cli/door`` can open a connection is a contract of import-linter (``pyproject.toml``).
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from cli.door.client import Client

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = [file for file in sorted((ROOT / "cli").rglob("*.py")) if (ROOT / "cli" / "door") not in file.parents]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_the_client_hands_out_no_raw_answer() -> None:
    """Every public method of the client returns a model, or lines that were read strictly."""
    for name, member in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_"):
            continue
        returned = str(member.__annotations__["return"])
        assert returned in {"_M", "Iterator[Line]"}, f"{name} returns {returned}"


def test_nothing_outside_the_door_takes_what_a_hub_sent_apart() -> None:
    """Signed bytes of a hub, and the paths they are under, are the door's: nobody else parses an envelope."""
    assert OUTSIDE
    found = {_name(file): apart for file in OUTSIDE if (apart := _takes_apart(ast.parse(file.read_text())))}
    assert found == {}


def _takes_apart(tree: ast.AST) -> set[str]:
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return (
        {"envelope"} & attributes
        | {"parse_envelope", "getresponse", "_ask", "_stream"} & set(_names(tree))
        | {text for text in texts if text.startswith("/documents")}
    )


def test_v1_documents_are_signed_in_one_place() -> None:
    """V1: only ``cli/signing.py`` signs documents, and it signs what local memory holds."""
    signs = {_name(file): {"sign_document", "Envelope"} & set(_names(ast.parse(file.read_text()))) for file in OUTSIDE}
    assert "sign_document" in signs.pop("cli/signing.py")
    assert [name for name, used in signs.items() if used] == []
