"""Plain words of the field where a person reads: pages, and messages of the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
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
#: In remarks "narrowing" stays: it is the name of a module and of a path of the API.
REMARKS = re.compile("|".join(f"(?:{old})" for old in OLD if "narrow" not in old), re.IGNORECASE)
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


def test_comments_and_docstrings_use_plain_words() -> None:
    """The same list holds where only somebody who changes the code reads: modules, policies, protos."""
    files = [file for place in CODE for file in (ROOT / place).rglob("*.py") if "wire" not in file.parts]
    texts = [(file, text) for file in files for text in _remarks(file.read_text())]
    texts += [(file, file.read_text()) for file in (ROOT / "policies").rglob("*.rego")]
    texts += [(file, file.read_text()) for file in (ROOT / "protos").rglob("*.proto")]
    assert len(texts) > 1000
    assert [line for file, text in texts for line in old_words(_name(file), text, REMARKS)] == []


def test_remarks_are_read_whole() -> None:
    """Control: comments, docstrings, and the words about an attribute; not names."""
    source = '#: is told\ntold = 1\n\n\ndef f() -> None:\n    """Made\n    anew."""\n'
    found = [line for text in _remarks(source) for line in old_words("x.py", text, REMARKS)]
    assert [line.partition("(say: ")[2] for line in found] == ["again; recreated)", "reported, shown)"]


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


def old_words(name: str, text: str, pattern: re.Pattern[str] = _PATTERN) -> Iterator[str]:
    """Yield every place of a word on the list, with what to write in its place."""
    flat = re.sub(r"\s+", " ", text)
    for found in pattern.finditer(flat):
        instead = next(new for old, new in OLD.items() if re.fullmatch(old, found[0], re.IGNORECASE))
        yield f"{name}: …{flat[max(0, found.start() - 40) : found.end() + 40]}… (say: {instead})"


def _files(place: str) -> list[Path]:
    if any(sign in place for sign in "*."):
        return sorted(ROOT.glob(place))
    return [file for file in sorted((ROOT / place).rglob("*")) if file.suffix in _TEXT]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _remarks(source: str) -> Iterator[str]:
    """Docstrings, then comments; a comment of several lines is one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
    yield " ".join(
        part.string.lstrip("#: ")
        for part in tokenize.generate_tokens(io.StringIO(source).readline)
        if part.type == tokenize.COMMENT
    )


def _messages(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in apart and " " in str(node.value):
            yield str(node.value)
