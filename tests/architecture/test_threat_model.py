"""The threat model names tests; every one of them exists."""

from __future__ import annotations

import ast
import re

from tools.parts.model import ROOT

_PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
_FILES = re.compile(r"`(tests/[\w/]+\.py)`")
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    """A claim without the test that shows it is no claim."""
    named = set(_NAMED.findall(_PAGE.read_text()))
    assert len(named) > 30
    missing = [file for file in _FILES.findall(_PAGE.read_text()) if not (ROOT / file).exists()]
    for file, name in sorted(named):
        path = ROOT / file
        tree = ast.parse(path.read_text()) if path.exists() else ast.Module(body=[], type_ignores=[])
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if name not in functions:
            missing.append(f"{file}::{name}")
    assert missing == []
