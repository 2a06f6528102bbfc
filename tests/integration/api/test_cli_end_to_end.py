"""The command line against the real API over TLS: from nothing to a cell that agents are told to have."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from agent.settings import load_settings
from cellward.documents.dsse import parse_envelope
from cellward.documents.model import PREVIOUS, Deployment, Release, parse_document
from cellward.wire.v1 import link_pb2, types_pb2
from cli.home import Home
from tests.fakes.command_line import CALLER, CELL, IMAGE, STARTER, Cli, file_in
from tools.parts.locate import path_of
from tools.stack.control_plane import BlockingControlPlane


async def _documents(cli: Cli, kind: str) -> list[Release | Deployment]:
    page = await cli.api.documents.list(kind=kind)
    found = []
    for row in page.items:
        envelope = parse_envelope(row.envelope)
        document = parse_document(envelope.payload_type, envelope.payload)
        assert isinstance(document, Release | Deployment)
        found.append(document)
    return found


async def test_init_makes_keys_here_and_gives_the_hub_only_the_root(cli: Cli) -> None:
    """After init the hub knows the realm and holds no key; a second init changes nothing."""
    first = await cli("init", "--no-passphrase")
    again = await cli("init", "--no-passphrase")
    assert first.stdout == again.stdout
    realm = await cli.api.services.realm.current()
    assert realm is not None
    assert realm.realm == first.stdout.strip()
    private = list((cli.home / "keys").glob("*.pem"))
    assert {path.stem for path in private} == {"root", "policy", "keyring", "publisher", "author"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)


async def test_keys_are_encrypted_unless_said_otherwise(cli: Cli, tmp_path: Path) -> None:
    """Without a terminal and a passphrase init refuses; with one, the keys need it."""
    refused = await cli("init", code=2)
    assert "cli/no-passphrase" in refused.stderr
    (tmp_path / "pass").write_text("correct horse battery\n")
    await cli("init", "--passphrase-file", str(tmp_path / "pass"))
    assert b"ENCRYPTED" in (cli.home / "keys" / "author.pem").read_bytes()
    publish = ("policy", "publish", str(STARTER), "--skip-compile")
    denied = await cli(*publish, code=2, CELLWARD_PASSPHRASE="wrong horse")
    assert "document/bad-passphrase" in denied.stderr
    await cli(*publish, CELLWARD_PASSPHRASE="correct horse battery")


async def test_second_root_is_refused(cli: Cli, tmp_path: Path) -> None:
    """One root, one installation: another home cannot take the hub over."""
    await cli("init", "--no-passphrase")
    other = Cli(tmp_path / "other", cli.api)
    await other(
        "login", "--server", cli.api.server, "--ca-file", str(tmp_path / "ca.pem"),
        "--token-file", str(tmp_path / "admin.token"),
    )  # fmt: skip
    refused = await other("init", "--no-passphrase", code=4)
    assert "cli/foreign-hub" in refused.stderr


async def test_join_line_takes_only_address_token_and_ca_from_the_hub(installed: Cli) -> None:
    """The join line carries the local root, realm and facts (design §5), in a file beside trust.yaml."""
    line = (await installed("clusters", "invite", "eu-1")).stdout
    trust = yaml.safe_load((installed.home / "trust.yaml").read_text())
    file = installed.home / "join-eu-1-values.yaml"
    assert line.count("\n") == 1
    assert "helm upgrade --install cellward-agent" in line
    assert f"--values {file}" in line
    values = yaml.safe_load(file.read_text())
    assert values["realm"] == trust["realm"]
    assert values["root"] == (installed.home / "root.json").read_text()
    assert values["image"]["digest"] == IMAGE.partition("@")[2]
    assert (values["facts"]["environments"], values["facts"]["production"]) == (["dev"], False)
    assert values["hub"]["enrolmentAddress"] == "hub.example:7441"


async def test_v6_join_token_is_in_a_file_of_the_users_own_and_nowhere_else(installed: Cli) -> None:
    """V6: neither the printed line nor what is told holds the token; its file is the owner's alone."""
    for form in ("table", "json", "yaml", "name"):
        done = await installed("clusters", "invite", "eu-1", "-o", form)
        file = installed.home / "join-eu-1-token"
        assert file.read_text().startswith("cwj_")
        assert file.stat().st_mode & 0o077 == 0
        assert "cwj_" not in done.stdout + done.stderr
        assert str(file) in done.stderr


@pytest.mark.real
async def test_join_line_runs_and_runs_again(
    installed: Cli, tmp_path: Path, control_plane: BlockingControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell runs the line on a real API server, twice: the Secret holds the newest token, helm gets every value."""
    bin_dir, seen = tmp_path / "bin", tmp_path / "helm.args"
    bin_dir.mkdir()
    (bin_dir / "kubectl").symlink_to(path_of("kubectl"))
    (bin_dir / "helm").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\n')
    (bin_dir / "helm").chmod(0o755)
    env = {"PATH": f"{bin_dir}:/usr/bin:/bin", "KUBECONFIG": str(control_plane.kubeconfig_admin), "HOME": str(tmp_path)}
    for _ in range(2):
        line = (await installed("clusters", "invite", "eu-1")).stdout
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", line], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        ask = [str(bin_dir / "kubectl"), "-n", "cellward-system", "get", "secret", "cellward-join", "-o", "json"]
        found = await asyncio.to_thread(subprocess.run, ask, env=env, capture_output=True, text=True, check=True)
        token = base64.b64decode(json.loads(found.stdout)["data"]["token"]).decode()
        assert token == (installed.home / "join-eu-1-token").read_text()
    arguments = seen.read_text().splitlines()
    assert arguments[:3] == ["upgrade", "--install", "cellward-agent"]
    assert arguments[-2:] == ["--values", str(installed.home / "join-eu-1-values.yaml")]


async def test_agent_config_is_accepted_by_the_agent(installed: Cli, tmp_path: Path) -> None:
    """What `-o agent-config` writes loads as the agent's own settings, root and CA included."""
    await installed("clusters", "invite", "eu-1", "--agent-config", str(tmp_path / "agent"))
    settings = load_settings(tmp_path / "agent" / "agent.yaml")
    assert settings.facts.environments == ("dev",)
    assert settings.root_file.read_bytes() == (installed.home / "root.json").read_bytes()
    assert settings.join_token_file is not None
    assert settings.join_token_file.read_text().startswith("cwj_")


async def test_new_cluster_must_say_whether_it_is_production(installed: Cli) -> None:
    """What is stricter must be said, not guessed."""
    refused = await installed("clusters", "invite", "ap-1", "--environment", "dev", code=2)
    assert "--production" in refused.stderr


async def test_apply_signs_and_places_by_facts(installed: Cli, tmp_path: Path) -> None:
    """A release and a deployment reach exactly the clusters whose facts match."""
    done = await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev", "-o", "json")
    line = json.loads(done.stdout)[0]
    assert abs(line["sequence"] - time.time() * 1000) < 60_000
    assert line["change"] == "deployed"
    items = await installed.api.clusters.items("eu-1", 0)
    assert [item.deployment_digest for item in items] == [line["deployment"]]
    assert items[0].evidence == (line["release"],)
    assert not await installed.api.clusters.items("us-1", 0)


async def test_apply_again_changes_nothing_and_a_change_counts_on(installed: Cli, tmp_path: Path) -> None:
    """The same files sign nothing; a new version gets a higher sequence and falls back to what each agent settled."""
    file = file_in(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    again = json.loads((await installed("apply", "-f", file, "-e", "dev", "-o", "json")).stdout)
    assert again[0]["change"] == "unchanged"
    changed = CELL.replace('version: "1.0"', 'version: "1.1"').replace("cart:1.0", "cart:1.1")
    done = json.loads((await installed("apply", "-f", file_in(tmp_path, changed), "-e", "dev", "-o", "json")).stdout)
    assert done[0]["sequence"] > again[0]["sequence"]
    newest = max(await _documents(installed, "deployment"), key=lambda item: getattr(item, "sequence", 0))
    assert isinstance(newest, Deployment)
    assert newest.fallback == PREVIOUS
    assert newest.not_after - newest.issued_at <= timedelta(days=30)


async def test_sequence_never_goes_back_when_the_hub_forgets(installed: Cli, tmp_path: Path) -> None:
    """Local memory is a floor: a hub that lost its documents cannot make an author use a number twice."""
    home = Home(installed.home)
    ahead = int(time.time() * 1000) + 300_000
    with home.state(home.trust()).change() as change:
        change.state = change.state.model_copy(update={"sequences": {"shop/cart": ahead}})
    done = await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev", "-o", "json")
    assert json.loads(done.stdout)[0]["sequence"] == ahead + 1


async def test_connection_resolves_from_a_verified_release_only(installed: Cli, tmp_path: Path) -> None:
    """A port comes from memory or a digest a person named; one that only the hub shows is printed and not signed."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    await installed("apply", "-f", file_in(tmp_path, CALLER, "caller.yaml"), "-e", "dev")
    front = [item for item in await _documents(installed, "release") if item.cell == "front"]
    assert isinstance(front[0], Release)
    assert front[0].spec["connections"][0]["resolved"]["podPort"] == 8080  # type: ignore[index,call-overload]

    shutil.rmtree(installed.home / "state" / "blobs")
    (installed.home / "state" / "state.json").unlink()
    changed = file_in(tmp_path, CALLER.replace('version: "1.0"', 'version: "1.1"'), "caller.yaml")
    refused = await installed("apply", "-f", changed, "-e", "dev", code=4)
    assert "cli/peer-not-named" in refused.stderr
    assert "signed by ada" in refused.stderr
    digest = re.findall(r"--peer (sha256:[0-9a-f]{64})", refused.stderr)[0]
    assert "version 1.0 of" in refused.stderr
    assert len([item for item in await _documents(installed, "release") if item.cell == "front"]) == 1
    await installed("apply", "-f", changed, "-e", "dev", "--peer", digest)
    named = [item for item in await _documents(installed, "release") if item.cell == "front"]
    assert {item.spec["connections"][0]["resolved"]["podPort"] for item in named} == {8080}  # type: ignore[union-attr,index,call-overload]

    await installed("author", "revoke", "ada", "--compromised")
    again = file_in(tmp_path, CALLER.replace('version: "1.0"', 'version: "1.2"'), "caller.yaml")
    shutil.rmtree(installed.home / "state" / "blobs")
    refused = await installed("apply", "-f", again, "-e", "dev", "--peer", digest, code=4)
    assert "document/no-valid-signature" in refused.stderr


async def test_refusal_is_shown_with_rule_object_reason_and_next(installed: Cli, tmp_path: Path) -> None:
    """V15: what an agent refused reads the same in the CLI, and apply --wait ends with the exit code of a refusal."""
    file = file_in(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    item = (await installed.api.clusters.items("eu-1", 0))[0]
    refusal = types_pb2.Refusal(
        code="policy/denied", rule="images/mutable-tag", object="Deployment/shop--cart--dev/api",
        reason="The tag latest can change.", next="Name a version or a digest.",
    )  # fmt: skip
    await installed.api.clusters.receipt(
        "eu-1",
        link_pb2.Receipt(
            revision=item.revision, project="shop", cell="cart", environment="dev",
            deployment_digest=item.deployment_digest, accepted=False, refusals=[refusal],
        ),
    )  # fmt: skip
    shown = await installed("cells", "show", "shop/cart")
    waited = await installed("apply", "-f", file, "-e", "dev", "--wait", code=4)
    for text in (refusal.rule, refusal.object, refusal.reason, refusal.next, refusal.code):
        assert text in shown.stdout
        assert text in waited.stderr
        assert text not in waited.stdout
    assert shown.stderr == ""


async def test_tombstone_ends_a_cell(installed: Cli, tmp_path: Path) -> None:
    """Delete signs a tombstone with the next sequence; data stays unless said otherwise."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    would = json.loads((await installed("delete", "shop/cart", "-e", "dev", "--dry-run", "-o", "json")).stdout)
    assert would["change"] == "would-end"
    assert len((await installed.api.documents.list(kind="tombstone")).items) == 0
    done = json.loads((await installed("delete", "shop/cart", "-e", "dev", "-o", "json")).stdout)
    items = await installed.api.clusters.items("eu-1", 0)
    assert items[-1].deployment_digest == done["tombstone"]
    assert items[-1].evidence == ()
    assert (done["change"], done["sequence"] > would["sequence"], done["deleteData"]) == ("ended", True, False)


async def test_policy_refresh_renews_the_snapshot_alone(installed: Cli) -> None:
    """Refresh moves the snapshot and nothing else; list shows bundles and bindings as signed."""
    before = json.loads((await installed("policy", "list", "-o", "json")).stdout)
    await installed("policy", "refresh")
    after = json.loads((await installed("policy", "list", "-o", "json")).stdout)
    assert after["published"]["snapshotVersion"] > before["published"]["snapshotVersion"]
    assert after["published"]["targetsVersion"] == before["published"]["targetsVersion"]
    assert after["bundles"] == before["bundles"]
    assert after["bindings"]


async def test_check_is_green_and_turns_red_with_a_hint(installed: Cli) -> None:
    """Check tells a dead policy engine of one agent with its hint, and exits with 1."""
    soon = 4_000_000_000
    status = link_pb2.AgentStatus(
        conditions=[types_pb2.Condition(name="policy-engine", ok=True)],
        policy=link_pb2.PolicyVersions(root=1, snapshot=1, targets=1, snapshot_expires_unix=soon),
        certificate_expires_unix=soon,
    )
    for cluster in ("eu-1", "us-1"):
        await installed.api.clusters.agent_status(cluster, status)
    green = await installed("check")
    assert "✗" not in green.stdout
    status.conditions[0].ok = False
    status.conditions[0].code = "policy/engine-unavailable"
    status.conditions[0].message = "OPA does not answer"
    await installed.api.clusters.agent_status("us-1", status)
    red = await installed("check", code=1)
    assert "✗ us-1: policy engine: OPA does not answer" in red.stdout
    assert "next: " in red.stdout
    parsed = json.loads((await installed("check", "-o", "json", code=1)).stdout)
    assert [item["subject"] for item in parsed["checks"] if item["status"] == "failed"] == ["us-1"]


async def test_every_red_line_has_a_code_and_a_next_step(installed: Cli) -> None:
    """V15: an agent that is away is told with the same code by check and by status, in the table and as data."""
    await installed.api.clusters.disconnected("us-1", "s1")
    table = (await installed("check", code=1)).stdout
    assert "    code: check/agent-away\n    next: " in table
    checks = json.loads((await installed("check", "-o", "json", code=1)).stdout)["checks"]
    red = [line for line in checks if line["status"] == "failed"]
    assert red
    assert all(line["code"] and line["hint"] for line in red)
    assert all(not line["code"] and not line["hint"] for line in checks if line["status"] == "ok")
    shown = await installed("status")
    assert "✗ us-1: connected: no link" in shown.stdout
    assert "    code: check/agent-away\n    next: " in shown.stdout
    assert shown.stderr == ""
    red_parts = [
        one for one in json.loads((await installed("status", "-o", "json")).stdout)["components"] if not one["ok"]
    ]
    assert all(one["code"] and one["hint"] for one in red_parts)


async def test_what_is_skipped_says_why(installed: Cli, tmp_path: Path) -> None:
    """Not logged in, not reachable and not known are three reasons, and each is told as what it is."""
    (tmp_path / "other").mkdir()
    for file in ("trust.yaml", "root.json"):
        (tmp_path / "other" / file).write_bytes((installed.home / file).read_bytes())
    away = await Cli(tmp_path / "other", installed.api)("check", code=2)
    assert "policy\n------\n- published: not looked at: not logged in to a hub" in away.stdout
    down = await installed("check", code=3, CELLWARD_SERVER="https://127.0.0.1:1")
    assert "not looked at: the hub cannot be reached" in down.stdout
    stranger = await installed("check", code=4, CELLWARD_TOKEN="cwapi_nobody")
    assert "not looked at: not authenticated: the bearer token is unknown" in stranger.stdout


async def test_audit_export_holds_what_was_done(installed: Cli, tmp_path: Path) -> None:
    """Every mutation through the CLI left a record; the export ends in a signed head."""
    await installed("audit", "export", str(tmp_path / "export.ndjson"))
    lines = (tmp_path / "export.ndjson").read_text().splitlines()
    assert json.loads(lines[0])["format"] == "cellward.audit-export/v1"
    await installed("tokens", "create", "--name", "ci", "--role", "viewer")
    tail = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    assert tail[-1]["details"]["role"] == "viewer"
    actions = [item["action"] for item in tail]
    assert {"realm.adopt", "policy.publish", "cluster.create", "token.mint"} <= set(actions)
    assert all(item["decision"] == "done" for item in tail)
    assert all(item["details"] == json.loads(base64.b64decode(item["record"]))["details"] for item in tail)


async def test_export_verifies_offline_and_a_changed_byte_shows(installed: Cli, tmp_path: Path) -> None:
    """Audit verify compares with the key in trust.yaml, needs no hub, and finds a change."""
    file = tmp_path / "export.ndjson"
    await installed("audit", "export", str(file))
    far = {"CELLWARD_SERVER": "https://127.0.0.1:1"}
    alone = await installed("audit", "verify", str(file), code=1, **far)
    assert "\nCONSISTENT, NOT ANCHORED\n" in alone.stdout
    assert "[cli/not-anchored]\n  next: " in alone.stderr
    await installed("audit", "verify", str(file), "--accept-unanchored", **far)
    await installed("audit", "witness", str(tmp_path / "witness"), str(file), **far)
    kept = ("--checkpoint", str(tmp_path / "witness/checkpoint"), "--witness", str(tmp_path / "witness/witness.vkey"))
    assert (await installed("audit", "verify", str(file), *kept, **far)).stdout.endswith("\nVERIFIED\n")
    lines = file.read_text().splitlines()
    body = json.loads(lines[2])
    raw = bytearray(base64.b64decode(body["record"]))
    raw[-3] ^= 1
    lines[2] = json.dumps({**body, "record": base64.b64encode(bytes(raw)).decode()})
    file.write_text("\n".join(lines) + "\n")
    broken = await installed("audit", "verify", str(file), code=1)
    assert "NOT VERIFIED" in broken.stdout
    assert "[cli/not-verified]\n  next: " in broken.stderr
    assert json.loads((await installed("audit", "verify", str(file), "-o", "json", code=1)).stdout)["verified"] is False
