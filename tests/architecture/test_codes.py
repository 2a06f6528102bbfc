"""Whatever has the form of a code and can reach a person is explained on a page of the reference."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cellward.documents.model import SUPPORTED_FEATURES
from cellward.errors import ErrorCode
from tools.generate import errors
from tools.generate.page import ROOT

_CODE = re.compile(r"[a-z][a-z0-9-]*/[a-z0-9]+(-[a-z0-9]+)*\Z")
#: Forms of other things: versions of Kubernetes APIs, media types.
_OTHER = re.compile(r"[a-z0-9.]+/v\d+((alpha|beta)\d+)?\Z|application/")
#: No codes, each for the reason beside it; nobody but the program itself sees them, or they are names.
_NAMES = {
    ("hub/documents/judging.py", "documents/judged-by"): "key of a stored value",
    ("hub/documents/realm.py", "realm/root"): "key of a stored value",
    ("cli/door/documents.py", "cli/hub-un"): "beginning of codes that are in the catalogue",
    ("agent/cells/drift.py", "drift/{}"): "key of an owed record",
    ("cli/policy.py", "policy/{}"): "name of a published set, as -o name prints it",
    ("cli/setup.py", "hub/{}"): "name of a login, as -o name prints it",
    ("hub/authority/copies.py", "agent/{}"): "subject of a lock",
}
#: Which argument is the id of a check, which stands beside the code of a red line and is none.
_CHECKS = {"Check": 1, "Result": 1, "_line": 1, "life_line": 1, "_skipped": 1, "Explained": 0}


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module, as literal or with {} for what is put into it; ids of checks are left out."""
    ids = {
        id(argument)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and (place := _CHECKS.get(getattr(call.func, "attr", getattr(call.func, "id", "")))) is not None
        for argument in call.args[place : place + 1]
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in ids | inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


@functools.cache
def _catalogue() -> Mapping[str, ErrorCode]:
    return errors.whole_catalogue()


def unexplained(source: str, file: str) -> list[str]:
    """Return the places of a module where something of the form of a code is not in the catalogue."""
    catalogue = _catalogue()
    rooms = {name.partition("/")[0] for name in catalogue}
    found = []
    for line, text in texts(ast.parse(source)):
        if text in catalogue or text in SUPPORTED_FEATURES or (file, text) in _NAMES or _OTHER.match(text):
            continue
        room, _, rest = text.partition("/")
        if _CODE.match(text) or (room in rooms and re.match(r"[a-z0-9-]*\{\}[^/]*\Z", rest)):
            found.append(f"{file}:{line} {text}")
    return sorted(found)


def test_v15_every_code_that_can_reach_a_person_is_in_the_catalogue() -> None:
    """V15: a refusal names its next step, which the catalogue has; so no code is made beside it."""
    files = [file for package in errors.PACKAGES for file in (ROOT / package).rglob("*.py") if "v1" not in file.parts]
    assert len(files) > 200
    assert [line for file in files for line in unexplained(file.read_text(), str(file.relative_to(ROOT)))] == []


def test_a_code_beside_the_catalogue_is_found() -> None:
    """As literal, as default, as part of a condition, and where half of it is put in; an id of a check is no code."""
    source = 'health.set(code="spool/never-defined")\nrule = f"policy/{verdict}"\nResult("hub", "hub/reached", True)\n'
    assert unexplained(source, "x.py") == ["x.py:1 spool/never-defined", "x.py:2 policy/{}"]


def test_every_name_that_is_no_code_is_still_there() -> None:
    """The list of exceptions holds nothing that was taken out of the code."""
    for file, text in _NAMES:
        assert text in [found for _, found in texts(ast.parse((ROOT / file).read_text()))], (file, text)


def test_v15_every_rule_id_of_the_policies_is_explained() -> None:
    """V15: a rule id that a refusal names can be looked up."""
    page = (ROOT / "docs" / "reference" / "policy-rules.md").read_text()
    bundles = sorted(place.name for place in (ROOT / "policies").iterdir() if place.is_dir())
    rego = [file for file in (ROOT / "policies").rglob("*.rego") if "tests" not in file.parts]
    ids = {found for file in rego for name in bundles for found in _ids(file, name)}
    assert len(ids) > 10
    assert {name for name in ids if f"## `{name}`" not in page} == set()


def _ids(file: Path, bundle: str) -> list[str]:
    return re.findall(rf"\b{bundle}/[a-z0-9/-]+", file.read_text())
