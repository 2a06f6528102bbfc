"""Records: canonical, strict, redacted before hashing; chains: no gap, no fork, no duplicate."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cellward.audit.chain import ChainState, verify_next
from cellward.audit.record import (
    ACTIONS,
    ALLOWED_DETAILS,
    MAX_RECORD,
    NO_RECORD,
    Record,
    cell_of,
    encode_record,
    parse_record,
    record_digest,
    redact,
)
from cellward.errors import CellwardError

REALM = "sha256:" + "ab" * 32
ROOT = Path(__file__).parents[4]
GOOD = Record(
    realm=REALM,
    origin="agent:0a1b2c3d-0000-4000-8000-000000000000",
    cluster="eu-1",
    epoch=1,
    seq=1,
    prev=NO_RECORD,
    time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    actor="spiffe://x/agent/eu-1",
    action="cell.apply",
    object="Deployment/shop--cart--dev/cart",
    decision="done",
    details={"namespace": "shop--cart--dev"},
)
#: Golden bytes: a change of these is a change of the format.
GOLDEN = (
    b'{"action":"cell.apply","actor":"spiffe://x/agent/eu-1","cluster":"eu-1","code":"","correlationId":"",'
    b'"decision":"done","details":{"namespace":"shop--cart--dev"},"epoch":1,"logRoot":"","logSize":0,'
    b'"object":"Deployment/shop--cart--dev/cart","origin":"agent:0a1b2c3d-0000-4000-8000-000000000000",'
    b'"prev":"sha256:0000000000000000000000000000000000000000000000000000000000000000",'
    b'"realm":"sha256:abababababababababababababababababababababababababababababababab","reason":"","revision":0,'
    b'"rule":"","schema":"cellward.audit/v1","seq":1,"time":"2026-01-02T03:04:05.678Z"}'
)

texts = st.text(max_size=60)
records = st.builds(
    Record,
    realm=st.just(REALM),
    origin=st.sampled_from(["hub", "agent:u-1", "agent:0a1b2c3d-0000-4000-8000-000000000000"]),
    cluster=texts,
    epoch=st.integers(1, 2**53 - 1),
    seq=st.integers(2, 2**53 - 1),
    prev=st.binary(min_size=31, max_size=31).map(lambda raw: "sha256:01" + raw.hex()),
    time=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3))]), min_value=datetime(2, 1, 1)),  # noqa: DTZ001 - hypothesis adds the zone
    actor=texts,
    action=st.sampled_from(sorted(ACTIONS)),
    object=texts,
    decision=st.sampled_from(["allow", "deny", "done", "failed", "finding", ""]),
    reason=st.text(max_size=3000),
    revision=st.integers(0, 2**53 - 1),
    details=st.dictionaries(st.sampled_from(sorted(ALLOWED_DETAILS)) | texts, st.text(max_size=400), max_size=50),
)


def test_golden_bytes() -> None:
    """The format is fixed to the byte."""
    assert encode_record(GOOD) == GOLDEN


@given(records)
def test_encoding_is_rfc_8785_and_parses_back(record: Record) -> None:
    """The C encoder writes what the RFC 8785 library writes, and parsing returns what was meant, cut and redacted."""
    data = encode_record(record)
    assert rfc8785.dumps(json.loads(data)) == data
    parsed = parse_record(data)
    assert encode_record(parsed) == data or "dropped" in json.loads(data)
    assert (parsed.seq, parsed.epoch, parsed.origin, parsed.prev) == (
        record.seq, record.epoch, record.origin, record.prev,
    )  # fmt: skip
    assert timedelta(0) <= record.time - parsed.time < timedelta(milliseconds=1)
    assert set(parsed.details) <= ALLOWED_DETAILS


@pytest.mark.parametrize("character", ["\u0001", "\U0001f512", '"', "\\", "\x7f", "\u2028", "\ud800"])
def test_every_record_fits(character: str) -> None:
    """Whatever a writer passes, the record is within the bound that readers take."""
    huge = character * 10_000
    record = replace(
        GOOD, actor=huge, object=huge, reason=huge, rule=huge, code=huge, correlation_id=huge,
        details=dict.fromkeys(ALLOWED_DETAILS, huge),
    )  # fmt: skip
    data = encode_record(record)
    assert parse_record(data).reason.endswith("…")


def test_redaction_happens_before_hashing_and_is_counted() -> None:
    """What is not on the allow-list is neither in the bytes nor behind the digest, and its absence is."""
    data = encode_record(replace(GOOD, details={"namespace": "n", "password": "hunter2", "env": "SECRET=1"}))
    assert b"hunter2" not in data
    assert b"SECRET" not in data
    assert json.loads(data)["dropped"] == 2
    assert redact({"password": "x", "cell": "cart"}) == ({"cell": "cart"}, 1)
    assert parse_record(data).details == {"namespace": "n"}


def test_lone_surrogates_do_not_stop_a_record() -> None:
    """Text from a broken source is replaced, never an exception in the middle of an action."""
    assert parse_record(encode_record(replace(GOOD, reason="bad \ud800 text"))).reason == "bad ? text"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": "cellward.audit/v2"}, "audit/record-too-new"),
        ({"schema": "other"}, "audit/bad-record"),
        ({"extra": "x"}, "audit/record-too-new"),
        ({"rule": None}, "audit/bad-record"),
        ({"realm": "sha256:AB"}, "audit/bad-record"),
        ({"realm": ""}, "audit/bad-record"),
        ({"origin": "agent:"}, "audit/bad-record"),
        ({"origin": "agent:u\n"}, "audit/bad-record"),
        ({"origin": "hub2"}, "audit/bad-record"),
        ({"prev": REALM}, "audit/bad-record"),
        ({"seq": 2}, "audit/bad-record"),
        ({"seq": 0}, "audit/bad-record"),
        ({"seq": True}, "audit/bad-record"),
        ({"seq": 2**53, "prev": REALM}, "audit/bad-record"),
        ({"seq": "1"}, "audit/bad-record"),
        ({"epoch": -1}, "audit/bad-record"),
        ({"epoch": 1.5}, "audit/bad-record"),
        ({"decision": "maybe"}, "audit/bad-record"),
        ({"action": "Cell Apply"}, "audit/bad-record"),
        ({"time": "2026-01-02T03:04:05Z"}, "audit/bad-record"),
        ({"time": "2026-13-02T03:04:05.678Z"}, "audit/bad-record"),
        ({"time": "2026-01-02T03:04:05.678+01:00"}, "audit/bad-record"),
        ({"details": {"a": 1}}, "audit/bad-record"),
        ({"details": ["a"]}, "audit/bad-record"),
        ({"reason": "x" * 1025}, "audit/bad-record"),
        ({"logSize": 5}, "audit/bad-record"),
        ({"logRoot": REALM}, "audit/bad-record"),
        ({"dropped": 0}, "audit/bad-record"),
    ],
)
def test_strict_parsing(change: dict[str, Any], code: str) -> None:
    """V16: each field outside its form has a code, and nothing is half understood."""
    body = {**json.loads(GOLDEN), **change}
    data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(CellwardError) as caught:
        parse_record(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{" * 100_000,
        b"[" * 15_000,
        GOLDEN + b"\n",
        GOLDEN.replace(b'"epoch":1', b'"epoch": 1'),
        GOLDEN.replace(b'"epoch":1', b'"epoch":1.0'),
        GOLDEN.replace(b'"epoch":1', b'"epoch":1,"epoch":1'),
        GOLDEN.replace(b'"epoch":1', b'"epoch":NaN'),
        GOLDEN.replace(b"eu-1", b"\\u0065u-1"),
        GOLDEN.replace(b'"cluster":"eu-1"', b'"cluster":"\\ud800"'),
        GOLDEN[:-1],
        b"x" * (MAX_RECORD + 1),
    ],
)
def test_only_the_canonical_form_is_taken(data: bytes) -> None:
    """V16: one meaning has one form: no spaces, duplicates, floats, other escapes, or bytes around it."""
    with pytest.raises(CellwardError) as caught:
        parse_record(data)
    assert caught.value.code == "audit/bad-record"


def test_writer_mistakes_are_refused() -> None:
    """A naive time or a malformed digest never becomes a record."""
    for wrong in (replace(GOOD, time=datetime(2026, 1, 1)), replace(GOOD, prev="x"), replace(GOOD, action="")):  # noqa: DTZ001 - the point
        with pytest.raises(CellwardError) as caught:
            encode_record(wrong)
        assert caught.value.code == "audit/bad-record"


def test_hub_may_record_before_it_has_a_realm() -> None:
    """Only the hub, and only because it exists before the root is adopted."""
    assert parse_record(encode_record(replace(GOOD, origin="hub", realm=""))).realm == ""


def test_cell_is_found_in_details_or_namespace() -> None:
    """Search columns come from details first, then from a cell's namespace in the object."""
    assert cell_of(replace(GOOD, details={"project": "p", "cell": "c"})) == ("p", "c")
    assert cell_of(GOOD) == ("shop", "cart")
    assert cell_of(replace(GOOD, object="Cluster//eu-1")) == ("", "")


class TestChain:
    """One writer's chain."""

    def test_records_in_order_are_taken(self) -> None:
        """Each record names the one before it."""
        state = ChainState(1)
        for _ in range(5):
            data = encode_record(replace(GOOD, seq=state.seq + 1, prev=state.head))
            state = verify_next(state, data)
            assert (state.head, state.epoch) == (record_digest(data), 1)
        assert state.seq == 5

    @pytest.mark.parametrize(
        ("seq", "prev", "epoch", "code"),
        [
            (4, "head", 1, "audit/gap"),
            (2, "head", 1, "audit/duplicate"),
            (1, NO_RECORD, 1, "audit/duplicate"),
            (3, REALM, 1, "audit/fork"),
            (3, "head", 2, "audit/wrong-chain"),
        ],
    )
    def test_what_does_not_continue_it_is_refused(self, seq: int, prev: str, epoch: int, code: str) -> None:
        """V13: a gap, a repeat, a fork and another epoch each have their code."""
        state = ChainState(1)
        for number in (1, 2):
            state = verify_next(state, encode_record(replace(GOOD, seq=number, prev=state.head)))
        record = replace(GOOD, seq=seq, epoch=epoch, prev=state.head if prev == "head" else prev)
        with pytest.raises(CellwardError) as caught:
            verify_next(state, encode_record(record))
        assert caught.value.code == code


def test_our_writers_use_only_listed_actions() -> None:
    """The list is closed: whoever records a new action puts it there (and into the reference) first."""
    used: dict[str, str] = {}
    for file in [*ROOT.glob("hub/**/*.py"), *ROOT.glob("agent/**/*.py")]:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
            place = {"record": 0, "Entry": 0, "AuditEvent": 1}.get(name)
            if place is None or len(call.args) <= place:
                continue
            action = call.args[place]
            if isinstance(action, ast.Constant) and isinstance(action.value, str):
                used[action.value] = str(file.relative_to(ROOT))
    assert {"cell.quarantine", "identity.copy", "drift.repair"} <= used.keys(), "the search finds what is there"
    assert {action: file for action, file in used.items() if action not in ACTIONS} == {}


@pytest.mark.parametrize("control", ["\x00", "\n", "\x1b", "\x7f", "\x9b"])
@pytest.mark.parametrize("place", ["object", "reason", "cluster", "details"])
def test_control_characters_are_cut_by_writers_and_refused_by_readers(control: str, place: str) -> None:
    """They have no business on a terminal nor in a column; a record that holds one is none of ours."""
    text = f"a{control}b"
    written = encode_record(replace(GOOD, **{place: {"cell": text} if place == "details" else text}))  # type: ignore[arg-type]
    read = parse_record(written)
    assert (read.details["cell"] if place == "details" else getattr(read, place)) == "a b"
    body = json.loads(written)
    body[place] = {"cell": text} if place == "details" else text
    with pytest.raises(CellwardError) as caught:
        parse_record(rfc8785.dumps(body))
    assert caught.value.code == "audit/bad-record"


def test_text_that_only_looks_like_an_escape_is_text() -> None:
    """Backslashes, quotes and other scripts are nobody's control characters."""
    for text in ("C:\\new", 'say "no"', "größer…", "\\u0000", "日本"):
        assert parse_record(encode_record(replace(GOOD, reason=text))).reason == text


def test_what_a_record_is_found_by_fits_a_column() -> None:
    """A detail may be longer than any name: what is kept of it for searching is not."""
    long = "x" * 200
    assert cell_of(replace(GOOD, details={"project": long, "cell": long})) == (long[:64], long[:64])
    assert cell_of(replace(GOOD, details={}, object=f"Cell/{long}--{long}--dev")) == (long[:64], long[:64])
