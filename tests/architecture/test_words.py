"""Plain words of the field where a person reads: pages, and messages of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Words of our own that a newcomer had to learn, and what is said now.
OLD = {
    r"\btold\b": "reported, shown",
    r"\bset back\b": "restored from an older backup",
    r"\bunder way\b": "in flight",
    r"\banew\b": "again; recreated",
    r"\bway back\b": "automatic rollback; recovery",
    r"\bbrakes?\b": "prune limit",
    r"\bnarrowing\b": "hold and quarantine",
    r"\bdid not happen in time\b|\bin vain\b": "timed out waiting for",
    r"\bhush|\bbreathe": "mute; yield_point",
}
_PATTERN = re.compile("|".join(f"(?:{old})" for old in OLD), re.IGNORECASE)
#: Pages people write; those of the reference are generated from the code below.
PAGES = ("*.md", "docs/README.md", "docs/adr", "docs/explanation", "docs/how-to", "docs/tutorials", "charts",
         "examples", "policies/*.md")  # fmt: skip
_TEXT = {".md", ".yaml", ".yml", ".txt", ".tpl"}
CODE = ("agent", "auditverify", "bench", "cellward", "cli", "hub", "tools")


def test_pages_use_plain_words() -> None:
    """What is on the list does not come back."""
    files = [file for place in PAGES for file in _files(place)]
    assert len(files) > 50
    assert [line for file in files for line in old_words(_name(file), file.read_text())] == []


def test_messages_use_plain_words() -> None:
    """Strings of the code that are neither docstrings nor single words: errors, hints, conditions, help."""
    files = [file for place in CODE for file in (ROOT / place).rglob("*.py") if "wire" not in file.parts]
    assert len(files) > 100
    assert [line for file in files for text in _messages(file) for line in old_words(_name(file), text)] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("`check` told of it", 1),
        ("a hub that was\nset back", 1),
        ("What is made anew, and the way back", 2),
        ("the hub alone may only narrow", 0),
        ("a narrow port, set backups, and a braking car", 0),
        ("The timeout of a handset backend; renewal", 0),
    ],
)
def test_they_are_found(text: str, count: int) -> None:
    """Control: also over the end of a line; ordinary words that only look alike are let through."""
    assert len(list(old_words("page", text))) == count


def old_words(name: str, text: str) -> Iterator[str]:
    """Yield every place of a word on the list, with what to write in its place."""
    flat = re.sub(r"\s+", " ", text)
    for found in _PATTERN.finditer(flat):
        instead = next(new for old, new in OLD.items() if re.fullmatch(old, found[0], re.IGNORECASE))
        yield f"{name}: …{flat[max(0, found.start() - 40) : found.end() + 40]}… (say: {instead})"


def _files(place: str) -> list[Path]:
    if any(sign in place for sign in "*."):
        return sorted(ROOT.glob(place))
    return [file for file in sorted((ROOT / place).rglob("*")) if file.suffix in _TEXT]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _messages(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in apart and " " in str(node.value):
            yield str(node.value)
