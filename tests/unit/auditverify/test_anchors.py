"""What an auditor brings, and how far it reaches: with the hub's key alone nothing is verified."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.anchors import MAX_TRIED, Witness, parse_witness
from auditverify.signatures import Malformed
from cellward.audit.checkpoint import Checkpoint, key_hash, log_origin, sign_checkpoint
from cellward.audit.cosignature import cosign, witness_vkey
from cellward.audit.tree import leaf_hash, root_of
from cellward.errors import CellwardError
from tests.fakes.audit_writer import REALM
from tests.unit.auditverify.exports import KEY, OTHER, Exported, Lines, check, codes, records, resign

WITNESS = Ed25519PrivateKey.generate()
#: The log's key, raw.
HUB = KEY.public_key().public_bytes_raw()


def closing(lines: Lines) -> bytes:
    """The checkpoint that ends an export."""
    return base64.b64decode(lines[-1]["checkpoint"])


def checkpoint_at(lines: Lines, size: int) -> bytes:
    """The checkpoint the hub signed when the log had so many records."""
    leaves = [leaf_hash(base64.b64decode(lines[number]["record"])) for number in records(lines)[:size]]
    return sign_checkpoint(Checkpoint(log_origin(REALM), size, root_of(leaves)), KEY)


def known(name: str = "ada.example", key: Ed25519PrivateKey = WITNESS) -> Witness:
    """A witness as an auditor knows it."""
    return parse_witness(witness_vkey(name, key.public_key()))


def rewritten(lines: Lines, first: int = 0) -> Lines:
    """The same log with other records of the hub, all of it signed anew by who holds the tree-head key."""
    mine = [number for number in records(lines) if body_of(lines, number)["origin"] == "hub"][first:]
    before = str(body_of(lines, mine[0])["prev"])
    for number in mine:
        body = {**body_of(lines, number), "actor": "mallory", "prev": before}
        data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        lines[number]["record"] = base64.b64encode(data).decode()
        before = "sha256:" + hashlib.sha256(data).hexdigest()
    resign(lines)
    return lines


def without_agent(lines: Lines, origin: str) -> Lines:
    """The same log, of which one agent was never heard."""
    kept = [
        line
        for line in lines
        if line.get("origin") != origin
        and ("record" not in line or json.loads(base64.b64decode(line["record"]))["origin"] != origin)
    ]
    kept[0]["origins"] = [item for item in kept[0]["origins"] if item["origin"] != origin]
    for index, number in enumerate(records(kept)):
        kept[number]["index"] = index
    resign(kept)
    return kept


def body_of(lines: Lines, number: int) -> dict[str, object]:
    """A record."""
    found: dict[str, object] = json.loads(base64.b64decode(lines[number]["record"]))
    return found


def test_the_hubs_key_alone_verifies_nothing(exported: Exported) -> None:
    """Whoever holds it makes a log that is whole, signed and consistent; the word and exit 0 are not for that."""
    report = check(exported.data)
    assert (report.consistent, report.verified, report.anchored) == (True, False, 0)
    assert report.verdict == "CONSISTENT, NOT ANCHORED"
    assert report.unanchored_from == 0


@pytest.mark.parametrize("how", ["rewritten", "dropped"])
def test_a_history_made_by_who_holds_the_tree_head_key_is_not_verified(exported: Exported, how: str) -> None:
    """Rewritten hub records, or an agent dropped: consistent by itself, and caught by each kind of anchor."""
    honest = exported.lines()
    first, second = exported.writers
    forged = rewritten(exported.lines()) if how == "rewritten" else without_agent(exported.lines(), second.origin)
    # What agents saw of the log gives it away, unless the hub lied to them from the beginning.
    for number in records(forged):
        assert "record" in forged[number]
    report = check(forged)
    assert not report.verified
    for anchors in (
        {"checkpoints": [checkpoint_at(honest, 12)]},
        {"checkpoints": [closing(honest)]},
        {"checkpoints": [cosign(closing(honest), HUB, "ada.example", WITNESS, 1)], "witnesses": [known()]},
        {"endorsed": [first.spki, second.spki]},
    ):
        report = check(forged, **anchors)
        assert report.verdict == "NOT VERIFIED", anchors
        assert codes(report) & {"anchor", "another-log", "endorsed", "view"}


def test_a_tail_that_no_agent_saw_is_consistent_and_nothing_more(exported: Exported) -> None:
    """The hub rewrites its last record: nothing contradicts it, so only a kept checkpoint shows it."""
    honest, forged = exported.lines(), rewritten(exported.lines(), -1)
    for anchors in ({}, {"endorsed": [writer.spki for writer in exported.writers]}):
        report = check(forged, **anchors)
        assert (report.verdict, report.problems) == ("CONSISTENT, NOT ANCHORED", [])
    assert check(forged, checkpoints=[closing(honest)]).verdict == "NOT VERIFIED"


def test_a_kept_checkpoint_covers_what_is_below_it(exported: Exported) -> None:
    """The whole log verifies by its newest checkpoint; an earlier one covers its part and says where it ends."""
    lines = exported.lines()
    whole = check(lines, checkpoints=[closing(lines)])
    assert (whole.verified, whole.anchored) == (True, 30)
    assert {state.verdict for state in whole.origins.values()} == {"witnessed"}
    part = check(lines, checkpoints=[checkpoint_at(lines, 12)])
    assert (part.verdict, part.anchored, part.unanchored_from) == ("CONSISTENT, NOT ANCHORED", 12, 12)
    assert not check(lines, checkpoints=[closing(lines)], hub_key=None).verified


def test_an_endorsed_agent_covers_its_records_and_what_it_saw(exported: Exported) -> None:
    """Its records hold the tree heads it saw, so the hub's records before those are anchored, later ones not."""
    lines = exported.lines()
    report = check(lines, endorsed=[writer.spki for writer in exported.writers])
    hub = [index for index, number in enumerate(records(lines)) if body_of(lines, number)["origin"] == "hub"]
    assert report.consistent
    assert report.unanchored_from in {None, *hub}
    assert report.anchored > 0
    one = check(lines, endorsed=[exported.writers[0].spki])
    assert 0 < one.anchored <= report.anchored


@pytest.mark.parametrize("how", ["none", "other name", "other key", "broken", "time"])
def test_with_witnesses_a_checkpoint_counts_only_co_signed(exported: Exported, how: str) -> None:
    """Anybody can hand over a checkpoint of a hub; the witness's own signature is what is trusted."""
    lines = exported.lines()
    note = cosign(closing(lines), HUB, "ada.example", WITNESS, 1_700_000_000)
    assert check(lines, checkpoints=[note], witnesses=[known()]).verified
    if how == "none":
        note = closing(lines)
    elif how == "other name":
        note = cosign(closing(lines), HUB, "eve.example", WITNESS, 1)
    elif how == "other key":
        note = cosign(closing(lines), HUB, "ada.example", OTHER, 1)
    else:
        head, _, last = note[:-1].rpartition(b" ")
        blob = bytearray(base64.b64decode(last))
        blob[20 if how == "broken" else 11] ^= 1
        note = head + b" " + base64.b64encode(bytes(blob)) + b"\n"
    report = check(lines, checkpoints=[note], witnesses=[known()])
    assert (report.verdict, codes(report)) == ("NOT VERIFIED", {"anchor"})


def bogus(name: str, hint: bytes, body: bytes = bytes(72)) -> bytes:
    """A line that looks like a witness's; anybody can make it."""
    return f"\u2014 {name} {base64.b64encode(hint + body).decode()}\n".encode()


@pytest.mark.parametrize("body", [bytes(72), b"", bytes(8) + b"short"], ids=["whole", "empty", "short"])
def test_a_line_that_only_looks_like_a_witness_spoils_no_other(exported: Exported, body: bytes) -> None:
    """Put before the witness's own, or before that of another witness that is named: the honest cosignature counts."""
    lines, eve = exported.lines(), known("eve.example", OTHER)
    note = cosign(closing(lines), HUB, "ada.example", WITNESS, 1)
    head, _, signatures = note.partition(b"\n\n")
    for line in (
        bogus("ada.example", known().hint, body),
        bogus("eve.example", eve.hint, body),
        "\u2014 ada.example =\n".encode(),
    ):
        spoilt = head + b"\n\n" + line * 5 + signatures
        assert check(lines, checkpoints=[spoilt], witnesses=[eve, known()]).verified, line
        alone = head + b"\n\n" + signatures.splitlines(keepends=True)[0] + line
        assert codes(check(lines, checkpoints=[alone], witnesses=[eve, known()])) == {"anchor"}


def test_lines_of_one_witness_are_tried_within_a_bound(exported: Exported) -> None:
    """A note with thousands of them costs an auditor no more than some."""
    lines = exported.lines()
    note = cosign(closing(lines), HUB, "ada.example", WITNESS, 1)
    head, _, signatures = note.partition(b"\n\n")
    for count, verified in ((MAX_TRIED - 1, True), (MAX_TRIED, False)):
        spoilt = head + b"\n\n" + bogus("ada.example", known().hint) * count + signatures
        assert check(lines, checkpoints=[spoilt], witnesses=[known()]).verified is verified


def test_a_cosigned_note_has_the_logs_line_and_the_witnesss_alone() -> None:
    """What else a hub put beside its signature goes nowhere; a note that the log did not sign is not co-signed."""
    note = sign_checkpoint(Checkpoint("log.example/x", 3, b"\1" * 32), KEY)
    hint = key_hash("log.example/x", HUB)
    head, _, signature = note.partition(b"\n\n")
    extra = bogus("ada.example", known().hint) + bogus("log.example/x", hint, bytes(64)) + bogus("other", b"abcd")
    done = cosign(head + b"\n\n" + extra + signature, HUB, "ada.example", WITNESS, 1)
    assert done == cosign(note, HUB, "ada.example", WITNESS, 1)
    assert done.startswith(note)
    assert done[len(note) :].count(b"\n") == 1
    for unsigned in (head + b"\n\n" + extra, sign_checkpoint(Checkpoint("log.example/x", 3, b"\1" * 32), OTHER)):
        with pytest.raises(CellwardError) as caught:
            cosign(unsigned, HUB, "ada.example", WITNESS, 1)
        assert caught.value.code == "audit/bad-checkpoint"


def test_a_larger_or_foreign_checkpoint_is_a_problem(exported: Exported) -> None:
    """Records that were there are gone; or it is another log."""
    lines = exported.lines()
    larger = sign_checkpoint(Checkpoint(log_origin(REALM), 31, b"\0" * 32), KEY)
    foreign = sign_checkpoint(Checkpoint(log_origin("sha256:" + "9" * 64), 1, b"\0" * 32), KEY)
    stranger = sign_checkpoint(Checkpoint(log_origin(REALM), 1, b"\0" * 32), OTHER)
    for note in (larger, foreign, stranger, b"", b"x\n\ny"):
        assert codes(check(lines, checkpoints=[note])) == {"anchor"}


def test_a_cosignature_has_the_bytes_of_the_specification() -> None:
    """C2SP tlog-cosignature: hash of name, newline, 0x04 and key; time before the signature; text signed with it."""
    raw = WITNESS.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    note = sign_checkpoint(Checkpoint("log.example/x", 3, b"\1" * 32), KEY)
    line = cosign(note, HUB, "ada.example", WITNESS, 1234).decode().splitlines()[-1]
    blob = base64.b64decode(line.removeprefix("— ada.example "))
    assert blob[:4] == hashlib.sha256(b"ada.example\n\x04" + raw).digest()[:4]
    assert blob[4:12] == (1234).to_bytes(8, "big")
    text = b"log.example/x\n3\n" + base64.b64encode(b"\1" * 32) + b"\n"
    WITNESS.public_key().verify(blob[12:], b"cosignature/v1\ntime 1234\n" + text)


@pytest.mark.parametrize("text", ["", "a", "a+b", "a+00000000+AAAA", "+00000000+", "a b+00+BA=="])
def test_a_malformed_witness_key_is_refused(text: str) -> None:
    """A slip of the pen must not become a witness that never signs."""
    with pytest.raises(Malformed):
        parse_witness(text)
