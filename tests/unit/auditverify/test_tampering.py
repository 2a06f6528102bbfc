"""Every kind of tampering with an export is found, also by a thief of the hub's key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.auditverify.exports import Exported, Lines, check, resign
from tests.unit.auditverify.tampering import (
    HEADERS,
    TAMPERINGS,
    change_field,
    cut_records,
    drop_and_renumber,
    insert,
    reorder_origins,
    repeat,
    swap_and_renumber,
)


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_detected(exported: Exported, tamper: Callable[[Lines], None]) -> None:
    """V13: whatever is done to the lines, the verdict is no, with a reason."""
    lines = exported.lines()
    tamper(lines)
    report = check(lines)
    assert not report.consistent
    assert report.problems


@pytest.mark.parametrize("name", HEADERS)
def test_changed_header_is_detected(exported: Exported, name: str) -> None:
    """The header is not signed, so each thing it says is compared with something that is."""
    lines = exported.lines()
    HEADERS[name](lines)
    assert not check(lines).consistent


@pytest.mark.parametrize(
    "tamper", [change_field, drop_and_renumber, swap_and_renumber, cut_records, insert, repeat],
    ids=lambda tamper: tamper.__name__,
)  # fmt: skip
def test_stolen_hub_key_does_not_help(exported: Exported, tamper: Callable[[Lines], None]) -> None:
    """A thief with the tree-head key signs a new log: the writers' chains and statements still say no."""
    lines = exported.lines()
    tamper(lines)
    resign(lines)
    report = check(lines)
    assert report.root_matches
    assert report.checkpoint_signed
    assert not report.consistent


def test_two_faces_of_one_log_contradict_each_other(exported: Exported) -> None:
    """A hub that reorders its log re-signs it, but agents have written down the heads they saw."""
    lines = exported.lines()
    reorder_origins(lines)
    resign(lines)
    report = check(lines)
    assert report.root_matches
    assert "another-log" in {problem.code for problem in report.problems}
