"""What tests expect is told apart from what they did not: a refusal is expected for its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.test_shape import ROOT

FOLDERS = ("tests", "e2e", "bench")


def test_a_refusal_is_expected_by_its_code() -> None:
    """``raises(CellwardError)`` alone is met by any error of ours; ``tests.fakes.refusals.refused`` names the code."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in bare(ast.parse(file.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("with pytest.raises(CellwardError):\n  x()", [1]),
        ("with pytest.raises((ValueError, errors.CellwardError)):\n  x()", [1]),
        ("with a(), pytest.raises(CellwardError):\n  x()", [1]),
        ("with pytest.raises(CellwardError) as caught:\n  x()", [1]),
        ("def f():\n  with pytest.raises(CellwardError) as caught:\n    x()\ncaught.value", [2]),
        ("with pytest.raises(CellwardError) as caught:\n  x()\nassert caught.value.code == 1", []),
        ("with pytest.raises(CellwardError) as caught:\n  x()\nassert code(caught) == 1", []),
        ("with pytest.raises(CellwardError, match='not there'):\n  x()", []),
        ("with pytest.raises(ValueError):\n  x()", []),
    ],
)
def test_it_is_found(text: str, lines: list[int]) -> None:
    """Control: what nobody looks at is found, wherever it stands; what is looked at afterwards is not."""
    assert list(bare(ast.parse(text))) == lines


def bare(tree: ast.Module) -> Iterator[int]:
    """Yield lines with a ``raises(CellwardError)`` of which nobody looks at more than the class."""
    scopes = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                if _expects_any(item.context_expr) and not _is_used(item.optional_vars, node, scopes):
                    yield item.context_expr.lineno


def _expects_any(call: ast.expr) -> bool:
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "raises"
        and bool(call.args)
        and any("CellwardError" in {getattr(n, "id", ""), getattr(n, "attr", "")} for n in ast.walk(call.args[0]))
        and not call.keywords
    )


def _is_used(name: ast.expr | None, block: ast.With | ast.AsyncWith, scopes: list[ast.AST]) -> bool:
    if not isinstance(name, ast.Name):
        return False
    first, last = block.lineno, block.end_lineno or block.lineno
    around = [node for node in scopes if not hasattr(node, "lineno") or node.lineno <= first <= (node.end_lineno or 0)]
    return any(
        isinstance(node, ast.Name) and node.id == name.id and isinstance(node.ctx, ast.Load) and node.lineno > last
        for node in ast.walk(around[-1])
    )
