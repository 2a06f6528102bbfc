"""``cellward check`` tells what ends before it does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from cli import check
from tests.fakes.command_line import Cli

LIVES = ("policy/root", "policy/targets", "policy/keyring", "policy/author-key")


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (0, ["ok", "ok", "ok", "ok"]),
        (140, ["ok", "warning", "warning", "ok"]),
        (170, ["ok", "failed", "failed", "ok"]),
        (300, ["warning", "failed", "failed", "warning"]),
        (340, ["failed", "failed", "failed", "failed"]),
    ],
)
async def test_lives_of_roots_policy_and_author_keys_are_told(
    installed: Cli, monkeypatch: pytest.MonkeyPatch, days: int, expected: list[str]
) -> None:
    """At a quarter of each life a warning with the next command, at a tenth a red line."""
    monkeypatch.setattr(check, "instant", lambda: datetime.now(UTC) + timedelta(days=days))
    result = await installed("check", "-o", "json", code=1)  # no agent is connected here
    found = {line["id"]: line for line in json.loads(result.stdout)["checks"]}
    assert [found[name]["status"] for name in LIVES] == expected
    for name in LIVES:
        assert ("cellward " in found[name]["hint"]) == (found[name]["status"] != "ok")
