"""The shape of the tree: what a reader relies on without looking, and what no tool of ours checks otherwise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("cellward", "hub", "agent", "cli", "auditverify")
OURS = (*PRODUCT, "tools")
_GENERATED = ROOT / "cellward" / "wire" / "v1"
_MODULE_LINES = 600
_FUNCTION_LINES = 60
#: What has to happen before anything of a room is imported; its description is as long as any other's.
_ACTS_FIRST = {"hub/store/sql/__init__.py": ["load_engine()"]}
_DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc"}
_TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".rego", ".proto", ".tpl", ".sum", ".mod", ""}
_SKIPPED = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".cellward"}


def _modules(*roots: str) -> list[Path]:
    found = [file for root in roots for file in sorted((ROOT / root).rglob("*.py"))]
    return [file for file in found if _GENERATED not in file.parents]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _committed() -> Iterator[Path]:
    for file in ROOT.rglob("*"):
        parts = file.relative_to(ROOT).parts
        skipped = _SKIPPED & set(parts) or parts[0].startswith(".venv-")
        if file.is_file() and file.suffix in _TEXT and not skipped:
            yield file


def test_init_says_what_belongs_there_and_holds_no_code() -> None:
    """A room's description is the one thing in its ``__init__.py``; nothing is re-exported."""
    files = [file for file in _modules(*OURS) if file.name == "__init__.py"]
    assert files
    assert [_name(file) for file in files if not _is_a_description(file)] == []


def _is_a_description(file: Path) -> bool:
    tree = ast.parse(file.read_text())
    said = [ast.unparse(node) for node in tree.body[1:] if not isinstance(node, ast.ImportFrom)]
    allowed = _ACTS_FIRST.get(_name(file))
    alone = len(tree.body) == 1 if allowed is None else said == allowed
    return alone and len(ast.get_docstring(tree) or "") > 40


def test_modules_and_functions_stay_readable() -> None:
    """Hard limits: 600 lines a module, 60 a function, counted without its docstring."""
    long: list[str] = []
    for file in _modules(*OURS):
        text = file.read_text()
        if (lines := len(text.splitlines())) > _MODULE_LINES:
            long.append(f"{_name(file)}: {lines} lines")
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        lengths = ((node.name, _length(node)) for node in nodes)
        long.extend(f"{_name(file)}: {name}: {lines} lines" for name, lines in lengths if lines > _FUNCTION_LINES)
    assert long == []


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    has_text = ast.get_docstring(function) is not None and len(function.body) > 1
    return (function.end_lineno or 0) - function.body[has_text].lineno + 1


def test_no_drawers() -> None:
    """Nothing is called utils: a thing is named after what it is."""
    drawers = [_name(file) for file in _modules(*OURS) if _DRAWERS & {*file.parts, file.stem}]
    assert drawers == []


def test_what_is_demanded_of_a_certificate_is_said_once() -> None:
    """A context with a Python's own defaults verifies differently on the next Python: one module makes them all."""
    made = re.compile(r"create_default_context|verify_flags")
    assert [_name(file) for file in _modules(*PRODUCT) if made.search(file.read_text())] == [
        "cellward/identity/contexts.py"
    ]


def test_nothing_names_a_registry_or_a_machine() -> None:
    """What is committed works anywhere: no registry host, no path of the machine it was written on."""
    hosts = ["pypi" + ".org", "python" + "hosted.org", "proxy.golang" + ".org", "sum.golang" + ".org", "npmjs" + ".org"]
    paths = ["/" + "work/", "/" + "root/", "/" + "opt/wheels"]
    forbidden = re.compile("|".join(re.escape(text) for text in [*hosts, *paths]))
    found = [_name(file) for file in _committed() if forbidden.search(file.read_text(errors="replace"))]
    assert found == []


def test_test_packages_have_no_init() -> None:
    """Test files may share names because test folders are no packages (importmode=importlib)."""
    assert [_name(file) for file in (ROOT / "tests").rglob("__init__.py")] == []
