"""The command line against the real API over TLS: from nothing to a cell that agents are told to have."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer.main
import yaml
from typer.testing import CliRunner, Result

from agent.settings import load_settings
from cellward.documents.dsse import parse_envelope
from cellward.documents.model import Deployment, Release, parse_document
from cellward.version import VERSION
from cellward.wire.v1 import link_pb2, types_pb2
from hub.cli import audit, policy
from hub.cli.client import Client
from hub.cli.home import Home
from hub.cli.main import app
from hub.cli.waiting import wait_cells
from tests.fakes.live_api import TOKENS, LiveApi, live_api
from tools.parts.locate import path_of
from tools.parts.model import PARTS
from tools.stack.control_plane import BlockingControlPlane

STARTER = Path("policies/starter")
IMAGE = "registry.example/cellward/agent@sha256:" + "a" * 64

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
    await cli("policy", "publish", str(STARTER), "--skip-compile")
    _set_image(cli, IMAGE)
    await cli("clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
    await cli("clusters", "invite", "us-1", "--environment", "prod", "--production")
    await cli.api.agent_joins("eu-1", "dev", region="eu")
    await cli.api.agent_joins("us-1", "prod", production=True)
    return cli


def _set_image(cli: Cli, image: str) -> None:
    trust = yaml.safe_load((cli.home / "trust.yaml").read_text())
    (cli.home / "trust.yaml").write_text(yaml.safe_dump({**trust, "image": image}))


def _file(directory: Path, text: str, name: str = "cell.yaml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def _client(cli: Cli) -> Client:
    return Client(Home(cli.home).profile())


def commands_of(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its name as typed."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child_name, child in children.items():
        yield from commands_of(child, f"{name} {child_name}".strip())


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
    """The join line carries the local root, realm and facts (design §5)."""
    line = (await installed("clusters", "invite", "eu-1")).stdout
    trust = (installed.home / "trust.yaml").read_text()
    realm = next(row.split()[1] for row in trust.splitlines() if row.startswith("realm:"))
    assert realm in line
    assert "helm upgrade --install cellward-agent" in line
    assert f"image.digest={IMAGE.partition('@')[2]}" in line
    assert "facts.environments={dev}" in line
    assert "facts.production=false" in line
    assert f"root={installed.home / 'root.json'}" in line
    assert "hub.example:7441" in line
    assert line.count("\n") == 1


async def test_v6_join_token_is_in_a_file_of_the_users_own_and_nowhere_else(installed: Cli) -> None:
    """V6: neither the printed line nor what is told holds the token; its file is the owner's alone."""
    for form in ("table", "json", "yaml", "name"):
        done = await installed("clusters", "invite", "eu-1", "-o", form)
        file = installed.home / "join-eu-1-token"
        assert file.read_text().startswith("cwj_")
        assert file.stat().st_mode & 0o077 == 0
        assert "cwj_" not in done.stdout + done.stderr
        assert str(file) in done.stderr


@pytest.mark.parametrize(("image", "code"), [("", "cli/no-image"), ("registry.example/agent:1.0", "cli/bad-file")])
async def test_line_that_cannot_work_is_not_printed(installed: Cli, image: str, code: str) -> None:
    """Without an image by digest the chart installs nothing: told before a token is minted, with what to set."""
    _set_image(installed, image)
    before = (installed.home / "trust.yaml").read_bytes()
    refused = await installed("clusters", "invite", "ap-1", "--environment", "dev", "--no-production", code=2)
    assert refused.stdout == ""
    assert f"[{code}]\n  next: " in refused.stderr
    assert (installed.home / "trust.yaml").read_bytes() == before
    assert "ap-1" not in (await installed("clusters", "list", "-o", "name")).stdout
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    assert [item for item in records if item["object"].endswith("ap-1")] == []
    if not image:
        assert "--agent-config" in refused.stderr
        values = await installed("clusters", "invite", "eu-1", "-o", "yaml")
        assert "image.repository" in values.stderr


async def test_v16_settings_that_cannot_be_read_stop_an_invitation_before_it_begins(
    installed: Cli, tmp_path: Path
) -> None:
    """V16: an agent.yaml that somebody broke is named; no token is minted and no file written beside it."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.yaml").write_text("a: [")
    refused = await installed("clusters", "invite", "eu-1", "--agent-config", str(tmp_path / "agent"), code=2)
    assert "[cli/bad-file]" in refused.stderr
    assert [path.name for path in (tmp_path / "agent").iterdir()] == ["agent.yaml"]


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
    assert f"root={installed.home / 'root.json'}" in arguments


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
        assert text in shown.stdout
        assert text in waited.stderr
        assert text not in waited.stdout
    assert shown.stderr == ""


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


async def test_wait_for_no_cluster_ends_at_once(installed: Cli, tmp_path: Path) -> None:
    """Where no cluster matches there is nothing to wait for: a code and a next step, not five minutes."""
    file = _file(tmp_path, CELL)
    for attempt in ("changed", "unchanged"):
        began = time.monotonic()
        refused = await installed("apply", "-f", file, "-e", "nowhere", "--wait", code=1)
        assert time.monotonic() - began < 60, attempt
        assert "[cli/no-cluster]\n  next: " in refused.stderr
        assert "shop/cart" in refused.stderr


async def test_tombstone_ends_a_cell(installed: Cli, tmp_path: Path) -> None:
    """Delete signs a tombstone with the next sequence; data stays unless said otherwise."""
    await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev")
    would = json.loads((await installed("delete", "shop/cart", "-e", "dev", "--dry-run", "-o", "json")).stdout)
    assert (would["change"], would["sequence"]) == ("would-end", 2)
    assert len((await installed.api.fleet.documents(kind="tombstone")).items) == 0
    done = json.loads((await installed("delete", "shop/cart", "-e", "dev", "-o", "json")).stdout)
    items = await installed.api.fleet.items("eu-1", 0)
    assert items[-1].deployment_digest == done["tombstone"]
    assert items[-1].evidence == ()
    assert (done["change"], done["sequence"], done["delete_data"]) == ("ended", 2, False)


async def test_delete_waits_until_every_cluster_has_removed_it(installed: Cli, tmp_path: Path) -> None:
    """--wait of a deletion looks for this very tombstone; where no cluster has the cell, it ends at once."""
    await installed("apply", "-f", _file(tmp_path, CELL), "-e", "dev")
    late = await installed("delete", "shop/cart", "-e", "dev", "--wait", "--timeout", "1", code=1)
    assert "[cli/not-ready]" in late.stderr
    item = (await installed.api.fleet.items("eu-1", 0))[-1]
    status = link_pb2.CellStatus(
        project="shop", cell="cart", environment="dev", phase=link_pb2.CELL_PHASE_REMOVED,
        deployment_digest=item.deployment_digest,
    )  # fmt: skip
    await installed.api.fleet.cell_status("eu-1", status)
    await asyncio.to_thread(wait_cells, _client(installed), {("shop", "cart"): item.deployment_digest}, "removed", 5)
    await installed("delete", "shop/nobody", "-e", "nowhere", "--wait", "--timeout", "1")


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


async def test_v16_publish_without_the_engine_signs_nothing(installed: Cli, tmp_path: Path) -> None:
    """V16: where there is no OPA nothing is signed or published, unless somebody says that it need not compile."""
    bare = {"PATH": str(tmp_path), "CELLWARD_CACHE": str(tmp_path), "CELLWARD_OPA": ""}
    before = (await installed("policy", "list", "-o", "json")).stdout
    refused = await installed("policy", "publish", str(STARTER), code=2, **bare)
    assert "[cli/no-engine]" in refused.stderr
    for word in ("--opa", "CELLWARD_OPA", "--skip-compile"):
        assert word in refused.stderr
    for program in (tmp_path / "none", Path("/bin/true"), STARTER):
        wrong = await installed("policy", "publish", str(STARTER), "--opa", str(program), code=2, **bare)
        assert "[cli/bad-option]" in wrong.stderr
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    done = await installed("policy", "publish", str(STARTER), "--skip-compile", **bare)
    assert "not compiled" in done.stderr


@pytest.mark.real
async def test_publish_finds_the_engine_that_the_tools_built(installed: Cli, tmp_path: Path, opa_binary: Path) -> None:
    """Without OPA on PATH the one in the tree's own cache compiles; what does not compile is refused by it."""
    cached = tmp_path / "cache" / "tools" / "opa" / policy.OPA_VERSION / "opa"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(opa_binary)
    bare = {"PATH": str(tmp_path), "CELLWARD_CACHE": str(tmp_path / "cache"), "CELLWARD_OPA": ""}
    bundle = _bundle(tmp_path, "package base\n\ndeny contains x if { input.y }\n")
    refused = await installed("policy", "publish", bundle, code=2, **bare)
    assert "[policy/does-not-compile]" in refused.stderr
    await installed("policy", "publish", str(STARTER), **bare)


def test_the_version_looked_for_is_the_one_the_tools_build() -> None:
    """The command line must not import the tools, so the version stands in both."""
    assert PARTS["opa"].version == policy.OPA_VERSION


async def test_dry_run_of_a_publication_keeps_nothing(installed: Cli) -> None:
    """--dry-run says which versions would be served; the hub and the local floors stay as they were."""
    before = (await installed("policy", "list", "-o", "json")).stdout
    floors = (installed.home / "floors.json").read_bytes()
    served = json.loads(before)["published"]
    for words in (("publish", str(STARTER), "--skip-compile"), ("refresh",)):
        made = json.loads((await installed("policy", *words, "--dry-run", "-o", "json")).stdout)
        assert made["dry_run"] is True
        assert made["versions"]["snapshot"] == served["snapshotVersion"] + 1
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    assert (installed.home / "floors.json").read_bytes() == floors


async def test_publication_waits_for_every_cluster_that_joined(installed: Cli) -> None:
    """--wait of a publication ends when the last cluster decides on it, and names those that do not."""
    publish = ("policy", "publish", str(STARTER), "--skip-compile", "--wait")
    late = await installed(*publish, "--timeout", "1", code=1)
    assert "not on snapshot 2 after 1 s: eu-1, us-1 [cli/not-ready]" in late.stderr
    for name in ("eu-1", "us-1"):
        report = link_pb2.AgentStatus(policy=link_pb2.PolicyVersions(root=1, snapshot=9, targets=1))
        await installed.api.fleet.agent_status(name, report)
    await installed(*publish, "--timeout", "5")


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


async def test_a_token_of_a_role_is_made_used_and_revoked(installed: Cli, tmp_path: Path) -> None:
    """An admin makes a viewer; the viewer reads, exports, and changes nothing; once revoked it is nobody."""
    made = await installed("tokens", "create", "--name", "vera", "--role", "viewer", "--expires", "12h")
    token = made.stdout.strip()
    assert token.startswith("cwapi_")
    assert token not in made.stderr
    (tmp_path / "vera.token").write_text(made.stdout)
    vera = Cli(tmp_path / "vera", installed.api)
    done = await vera(
        "login", "--server", installed.api.server, "--ca-file", str(tmp_path / "ca.pem"),
        "--token-file", str(tmp_path / "vera.token"), "-o", "json",
    )  # fmt: skip
    assert json.loads(done.stdout)["role"] == "viewer"
    await vera("audit", "export", str(tmp_path / "export.ndjson"))
    denied = await vera("tokens", "create", "--name", "more", "--role", "viewer", code=4)
    assert "[api/role-too-low]" in denied.stderr
    listed = json.loads((await installed("tokens", "list", "-o", "json")).stdout)
    assert [(item["name"], item["role"], item["createdBy"]) for item in listed] == [("vera", "viewer", "admin")]
    assert token not in json.dumps(listed)
    assert "vera" in (await installed("tokens", "list")).stdout
    await installed("tokens", "revoke", "vera")
    refused = await vera("status", code=4)
    assert "[api/bad-token]" in refused.stderr
    again = await installed("tokens", "revoke", "vera", code=1)
    assert "[api/unknown-token-name]" in again.stderr
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    told = [(item["action"], item["decision"], item["actor"]) for item in records if "token." in item["action"]]
    assert told[-4:] == [
        ("api-token.create", "done", "admin"), ("api-token.create", "deny", "vera"),
        ("api-token.revoke", "done", "admin"), ("api-token.revoke", "failed", "admin"),
    ]  # fmt: skip


async def test_a_token_can_go_into_a_file_and_nowhere_else(installed: Cli, tmp_path: Path) -> None:
    """--file keeps it off the screen; the file is the user's own and is never written over."""
    file = tmp_path / "ci.token"
    for form in ("table", "json", "yaml", "name"):
        file.unlink(missing_ok=True)
        create = ("tokens", "create", "--name", f"ci-{form}", "--role", "deployer", "--file", str(file), "-o", form)
        done = await installed(*create)
        assert file.read_text().startswith("cwapi_")
        assert file.stat().st_mode & 0o077 == 0
        assert "cwapi_" not in done.stdout + done.stderr
    taken = await installed("tokens", "create", "--name", "x", "--role", "viewer", "--file", str(file), code=1)
    assert "[cli/exists]" in taken.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--name", "Ada L", "--role", "viewer"),
        ("--name", "ada", "--role", "root"),
        ("--name", "ada", "--role", "viewer", "--expires", "soon"),
        ("--name", "ada", "--role", "viewer", "--expires", "367d"),
        ("--name", "ada", "--role", "viewer", "--expires", "0d"),
        ("--name", "ada", "--role", "viewer", "-o", "name"),
    ],
    ids=" ".join,
)
async def test_tokens_that_cannot_be_are_usage_errors(cli: Cli, words: tuple[str, ...]) -> None:
    """A name, role or life that none can have is told before the hub is asked."""
    refused = await cli("tokens", "create", *words, code=2)
    assert "[cli/bad-option]\n  next: " in refused.stderr
    assert (await cli("tokens", "list", "-o", "name")).stdout == ""


async def test_every_red_line_has_a_code_and_a_next_step(installed: Cli) -> None:
    """V15: an agent that is away is told with the same code by check and by status, in the table and as data."""
    await installed.api.fleet.disconnected("us-1", "s1")
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
    assert "policy\n------\n- published: not looked at: no hub is known yet" in away.stdout
    down = await installed("check", code=3, CELLWARD_SERVER="https://127.0.0.1:1")
    assert "not looked at: the hub cannot be reached" in down.stdout
    stranger = await installed("check", code=4, CELLWARD_TOKEN="cwapi_nobody")
    assert "not looked at: the bearer token is not known here" in stranger.stdout


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
async def test_every_command_prints_in_every_format(installed: Cli, tmp_path: Path, form: str) -> None:
    """`-o` is on every command; JSON and YAML are one document, a name is one line without blanks around it."""
    file, home = _file(tmp_path, CELL), tmp_path / "again"
    login = (
        "login", "--server", installed.api.server, "--ca-file", str(tmp_path / "ca.pem"),
        "--token-file", str(tmp_path / "admin.token"),
    )  # fmt: skip
    await Cli(home, installed.api)(*login, "-o", form)
    commands = [
        login, ("init",), ("status",), ("apply", "-f", file, "-e", "dev"),
        ("cells", "list"), ("cells", "show", "shop/cart"), ("delete", "shop/cart", "-e", "dev"),
        ("clusters", "list"), ("clusters", "invite", "eu-1", "--agent-config", str(tmp_path / "agent")),
        ("policy", "list"), ("policy", "refresh"), ("policy", "publish", str(STARTER), "--skip-compile"),
        ("tokens", "create", "--name", "ci", "--role", "viewer", "--file", str(tmp_path / "ci.token")),
        ("tokens", "list"), ("tokens", "revoke", "ci"),
        ("audit", "tail"), ("audit", "export", str(tmp_path / "out")), ("audit", "verify", str(tmp_path / "out")),
    ]  # fmt: skip
    for words in commands:
        stdout = (await installed(*words, "-o", form)).stdout
        assert stdout.strip(), words
        if form == "json":
            json.loads(stdout)
        elif form == "yaml":
            assert isinstance(yaml.safe_load(stdout), dict | list), words
        elif form == "name":
            assert all(line and line == line.strip() for line in stdout.splitlines()), words
    assert VERSION in CliRunner().invoke(app, ["version", "-o", form]).stdout


def test_every_command_has_the_options_of_every_command() -> None:
    """Design §9: -o on all of them; --dry-run and --wait on what signs and changes what clusters do."""
    options = {
        name: {word for param in command.params for word in param.opts}
        for name, command in commands_of(typer.main.get_command(app))
    }
    assert [name for name, words in options.items() if not {"--output", "-o"} <= words] == []
    for name in ("apply", "delete", "policy publish", "policy refresh"):
        assert {"--dry-run", "--wait", "--timeout"} <= options[name]


async def test_followed_records_are_one_json_object_per_line(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`audit tail -f -o json` can be read line by line as it comes; a table has one heading."""
    await installed.api.services.audit.record("cluster.create", "Cluster//x", "done", actor="ada")
    looks = 0

    def later(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks % 3 == 0:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(lambda: loop.create_task(record("cluster.create", f"Cluster//{looks}", "done")))
        time_sleep(0.5)

    loop, record, time_sleep = asyncio.get_running_loop(), installed.api.services.audit.record, time.sleep
    monkeypatch.setattr(audit.time, "sleep", later)
    lines = (await installed("audit", "tail", "-f", "-n", "2", "-o", "json", code=130)).stdout.splitlines()
    assert [json.loads(line)["object"] for line in lines][-2:] == ["Cluster//1", "Cluster//2"]
    assert len(lines) == 4
    table = (await installed("audit", "tail", "-f", "-n", "2", code=130)).stdout
    assert table.count("INDEX") == 1
    assert table.count("Cluster//") == 4


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
