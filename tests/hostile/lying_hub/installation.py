"""An installation behind the harness, with a past: what its hub could show at several moments."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import typer.main
import yaml
from typer.testing import CliRunner, Result

from agent.audit.statement import StatementKey
from agent.platform import manifest_of
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.facts import ClusterFacts
from cli.commands import app
from cli.keys import public_pem
from tests.fakes.command_line import CALLER, CELL, IMAGE, STARTER
from tests.fakes.live_api import TOKENS
from tests.hostile.lying_hub.hub import Answer, Asked, LyingHub
from tests.hostile.lying_hub.signed import payload_of, spy

#: The cell as it was at the three moments: an old one, the one before, the present one; each listens elsewhere.
VERSIONS = tuple(
    CELL.replace('version: "1.0"', f'version: "1.{number}"')
    .replace("cart:1.0", f"cart:1.{number}")
    .replace("8080", f"808{number}")
    for number in range(3)
)
#: What only reads, or only tries: afterwards the moments know every question that commands begin with.
READING: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("check",),
    ("cells", "list"),
    ("cells", "show", "shop/cart"),
    ("cells", "show", "shop/front"),
    ("clusters", "list"),
    ("tokens", "list"),
    ("locks",),
    ("policy", "list"),
    ("audit", "tail"),
    ("clusters", "remove", "us-1", "--dry-run"),
)
_tree = functools.cache(typer.main.get_command)


@dataclass(repr=False)
class Installation:
    """Homes by name.

    ``author`` remembers what it signed, ``runner`` has the same keys and no memory, ``fresh`` is only logged in, and
    ``nobody`` not even that.
    """

    hub: LyingHub
    homes: dict[str, Path]
    files: Path
    #: What the hub answered before anybody had given it a root.
    newborn: dict[Asked, Answer] = field(default_factory=dict)

    def file(self, name: str) -> str:
        """A file for --file."""
        return str(self.files / name)

    def home(self, name: str, directory: Path) -> Path:
        """A copy of a home, to be used up."""
        return self._copied(name, directory, shutil.copy2)

    def linked(self, name: str, directory: Path) -> Path:
        """The same at less cost: its files are those of the home, which the command line replaces and never changes."""
        return self._copied(name, directory, os.link)

    def _copied(self, name: str, directory: Path, copy: object) -> Path:
        target = directory / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.homes[name], target, copy_function=copy)  # type: ignore[arg-type]
        return target


def run(home: Path, *words: str) -> tuple[Result, list[bytes]]:
    """Run a command in this process; returns also every payload that a key signed meanwhile."""
    with spy() as signed, mock.patch("typer.testing._get_command", _tree):
        result = CliRunner().invoke(app, [*words, "--home", str(home)], env={"NO_COLOR": "1"})
    return result, [payload_of(data) for data in signed]


def must(home: Path, *words: str) -> Result:
    """Run a command that has to succeed."""
    result, _ = run(home, *words)
    assert result.exit_code == 0, (words, result.stdout, result.stderr, result.exception)
    return result


def install(hub: LyingHub, directory: Path) -> Installation:
    """Log in, make keys, publish policy, join two clusters, and deploy three versions of a cell and its caller."""
    home, files = directory / "author", directory / "files"
    _write_files(files, hub)
    made = Installation(hub, {"author": home}, files)
    must(home, "login", *_hub_options(hub, files))
    for name in ("nobody", "fresh"):
        made.homes[name] = directory / name
        shutil.copytree(home, made.homes[name])
    for file in ("config.yaml", "token"):
        (made.homes["nobody"] / file).unlink()
    made.newborn = {asked: hub.answer(asked, b"") for asked in (("GET", "/v1/trust"), ("GET", "/v1/whoami"))}
    must(home, "init", "--no-passphrase", "--owner", "ada")
    must(home, "policy", "publish", str(STARTER), "--skip-compile")
    trust = yaml.safe_load((home / "trust.yaml").read_text())
    (home / "trust.yaml").write_text(yaml.safe_dump({**trust, "image": IMAGE}))
    must(home, "clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
    must(home, "clusters", "invite", "us-1", "--environment", "prod", "--production")
    hub.run(hub.real.agent_joins("eu-1", "dev", region="eu"))
    hub.run(hub.real.agent_joins("us-1", "prod", production=True))
    _write_identity(home, files, hub)
    hub.answer(("GET", "/v1/audit/export"), b"")
    hub.answer(("GET", "/v1/policy/metadata"), b"")
    _deploy(home, [str(files / "cart-0.yaml")])
    hub.record()
    must(home, "author", "add", "bob", "--key", str(files / "bob.pub"))
    _deploy(home, [str(files / "cart-1.yaml")])
    _deploy(home, [str(files / "front.yaml")])
    hub.record()
    must(home, "author", "revoke", "bob")
    must(home, "lock", "cluster/old-1", "--signed", "--reason", "stolen")
    must(home, "quarantine", "shop/cart", "-e", "prod", "--signed", "--reason", "leaks")
    must(home, "lock", "cluster/us-1", "--reason", "looked at")
    must(home, "tokens", "create", "--name", "ci", "--role", "deployer", "--file", str(files / "ci-token"))
    _deploy(home, [str(files / "cart-2.yaml")])
    must(home, "trust", "upgrade", "--renew", "--out", str(home / "proposal.json"))
    must(home, "author", "add", "dora", "--key", str(files / "dora.pub"), "--propose", str(home / "signed.json"))
    must(home, "trust", "sign", str(home / "signed.json"))
    must(home, "audit", "witness", str(home / "witness"))
    must(home, "audit", "export", str(home / "export.ndjson"))
    made.homes["runner"] = directory / "runner"
    shutil.copytree(home, made.homes["runner"])
    shutil.rmtree(made.homes["runner"] / "state")
    for words in READING:
        run(home, *words)
    hub.record()
    return made


def _hub_options(hub: LyingHub, files: Path) -> tuple[str, ...]:
    return "--server", hub.server, "--ca-file", str(hub.ca_file), "--token-file", str(files / "token")


def _write_files(files: Path, hub: LyingHub) -> None:
    files.mkdir()
    for number, text in enumerate(VERSIONS):
        (files / f"cart-{number}.yaml").write_text(text)
    (files / "front.yaml").write_text(CALLER)
    (files / "front-1.yaml").write_text(CALLER.replace('version: "1.0"', 'version: "1.1"'))
    (files / "token").write_text(TOKENS["admin"])
    (files / "hub-ca.pem").write_bytes(hub.ca_file.read_bytes())
    for name in ("bob", "carol", "dora"):
        (files / f"{name}.pub").write_bytes(public_pem(Ed25519Signer.generate().public_spki_der))


def _write_identity(home: Path, files: Path, hub: LyingHub) -> None:
    """What the agent of eu-1 says of itself in its cluster, and a kubectl that reads it there."""
    row = hub.run(hub.real.store.clusters.get("eu-1"))
    facts = ClusterFacts(name="eu-1", uid=row.uid, environments=("dev",), production=False, region="eu")
    statement = StatementKey.load_or_create(files / "agent")
    realm = yaml.safe_load((home / "trust.yaml").read_text())["realm"]
    said = manifest_of("cellward-system", realm=realm, facts=facts, statement_spki=statement.spki_der)
    (files / "said.json").write_text(said["data"]["identity.json"])
    (files / "kubeconfig").write_text("of eu-1")
    (files / "tools").mkdir()
    (files / "tools" / "kubectl").write_text(f"#!/bin/sh\nexec cat {files}/said.json\n")
    (files / "tools" / "kubectl").chmod(0o755)


def _deploy(home: Path, files: Sequence[str]) -> None:
    for file in files:
        must(home, "apply", "-f", file, "-e", "dev")
