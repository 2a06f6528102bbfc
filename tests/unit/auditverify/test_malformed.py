"""What is no export, and values of the wrong type in any place of one."""

from __future__ import annotations

import base64
import json

import pytest

from cellward.audit.statement import STATEMENT_TYPE
from cellward.documents import canonical
from cellward.documents.dsse import dump_envelope, sign_document
from tests.unit.auditverify.exports import Exported, body, check, put, records, resign, statement_of


@pytest.mark.parametrize("data", [b"", b"\n", b"null\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000, b'{"checkpoint":1}\n'])
def test_what_is_no_export_is_not_verified(data: bytes) -> None:
    """V16: garbage is reported, never a traceback."""
    assert not check(data).consistent


WRONG = [None, 7, -1, True, [], ["a"], "AAAA", "!", {"a": 1}]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", ["record", "envelope", "checkpoint", "index", "origin"])
def test_wrong_types_are_reported(exported: Exported, name: str, value: object) -> None:
    """V16: any value in any line is an answer, never a traceback."""
    places = [number for number, line in enumerate(exported.lines()) if name in line]
    assert places
    for number in places:
        lines = exported.lines()
        if lines[number][name] is not value and (lines[number][name], type(value)) != (value, int):
            lines[number][name] = value
            assert not check(lines).consistent, number


@pytest.mark.parametrize("value", WRONG)
def test_wrong_types_in_signed_places_are_reported(exported: Exported, value: object) -> None:
    """V16: the keys are stolen, too: what a record, a statement or the header holds is checked all the same."""
    name: str
    for name in body(exported.lines()[records(exported.lines())[-1]]):
        lines = exported.lines()
        line = lines[records(lines)[-1]]
        if body(line)[name] == value:
            continue
        put(line, {**body(line), name: value})
        resign(lines)
        assert not check(lines).consistent, name
    writer = exported.writers[1]
    for name in ("schema", "realm", "uid", "epoch", "seq", "head"):
        lines = exported.lines()
        statement = lines[statement_of(lines, writer)]
        payload = json.loads(base64.b64decode(json.loads(base64.b64decode(statement["envelope"]))["payload"]))
        if payload[name] == value and type(payload[name]) is type(value):
            continue
        envelope = sign_document(canonical.encode({**payload, name: value}), STATEMENT_TYPE, [writer.signer])
        statement["envelope"] = base64.b64encode(dump_envelope(envelope)).decode()
        assert not check(lines).consistent, name
    for name in ("origin", "uid", "cluster", "statementSpki"):
        lines = exported.lines()
        lines[0]["origins"][0][name] = value
        assert not check(lines).consistent, name
