"""The command line against the real API over TLS: from nothing to a cell that agents are told to have."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from agent.settings import load_settings
from cellward.documents.dsse import parse_envelope
from cellward.documents.model import Deployment, Release, parse_document
from cellward.wire.v1 import link_pb2, types_pb2
from hub.cli.main import app
from tests.fakes.live_api import TOKENS, LiveApi, live_api

STARTER = Path("policies/starter")

CELL = """
apiVersion: cellward.dev/v1alpha1
kind: Cell
metadata: {name: cart, project: shop}
spec:
  version: "1.0"
  owner: team-cart
  components:
    api:
      image: registry.example/cart:1.0
      ports: {http: {port: 8080}}
  endpoints:
    http: {component: api, port: http, visibility: project}
"""
CALLER = """
apiVersion: cellward.dev/v1alpha1
kind: Cell
metadata: {name: front, project: shop}
spec:
  version: "1.0"
  owner: team-front
  components:
    web:
      image: registry.example/front:1.0
      ports: {http: {port: 80}}
  connections:
    - {cell: cart, endpoint: http, env: CART_ADDRESS}
"""


@dataclass
class Cli:
    """Runs commands in a thread, beside the event loop that serves the API."""

    home: Path
    api: LiveApi

    async def __call__(self, *arguments: str, code: int = 0, **env: str) -> Result:
        """Run one command and check its exit code."""
        runner = CliRunner()
        environ = {"CELLWARD_HOME": str(self.home), "NO_COLOR": "1", **env}
        words = [*arguments, "--home", str(self.home)]
        result = await asyncio.to_thread(runner.invoke, app, words, env=environ)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the hub's log, in this same process, out of what commands print."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    """A command line logged in to a fresh hub."""
    async with live_api(tmp_path) as api:
        (tmp_path / "ca.pem").write_bytes(api.ca_pem)
        (tmp_path / "admin.token").write_text(TOKENS["admin"])
        run = Cli(tmp_path / "home", api)
        await run(
            "login", "--server", api.server, "--ca-file", str(tmp_path / "ca.pem"),
            "--token-file", str(tmp_path / "admin.token"),
        )  # fmt: skip
        yield run


@pytest.fixture
async def installed(cli: Cli) -> Cli:
    """The same with keys made, policy published, and eu-1 (dev) and us-1 (prod) joined."""
    await cli("init", "--no-passphrase", "--owner", "ada")
    await cli("policy", "publish", str(STARTER))
    await cli("clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
    await cli("clusters", "invite", "us-1", "--environment", "prod", "--production")
    await cli.api.agent_joins("eu-1", "dev", region="eu")
    await cli.api.agent_joins("us-1", "prod", production=True)
    return cli


def _file(directory: Path, text: str, name: str = "cell.yaml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


async def _documents(cli: Cli, kind: str) -> list[Release | Deployment]:
    page = await cli.api.fleet.documents(kind=kind)
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
    assert {path.stem for path in (cli.home / "keys").iterdir()} == {"root", "policy", "keyring", "publisher", "author"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (cli.home / "keys").iterdir())


async def test_keys_are_encrypted_unless_said_otherwise(cli: Cli, tmp_path: Path) -> None:
    """Without a terminal and a passphrase init refuses; with one, the keys need it."""
    refused = await cli("init", code=2)
    assert "cli/no-passphrase" in refused.stderr
    (tmp_path / "pass").write_text("correct horse battery\n")
    await cli("init", "--passphrase-file", str(tmp_path / "pass"))
    assert b"ENCRYPTED" in (cli.home / "keys" / "author.pem").read_bytes()
    denied = await cli("policy", "publish", str(STARTER), code=2, CELLWARD_PASSPHRASE="wrong horse")
    assert "document/bad-passphrase" in denied.stderr
    await cli("policy", "publish", str(STARTER), CELLWARD_PASSPHRASE="correct horse battery")


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
    """The join line carries the local root, realm and facts (design §5)."""
    line = (await installed("clusters", "invite", "eu-1")).stdout
    trust = (installed.home / "trust.yaml").read_text()
    realm = next(row.split()[1] for row in trust.splitlines() if row.startswith("realm:"))
    assert realm in line
    assert "helm install cellward-agent" in line
    assert "facts.environments={dev}" in line
    assert "facts.production=false" in line
    assert f"root={installed.home / 'root.json'}" in line
    assert "hub.example:7441" in line
    assert line.count("\n") == 1


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
    done = await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev", "-o", "json")
    line = json.loads(done.stdout)[0]
    assert line["sequence"] == 1
    assert line["change"] == "deployed"
    items = await installed.api.fleet.items("eu-1", 0)
    assert [item.deployment_digest for item in items] == [line["deployment"]]
    assert items[0].evidence == (line["release"],)
    assert not await installed.api.fleet.items("us-1", 0)


async def test_apply_again_changes_nothing_and_a_change_counts_on(installed: Cli, tmp_path: Path) -> None:
    """The same files sign nothing; a new version gets the next sequence and falls back to what ran before."""
    file = _file(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    again = json.loads((await installed("apply", "-f", file, "-e", "dev", "-o", "json")).stdout)
    assert again[0]["change"] == "unchanged"
    first = again[0]["release"]
    changed = CELL.replace('version: "1.0"', 'version: "1.1"').replace("cart:1.0", "cart:1.1")
    done = json.loads((await installed("apply", "-f", _file(tmp_path, changed), "-e", "dev", "-o", "json")).stdout)
    assert done[0]["sequence"] == 2
    newest = max(await _documents(installed, "deployment"), key=lambda item: getattr(item, "sequence", 0))
    assert isinstance(newest, Deployment)
    assert newest.fallback == first


async def test_sequence_never_goes_back_when_the_hub_forgets(installed: Cli, tmp_path: Path) -> None:
    """The local counter is a floor: a hub that lost its documents cannot make an author use a number twice."""
    (installed.home / "sequences.json").write_text('{"shop/cart": 41}')
    done = await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev", "-o", "json")
    assert json.loads(done.stdout)[0]["sequence"] == 42


async def test_dry_run_keeps_nothing(installed: Cli, tmp_path: Path) -> None:
    """--dry-run tells which clusters would change and leaves no document and no counter."""
    done = await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev", "--dry-run", "-o", "json")
    assert json.loads(done.stdout)[0]["change"] == "would-deploy"
    assert "eu-1" in done.stderr
    assert not (await installed.api.fleet.documents()).items
    assert not (installed.home / "sequences.json").exists()


async def test_connection_resolves_from_a_verified_release_only(installed: Cli, tmp_path: Path) -> None:
    """The peer's port is signed from a release the local keyring verifies; one signed by a stranger is ignored."""
    await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev")
    await installed("apply", "-f", _file(tmp_path, CALLER, "caller.yaml"), "-e", "dev")
    front = [item for item in await _documents(installed, "release") if item.cell == "front"]
    assert isinstance(front[0], Release)
    assert front[0].spec["connections"][0]["resolved"]["podPort"] == 8080  # type: ignore[index,call-overload]

    (installed.home / "keyring.json").write_text(
        json.dumps({**json.loads((installed.home / "keyring.json").read_text()), "entries": []})
    )
    changed = CALLER.replace('version: "1.0"', 'version: "1.1"')
    refused = await installed("apply", "-f", _file(tmp_path, changed, "caller.yaml"), "-e", "dev", code=2)
    assert "cells/unknown-target" in refused.stderr


async def test_refusal_is_shown_with_rule_object_reason_and_next(installed: Cli, tmp_path: Path) -> None:
    """V15: what an agent refused reads the same in the CLI, and apply --wait ends with the exit code of a refusal."""
    file = _file(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    item = (await installed.api.fleet.items("eu-1", 0))[0]
    refusal = types_pb2.Refusal(
        code="policy/denied", rule="images/mutable-tag", object="Deployment/shop--cart--dev/api",
        reason="The tag latest can change.", next="Name a version or a digest.",
    )  # fmt: skip
    await installed.api.fleet.receipt(
        "eu-1",
        link_pb2.Receipt(
            revision=item.revision, project="shop", cell="cart", environment="dev",
            deployment_digest=item.deployment_digest, accepted=False, refusals=[refusal],
        ),
    )  # fmt: skip
    shown = await installed("cells", "show", "shop/cart")
    waited = await installed("apply", "-f", file, "-e", "dev", "--wait", code=4)
    for text in (refusal.rule, refusal.object, refusal.reason, refusal.next, refusal.code):
        assert text in shown.stderr
        assert text in waited.stderr


async def test_wait_ends_when_every_cluster_is_ready(installed: Cli, tmp_path: Path) -> None:
    """--wait looks for the very deployment applied, not for an older one that is ready."""
    file = _file(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    item = (await installed.api.fleet.items("eu-1", 0))[0]
    status = link_pb2.CellStatus(
        project="shop", cell="cart", environment="dev", phase=link_pb2.CELL_PHASE_READY,
        deployment_digest="sha256:" + "0" * 64,
    )  # fmt: skip
    await installed.api.fleet.cell_status("eu-1", status)
    await installed("apply", "-f", file, "-e", "dev", "--wait", "--timeout", "1", code=1)
    status.deployment_digest = item.deployment_digest
    await installed.api.fleet.cell_status("eu-1", status)
    await installed("apply", "-f", file, "-e", "dev", "--wait", "--timeout", "5")


async def test_tombstone_ends_a_cell(installed: Cli, tmp_path: Path) -> None:
    """Delete signs a tombstone with the next sequence; data stays unless said otherwise."""
    await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev")
    digest = (await installed("delete", "shop/cart", "-e", "dev")).stdout.strip()
    items = await installed.api.fleet.items("eu-1", 0)
    assert items[-1].deployment_digest == digest
    assert items[-1].evidence == ()


def _bundle(directory: Path, rego: str, roots: str = "base") -> str:
    folder = directory / "base"
    folder.mkdir()
    named = {"cellward": {"name": "base", "version": "1.0.0", "entrypoint": f"{roots}/deny"}}
    manifest = {"revision": "1.0.0", "roots": [roots], "rego_version": 1, "metadata": named}
    (folder / ".manifest").write_text(json.dumps(manifest))
    (folder / "base.rego").write_text(rego)
    return str(folder)


@pytest.mark.real
@pytest.mark.parametrize(
    ("rego", "roots", "code"),
    [
        ("package base\n\ndeny contains x if { input.y }\n", "base", "policy/does-not-compile"),
        ('package base\n\ndeny contains "x" if http.send({}).body\n', "base", "policy/does-not-compile"),
        ("package system.authz\n\nallow := true\n", "system", "policy/bad-roots"),
    ],
    ids=["syntax", "calls-out", "roots-system"],
)
async def test_v16_what_does_not_compile_is_not_even_signed(
    installed: Cli, tmp_path: Path, opa_binary: Path, rego: str, roots: str, code: str
) -> None:
    """V16: publish compiles as agents will; what is refused leaves the served set and the local floors as they were."""
    before = (await installed("policy", "list", "-o", "json")).stdout
    floors = (installed.home / "floors.json").read_bytes()
    bundle = _bundle(tmp_path, rego, roots)
    refused = await installed("policy", "publish", bundle, "--opa", str(opa_binary), code=2)
    assert f"[{code}]" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    assert (installed.home / "floors.json").read_bytes() == floors


async def test_publish_without_the_engine_says_that_nothing_was_compiled(installed: Cli, tmp_path: Path) -> None:
    """No OPA on this machine: publishing works and says what was not checked; a wrong --opa is a usage error."""
    done = await installed("policy", "publish", str(STARTER), PATH=str(tmp_path))
    assert "not compiled" in done.stderr
    refused = await installed("policy", "publish", str(STARTER), "--opa", str(tmp_path / "none"), code=2)
    assert "cli/bad-option" in refused.stderr


async def test_policy_refresh_renews_the_snapshot_alone(installed: Cli) -> None:
    """Refresh moves the snapshot and nothing else; list shows bundles and bindings as signed."""
    before = json.loads((await installed("policy", "list", "-o", "json")).stdout)
    await installed("policy", "refresh")
    after = json.loads((await installed("policy", "list", "-o", "json")).stdout)
    assert after["published"]["snapshotVersion"] == before["published"]["snapshotVersion"] + 1
    assert after["published"]["targetsVersion"] == before["published"]["targetsVersion"]
    assert after["bundles"] == before["bundles"]
    assert after["bindings"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "cells/not-yaml"),
        (CELL + "extra: 1\n", "cells/bad-field"),
        (CELL.replace("cart", "-cart", 1), "cells/bad-field"),
        (CELL + "---" + CELL, "cells/duplicate"),
        (
            CELL.replace("  endpoints:", "  connections: [{cell: front, endpoint: http, env: F}]\n  endpoints:")
            + "---"
            + CALLER.replace("  connections:", "  endpoints:\n"
                             "    http: {component: web, port: http, visibility: project}\n  connections:"),
            "cells/cycle",
        ),
        ("x" * (1024 * 1024 + 1), "cli/bad-file"),
        ("a: &a [*a]", "cells/yaml-alias"),
    ],
)  # fmt: skip
async def test_bad_files_are_refused_with_a_code(installed: Cli, tmp_path: Path, text: str, code: str) -> None:
    """V16: malformed, oversized, unknown fields, cycles, bad names and duplicates are usage errors; nothing is kept."""
    refused = await installed("apply", "-f", _file(tmp_path, text), "-e", "dev", code=2)
    assert f"[{code}]" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (await installed.api.fleet.documents()).items


async def test_check_is_green_and_turns_red_with_a_hint(installed: Cli) -> None:
    """Check tells a dead policy engine of one agent with its hint, and exits with 1."""
    soon = 4_000_000_000
    status = link_pb2.AgentStatus(
        conditions=[types_pb2.Condition(name="policy-engine", ok=True)],
        policy=link_pb2.PolicyVersions(root=1, snapshot=1, targets=1, snapshot_expires_unix=soon),
        certificate_expires_unix=soon,
    )
    for cluster in ("eu-1", "us-1"):
        await installed.api.fleet.agent_status(cluster, status)
    green = await installed("check")
    assert "✗" not in green.stdout
    status.conditions[0].ok = False
    status.conditions[0].code = "policy/engine-unavailable"
    status.conditions[0].message = "OPA does not answer"
    await installed.api.fleet.agent_status("us-1", status)
    red = await installed("check", code=1)
    assert "✗ us-1: policy engine: OPA does not answer" in red.stdout
    assert "next: " in red.stdout
    parsed = json.loads((await installed("check", "-o", "json", code=1)).stdout)
    assert [item["subject"] for item in parsed["checks"] if item["status"] == "failed"] == ["us-1"]


async def test_unreachable_hub_is_a_red_line(installed: Cli) -> None:
    """A hub that is down is one red line with a hint and exit code 3, never a traceback."""
    red = await installed("check", code=3, CELLWARD_SERVER="https://127.0.0.1:1")
    assert "cli/hub-unreachable" in red.stdout
    assert "Traceback" not in red.stdout + red.stderr
    await installed("status", code=3, CELLWARD_SERVER="https://127.0.0.1:1")


async def test_server_of_another_ca_is_not_talked_to(installed: Cli, tmp_path: Path) -> None:
    """The CLI trusts the CA it was given and nothing else."""
    async with live_api(tmp_path / "..") as other:
        refused = await installed("status", code=3, CELLWARD_SERVER=other.server)
    assert "cli/hub-untrusted" in refused.stderr


async def test_audit_export_holds_what_was_done(installed: Cli, tmp_path: Path) -> None:
    """Every mutation through the CLI left a record; the export ends in a signed head."""
    await installed("audit", "export", str(tmp_path / "export.ndjson"))
    lines = (tmp_path / "export.ndjson").read_text().splitlines()
    assert json.loads(lines[0])["format"] == "cellward.audit-export/v1"
    tail = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    actions = [item["action"] for item in tail]
    assert {"realm.adopt", "policy.publish", "cluster.create", "token.mint"} <= set(actions)
    assert all(item["decision"] == "done" for item in tail)


async def test_export_verifies_offline_and_a_changed_byte_shows(installed: Cli, tmp_path: Path) -> None:
    """Audit verify compares with the key in trust.yaml, needs no hub, and finds a change."""
    file = tmp_path / "export.ndjson"
    await installed("audit", "export", str(file))
    await installed("audit", "verify", str(file), CELLWARD_SERVER="https://127.0.0.1:1")
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


async def test_verification_is_printed_in_every_format(installed: Cli, tmp_path: Path) -> None:
    """The report is data, on stdout and in the format asked for; what cannot be read is told on stderr with a code."""
    file = tmp_path / "export.ndjson"
    await installed("audit", "export", str(file))
    table = (await installed("audit", "verify", str(file))).stdout
    assert table.endswith("VERIFIED\n")
    as_json = json.loads((await installed("audit", "verify", str(file), "-o", "json")).stdout)
    as_yaml = yaml.safe_load((await installed("audit", "verify", str(file), "-o", "yaml")).stdout)
    assert as_json == as_yaml
    assert as_json["verified"] is True
    name = (await installed("audit", "verify", str(file), "-o", "name")).stdout
    assert name == f"log/{as_json['logOrigin']}\n"
    for words, code in (([str(tmp_path / "none")], "cli/bad-file"), ([str(file), "--hub-key", "?"], "cli/bad-option")):
        refused = await installed("audit", "verify", *words, code=2)
        assert refused.stdout == ""
        assert f"[{code}]\n  next: " in refused.stderr
