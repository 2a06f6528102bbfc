"""The offline verifier against real exports: an honest one passes, what no honest log can hold is named."""

from __future__ import annotations

import json

import pytest

from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from tests.fakes.audit_writer import REALM
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store
from tests.unit.auditverify.exports import (
    KEY,
    OTHER_SPKI,
    Exported,
    body,
    check,
    export_of,
    put,
    records,
    renumber,
    resign,
)
from tests.unit.auditverify.tampering import change_field, drop_record, insert, repeat


def test_honest_export_verifies(exported: Exported) -> None:
    """The control: everything is counted, everything holds, and nobody is called endorsed who was not."""
    report = check(exported.data)
    assert (report.consistent, report.problems) == (True, [])
    assert (report.records, report.gaps, report.duplicates, report.forks) == (30, 0, 0, 0)
    assert (report.statements, report.views_checked > 0, report.size) == (3, True, 30)
    origins = {item.origin: item for item in report.origins.values()}
    first, second = exported.writers
    assert (origins[first.origin].records, origins[first.origin].epochs, origins[first.origin].signed) == (14, 2, 14)
    assert (origins[second.origin].records, origins["hub"].records) == (12, 4)
    assert {item.verdict for item in origins.values()} == {"vouched by the hub only"}


def test_endorsed_key_changes_the_verdict_of_its_writer_only(exported: Exported) -> None:
    """A key known out of band makes its cluster endorsed; one that signed nothing here is a problem."""
    first, second = exported.writers
    report = check(exported.data, endorsed=[first.spki])
    assert report.consistent
    assert report.origins[first.origin].verdict == "endorsed"
    assert report.origins[second.origin].verdict == "vouched by the hub only"
    assert not check(exported.data, endorsed=[OTHER_SPKI]).consistent


async def test_chain_alone_shows_a_rewritten_record() -> None:
    """No statement, no view, and the hub's own key: a changed record of the hub still breaks its chain."""
    log = AuditLog(scratch_store(ManualClock()).audit, KEY, lambda: REALM, ManualClock())
    for number in range(4):
        await log.append(AuditEvent("alice", "document.upload", f"Release//r{number}", "done"))
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    resign(lines)
    assert check(lines).consistent
    line = lines[records(lines)[1]]
    put(line, {**body(line), "actor": "mallory"})
    resign(lines)
    report = check(lines)
    assert (report.consistent, report.forks, report.root_matches) == (False, 1, True)


@pytest.mark.parametrize("realm", ["", "sha256:" + "00" * 32])
async def test_records_of_another_realm_do_not_pass(realm: str) -> None:
    """A log of one installation holds no records of another; without a realm only before the first one with it."""
    current = [""]
    log = AuditLog(scratch_store(ManualClock()).audit, KEY, lambda: current[0], ManualClock())
    for current[0] in ("", "", REALM):
        await log.append(AuditEvent("alice", "hub.start", "Hub", "done"))
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    assert check(lines).consistent
    current[0] = realm
    await log.append(AuditEvent("alice", "hub.start", "Hub", "done"))
    current[0] = REALM
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    assert {problem.code for problem in check(lines).problems} == {"realm"}


def test_counts_of_gaps_duplicates_and_forks(exported: Exported) -> None:
    """Each kind is counted for the writer it concerns."""
    dropped, repeated, changed = exported.lines(), exported.lines(), exported.lines()
    drop_record(dropped)
    repeat(repeated)
    insert(changed)
    assert check(dropped).gaps == 1
    assert (check(repeated).duplicates, check(repeated).forks) == (1, 0)
    assert check(changed).forks >= 1


def test_root_mismatch_is_a_problem_of_its_own(exported: Exported) -> None:
    """Records other than those that were signed are named as such, beside what else is wrong."""
    lines = exported.lines()
    change_field(lines)
    assert "root" in {problem.code for problem in check(lines).problems}


def test_ended_epoch_and_view_of_the_future_are_found(exported: Exported) -> None:
    """What an honest log cannot hold: an epoch that goes on after a later one, a record that saw what came after it."""
    lines = exported.lines()
    at = records(lines)
    moved = next(
        number for number in at if body(lines[number])["epoch"] == 2 and body(lines[number])["origin"] != "hub"
    )
    lines.insert(1, lines.pop(moved))
    renumber(lines)
    resign(lines)
    assert any("goes on after a later one" in problem.message for problem in check(lines).problems)
    early = exported.lines()
    record = body(early[at[0]])
    put(early[at[0]], {**record, "logSize": 9, "logRoot": "sha256:" + "00" * 32})
    assert any("did not exist before it" in problem.message for problem in check(early).problems)
