"""``cellward check`` tells what ends before it does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from cellward.wire.v1 import link_pb2
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


async def _told(cli: Cli, line: str) -> tuple[str, str]:
    """Status and hint of one line of a check."""
    found = {one["id"]: one for one in json.loads((await cli("check", "-o", "json", code=1)).stdout)["checks"]}
    return found[line]["status"], found[line]["hint"]


async def test_lives_of_snapshot_certificates_and_the_hubs_ca_are_told(
    installed: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shorter lives as well: a week, an hour, and whatever the CA says of itself."""
    start = datetime.now(UTC)

    async def expect(line: str, ends: datetime, life: timedelta) -> None:
        for left, status in ((0.5, "ok"), (0.2, "warning"), (0.08, "failed"), (-0.1, "failed")):
            monkeypatch.setattr(check, "instant", lambda left=left: ends - life * left)
            told, hint = await _told(installed, line)
            assert (told, bool(hint)) == (status, status != "ok"), (line, left)

    await expect("policy/snapshot", start + timedelta(days=7), timedelta(days=7))
    (ca,) = x509.load_pem_x509_certificates((installed.home / "hub-ca.pem").read_bytes())
    begins, ends = ca.not_valid_before_utc, ca.not_valid_after_utc
    await expect("trust/hub-ca", ends, ends - begins)
    await installed.api.agent_joins("eu-1", "dev")
    expires = start.replace(microsecond=0) + timedelta(minutes=30)
    status = link_pb2.AgentStatus(certificate_expires_unix=int(expires.timestamp()))
    await installed.api.fleet.agent_status("eu-1", status)
    await expect("clusters/certificate", expires, timedelta(hours=1))
