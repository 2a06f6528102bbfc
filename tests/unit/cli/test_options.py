"""Options that several commands take are defined once."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path


def test_no_option_is_described_twice() -> None:
    """What two commands take alike is in ``cli.options``; a second description would drift from the first."""
    found: Counter[str] = Counter()
    for file in sorted(Path("cli").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in {"Option", "Argument"}:
                found.update(ast.unparse(given.value) for given in call.keywords if given.arg == "help")
    assert len(found) > 50
    assert [text for text, times in found.items() if times > 1] == []
