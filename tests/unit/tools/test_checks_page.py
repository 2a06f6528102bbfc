"""The reference of checks names what ``cellward check`` can show, and nothing else."""

from __future__ import annotations

import ast

import pytest

from cellward.checks.catalogue import CHECKS
from cellward.errors import CellwardError
from tools.generate import checks
from tools.generate.errors import whole_catalogue


def test_v15_every_check_is_explained_with_known_codes() -> None:
    """V15: whoever sees a line can look up what it means and what to do next."""
    found = checks.used()
    assert len(found) > 40
    checks.compare(CHECKS, found)
    assert [name for entry in CHECKS for name in entry.codes if name not in whole_catalogue()] == []
    assert [entry.id for entry in CHECKS if not entry.codes and not entry.more and "Never" not in entry.fails] == []


@pytest.mark.parametrize(
    ("added", "text"),
    [({"clusters/new"}, "not explained: clusters/new"), (set(), "not in the code: hub/api")],
)
def test_a_difference_ends_the_generator(added: set[str], text: str) -> None:
    """Control: a check that is on no page is found, and so is an entry that no code has any more."""
    found = checks.used() | added if added else checks.used() - {"hub/api"}
    with pytest.raises(CellwardError, match=text) as raised:
        checks.compare(CHECKS, found)
    assert raised.value.code == "generate/checks-differ"


def test_ids_are_read_from_the_code() -> None:
    """Control: literals of results, of cluster lines, and of the table of lives."""
    source = 'Result("hub", "hub/a", True)\nresult("b", True, "")\nlives = (("c", expires, LIFE, code),)\n'
    assert set(checks._of_commands(ast.parse(source))) == {"hub/a", "clusters/b", "policy/c"}
