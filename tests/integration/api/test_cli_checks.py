"""``cellward check`` tells what ends before it does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from cellward.wire.v1 import link_pb2, types_pb2
from cli import check
from cli.home import Home
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
    await installed.api.clusters.agent_status("eu-1", status)
    await expect("clusters/certificate-life", expires, timedelta(hours=1))


async def _hidden(cli: Cli) -> dict[str, dict[str, str]]:
    """Red lines about clusters that are not listed, by cluster."""
    lines = json.loads((await cli("check", "-o", "json", code=1)).stdout)["checks"]
    return {one["subject"]: one for one in lines if one["id"] == "clusters/listed"}


async def test_a_cluster_that_the_hub_does_not_list_is_red(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trust.yaml names is asked for, whatever the hub lists: to hide a cluster is not to have none."""
    assert await _hidden(installed) == {}
    fleet = installed.api.services.clusters
    listed = await fleet.clusters()

    async def hiding(*names: str) -> None:
        async def clusters() -> object:
            return tuple(view for view in listed if view.name not in names)

        monkeypatch.setattr(fleet, "clusters", clusters)
        found = await _hidden(installed)
        assert sorted(found) == sorted(names)
        for line in found.values():
            assert (line["status"], line["code"]) == ("failed", "check/cluster-hidden")
            assert "trust.yaml" in line["hint"]

    await hiding("us-1")
    await hiding("eu-1", "us-1")
    await hiding()


async def test_a_cluster_that_was_removed_is_not_missed(installed: Cli) -> None:
    """Removed from here it leaves trust.yaml; a dry run changes nothing; a removal from elsewhere is asked about."""
    place = Home(installed.home)
    await installed("clusters", "remove", "us-1", "--dry-run")
    assert set(place.trust().clusters) == {"eu-1", "us-1"}
    before = place.trust()
    await installed("clusters", "remove", "us-1", "--confirm", "us-1")
    after = place.trust()
    assert after == replace(before, clusters={"eu-1": before.clusters["eu-1"]})
    assert await _hidden(installed) == {}
    await installed.api.services.clusters.remove_cluster("eu-1")
    assert set(await _hidden(installed)) == {"eu-1"}


async def test_a_cluster_that_was_endorsed_is_not_one_that_never_joined(installed: Cli) -> None:
    """A hub that lists it as invited hides it as well; what was never endorsed may still be waited for."""
    await installed("clusters", "invite", "ap-1", "--environment", "dev", "--no-production")
    assert await _hidden(installed) == {}
    for name in ("ap-1", "eu-1", "never-invited"):
        (installed.home / f"endorsement-{name}.json").write_text("{}")
    assert set(await _hidden(installed)) == {"ap-1"}


async def test_facts_that_differ_from_the_invite_fail_the_check(installed: Cli) -> None:
    """As the guide says: a cluster that reports other facts than its invite named is a red line, with what to do."""
    fleet = installed.api.services.clusters
    for environments, status in ((["dev"], "ok"), (["dev", "prod"], "failed")):
        said = types_pb2.ClusterFacts(uid="uid", environments=environments, region="eu", projects=["*"])
        await fleet.hello("eu-1", link_pb2.Hello(facts=said))
        lines = json.loads((await installed("check", "-o", "json", code=1)).stdout)["checks"]
        (found,) = [one for one in lines if (one["id"], one["subject"]) == ("clusters/facts", "eu-1")]
        assert (found["status"], found["code"]) == (status, "" if status == "ok" else "fleet/facts-differ")
        assert ("clusters invite" in found["hint"]) == (status == "failed")
