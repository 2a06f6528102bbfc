"""What the writer itself did not sign is told, whoever holds the hub's key."""

from __future__ import annotations

import base64

import pytest

from auditverify.report import HUB_ONLY
from cellward.audit.chain import ChainState, extend
from cellward.audit.statement import sign_statement
from cellward.documents.dsse import Ed25519Signer
from hub.audit.model import AuditBatchIn
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.unit.auditverify.exports import Exported, Lines, check, codes, records, renumber, resign, statement_of


def add_records(lines: Lines, written: list[bytes]) -> None:
    """Put records at the end of the log and sign it anew: the hub's key is stolen."""
    at = records(lines)[-1] + 1
    lines[at:at] = [{"index": 0, "record": base64.b64encode(data).decode()} for data in written]
    renumber(lines)
    resign(lines)


def add_statement(lines: Lines, batch: AuditBatchIn, writer: AuditWriter) -> None:
    """Put a statement before the end."""
    lines.insert(-1, {"origin": writer.origin, "envelope": base64.b64encode(batch.checkpoint).decode()})


def test_records_added_behind_the_statement_are_not_the_writers(exported: Exported) -> None:
    """A thief with the hub's key invents records of an agent: they follow its chain, but its key never saw them."""
    lines, writer = exported.lines(), exported.writers[1].clone()
    add_records(lines, writer.write(3, reason="invented"))
    report = check(lines, endorsed=[writer.spki])
    assert report.root_matches
    assert (codes(report), report.consistent) == ({"unsigned"}, False)
    assert report.origins[writer.origin].verdict != "endorsed"
    assert report.origins[writer.origin].signed == 12


def test_a_statement_counts_once(exported: Exported) -> None:
    """The same line twice says nothing more than once."""
    lines, writer = exported.lines(), exported.writers[1]
    lines.insert(-1, dict(lines[statement_of(lines, writer)]))
    report = check(lines)
    assert codes(report) == {"statement-twice"}
    assert report.origins[writer.origin].signed == 12


@pytest.mark.parametrize("signed", [True, False])
def test_an_epoch_under_a_key_of_the_hubs_own_is_not_the_writers(exported: Exported, signed: bool) -> None:
    """A stolen hub key invents a new epoch under a key of its own, beside the key you know to be the cluster's."""
    lines, writer = exported.lines(), exported.writers[1]
    thief = writer.clone()
    thief.signer = Ed25519Signer.generate()
    thief.new_epoch()
    batch = thief.batch(2, reason="invented")
    add_records(lines, list(batch.records))
    if signed:
        known = next(item for item in lines[0]["origins"] if item["origin"] == writer.origin)
        lines[0]["origins"].append({**known, "statementSpki": base64.b64encode(thief.spki).decode()})
        add_statement(lines, batch, thief)
    report = check(lines, endorsed=[writer.spki])
    assert codes(report) == ({"second-key"} if signed else {"unsigned"})
    assert report.origins[writer.origin].verdict != "endorsed"
    if signed:
        both = check(lines, endorsed=[writer.spki, thief.spki])
        assert (both.consistent, both.origins[writer.origin].verdict) == (True, "endorsed")
        assert codes(check(lines)) == {"second-key"}


def test_an_export_without_statements_is_not_verified(exported: Exported) -> None:
    """No key is needed to take lines away: what nobody signed is told."""
    lines = [line for line in exported.lines() if "envelope" not in line]
    report = check(lines)
    assert codes(report) == {"unsigned"}
    assert len(report.problems) == 3, "one for each epoch"
    assert {item.signed for item in report.origins.values()} == {0}


def test_an_older_statement_is_not_enough(exported: Exported) -> None:
    """What a writer signed of its first records says nothing of those after them."""
    lines, writer = exported.lines(), exported.writers[1]
    mine = [data for data in (base64.b64decode(lines[n]["record"]) for n in records(lines)) if writer.uid in str(data)]
    state = ChainState(1)
    for data in mine[:3]:
        state = extend(state, data)
    older = sign_statement(REALM, writer.uid, state, writer.signer)
    lines[statement_of(lines, writer)]["envelope"] = base64.b64encode(older).decode()
    report = check(lines, endorsed=[writer.spki])
    assert codes(report) == {"unsigned"}
    assert (report.origins[writer.origin].signed, report.origins[writer.origin].verdict) == (3, HUB_ONLY)
