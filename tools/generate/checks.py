"""``checks.md``: every line that ``cellward check`` can show, compared with the ids that the code uses."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cellward.checks.catalogue import CHECKS, Explained
from cellward.errors import ErrorCode, Internal, define
from tools.generate.errors import whole_catalogue
from tools.generate.page import ROOT, Page, code

DIFFERS = define(
    "generate/checks-differ",
    Internal,
    "The catalogue of checks and the code do not name the same checks.",
    hint="Add or remove the entries named in cellward/checks/catalogue.py.",
)
#: Modules of the command line whose results have an id of their own.
COMMANDS = ("cli/check.py", "cli/lives.py")
#: Functions whose second argument is the id of a check.
_RESULTS = {"Check", "Result", "_line", "life_line", "_skipped"}
_HEADINGS = {
    "hub": "The hub",
    "trust": "What this machine trusts",
    "policy": "The published policy",
    "clusters": "Clusters and their agents",
}


def page(out: Path) -> None:
    """Write ``checks.md``; raises generate/checks-differ."""
    compare(CHECKS, used())
    codes = whole_catalogue()
    page = Page("Checks", "cellward/checks/catalogue.py and the error catalogue")
    page.text(
        "`cellward check` prints one line for each check: `✓` passed, `!` warning, `✗` failed, `-` skipped. "
        "`-o json` names them by the ids on this page. A failed check ends the command with exit code 1, or with that "
        "of the error when a whole group could not be checked (3 when the hub does not answer). A warning does not "
        "change the exit code. A line that fails names its [code](errors.md) and the next step."
    )
    page.text(
        "Lines under `clusters` are what the agents report. They come through the hub: read a command in them before "
        "you run it."
    )
    for category, heading in _HEADINGS.items():
        page.heading(heading)
        for entry in sorted(CHECKS, key=lambda one: one.id):
            if entry.id.partition("/")[0] == category:
                _entry(page, entry, codes)
    page.write(out, "checks.md")


def _entry(page: Page, entry: Explained, codes: Mapping[str, ErrorCode]) -> None:
    page.heading(code(entry.id), 3)
    page.text(entry.looks)
    steps = [f"{code(name)}: {codes[name].hint}" for name in entry.codes]
    more = ["Other codes may occur; the line names them."] if entry.more else []
    warns = [f"Warns: {entry.warns}"] if entry.warns else []
    page.bullets([f"Fails: {entry.fails}", *warns, *steps, *more])


def compare(explained: Iterable[Explained], found: set[str]) -> None:
    """Raise generate/checks-differ unless both name the same ids, each once."""
    ids = [entry.id for entry in explained]
    wrong = {
        "not explained": found - set(ids),
        "not in the code": set(ids) - found,
        "twice": {one for one in ids if ids.count(one) > 1},
    }
    text = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in wrong.items() if names)
    if text:
        raise DIFFERS(text)


def used() -> set[str]:
    """Return the ids of all checks, as the code names them: of the command line, and conditions of hub and agents."""
    ids = {found for file in COMMANDS for found in _of_commands(ast.parse((ROOT / file).read_text()))}
    for package, category in (("hub", "hub"), ("agent", "clusters")):
        for file in sorted((ROOT / package).rglob("*.py")):
            text = file.read_text()
            if "health" in text or "CONDITION" in text:
                ids |= {f"{category}/{name}" for name in _conditions(file, ast.parse(text))}
    # What the hub says of its own API is no condition.
    return {re.sub(r"-\d+\Z", "-N", one) for one in ids} | {"hub/api"}


def _of_commands(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in _RESULTS and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
            elif name == "result" and isinstance(node.args[0], ast.Constant):
                yield f"clusters/{node.args[0].value!s}"
        elif isinstance(node, ast.Tuple) and len(node.elts) == 4 and isinstance(node.elts[0], ast.Constant):
            yield f"policy/{node.elts[0].value!s}"  # the lives of policy, which are a table


def _conditions(file: Path, tree: ast.AST) -> Iterator[str]:
    """Names that a module sets conditions by: as literal, or as a constant of the module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        place = 0 if text.endswith("health.set") else 1 if text == "look" else None
        if place is None or len(node.args) <= place:
            continue
        name = node.args[place]
        if isinstance(name, ast.Constant):
            yield str(name.value)
        elif isinstance(name, ast.Name):
            names.add(name.id)
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    constants: dict[str, object] = vars(module)
    for constant in names | {one for one in constants if one.endswith(("CONDITION", "CONDITIONS"))}:
        value = constants.get(constant)
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from map(str, value)
