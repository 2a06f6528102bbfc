"""Every command with --dry-run, found by looking at the command line itself: none opens a private key."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from agent.audit.statement import StatementKey
from cellward.documents.dsse import Ed25519Signer
from cli.commands import app
from tests.fakes.command_line import CELL, STARTER, Cli, commands_of, file_in
from tests.integration.api.test_cli_endorse import cluster_says, published

#: What each command with --dry-run is given; one that is not here fails the test below.
WORDS: dict[str, tuple[str, ...]] = {
    "apply": ("-f", "{cell}", "-e", "dev"),
    "author add": ("bob", "--key", "{key}"),
    "author revoke": ("ada",),
    "author rotate": ("ada", "--key", "{key}"),
    "clusters endorse": ("eu-1", "--kubeconfig", "{kubeconfig}"),
    "clusters remove": ("us-1",),
    "delete": ("shop/cart", "-e", "dev", "--delete-data"),
    "hold": ("shop/cart",),
    "lift": ("shop/cart",),
    "lock": ("cluster/eu-1", "--reason", "stolen"),
    "policy minimum": ("shop",),
    "policy publish": (str(STARTER), "--skip-compile"),
    "policy refresh": (),
    "quarantine": ("shop/cart",),
    "trust follow": (),
    "trust repair": (),
    "trust sign": ("{proposal}",),
    "trust submit": ("{proposal}",),
    "unlock": ("cluster/eu-1",),
    "trust upgrade": ("--out", "{out}", "--publisher", "{key}"),
}


def dry_runs() -> list[str]:
    """Names of the commands with --dry-run."""
    commands = commands_of(typer.main.get_command(app))
    return sorted(name for name, command in commands if "--dry-run" in {o for p in command.params for o in p.opts})


def test_every_dry_run_is_tried() -> None:
    """A command that gets the option gets a line here."""
    assert dry_runs() == sorted(WORDS)


def _public_key(path: Path) -> str:
    spki = Ed25519Signer.generate().public_spki_der
    path.write_text(f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(spki).decode()}\n-----END PUBLIC KEY-----\n")
    return str(path)


@pytest.mark.timeout(300)
async def test_v1_no_dry_run_asks_for_a_private_key(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V1: with a key store that raises when asked every dry run does what it says, and nothing is signed or kept."""
    asked: list[str] = []

    def raises(*_: object) -> None:
        asked.append("a key")
        raise AssertionError("a dry run asked for a private key")

    cell = file_in(tmp_path, CELL)
    await installed("apply", "-f", cell, "-e", "dev")
    changed = file_in(tmp_path, CELL.replace("cart:1.0", "cart:1.1"), "changed.yaml")
    given = {"cell": changed, "key": _public_key(tmp_path / "bob.pub"), "out": str(tmp_path / "out")}
    given["proposal"] = str(tmp_path / "proposal")
    await installed("trust", "upgrade", "--out", given["proposal"], "--publisher", given["key"])
    kept = len((await installed.api.documents.list()).items)
    statement = StatementKey.load_or_create(tmp_path / "agent")
    said = await published(installed, statement)
    given["kubeconfig"] = str(cluster_says(tmp_path, monkeypatch, said))
    for name in ("from_pem", "sign"):
        monkeypatch.setattr(Ed25519Signer, name, raises)
    for name, words in WORDS.items():
        line = [*name.split(), *(word.format(**given) for word in words), "--dry-run", "--home", str(installed.home)]
        result = await asyncio.to_thread(CliRunner().invoke, app, line)
        # There is no lock to lift; everything else does what it says.
        assert result.exit_code == 0 or name == "unlock", (name, result.output)
    assert asked == []
    assert len((await installed.api.documents.list()).items) == kept
