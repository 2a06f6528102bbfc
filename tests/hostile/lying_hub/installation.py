"""An installation behind the harness, with a past: what its hub could show at several moments."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from cli.main import app
from tests.fakes.command_line import CALLER, CELL, IMAGE, STARTER
from tests.fakes.live_api import TOKENS
from tests.hostile.lying_hub.hub import LyingHub
from tests.hostile.lying_hub.signed import payload_of, spy

#: The cell as it was at the three moments: an old one, the one before, the present one; each listens elsewhere.
VERSIONS = tuple(
    CELL.replace('version: "1.0"', f'version: "1.{number}"')
    .replace("cart:1.0", f"cart:1.{number}")
    .replace("8080", f"808{number}")
    for number in range(3)
)


@dataclass
class Installation:
    """Homes by name: ``author`` remembers what it signed, ``runner`` has the same keys and no memory."""

    hub: LyingHub
    homes: dict[str, Path]
    files: Path

    def file(self, name: str) -> str:
        """A file for --file."""
        return str(self.files / name)

    def home(self, name: str, directory: Path) -> Path:
        """A copy of a home, to be used up."""
        target = directory / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.homes[name], target)
        return target


def run(home: Path, *words: str) -> tuple[Result, list[bytes]]:
    """Run a command in this process; returns also every payload that a key signed meanwhile."""
    with spy() as signed:
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
    files.mkdir()
    for number, text in enumerate(VERSIONS):
        (files / f"cart-{number}.yaml").write_text(text)
    (files / "front.yaml").write_text(CALLER)
    (files / "front-1.yaml").write_text(CALLER.replace('version: "1.0"', 'version: "1.1"'))
    (files / "token").write_text(TOKENS["admin"])
    must(
        home, "login", "--server", hub.server, "--ca-file", str(hub.ca_file), "--token-file", str(files / "token"),
    )  # fmt: skip
    must(home, "init", "--no-passphrase", "--owner", "ada")
    must(home, "policy", "publish", str(STARTER), "--skip-compile")
    trust = yaml.safe_load((home / "trust.yaml").read_text())
    (home / "trust.yaml").write_text(yaml.safe_dump({**trust, "image": IMAGE}))
    must(home, "clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
    must(home, "clusters", "invite", "us-1", "--environment", "prod", "--production")
    hub.run(hub.real.agent_joins("eu-1", "dev", region="eu"))
    hub.run(hub.real.agent_joins("us-1", "prod", production=True))
    _deploy(home, [str(files / "cart-0.yaml")])
    hub.record()
    _deploy(home, [str(files / "cart-1.yaml")])
    _deploy(home, [str(files / "front.yaml")])
    hub.record()
    _deploy(home, [str(files / "cart-2.yaml")])
    runner = directory / "runner"
    shutil.copytree(home, runner)
    shutil.rmtree(runner / "state")
    for words in (("status",), ("check",), ("cells", "show", "shop/cart")):
        run(home, *words)
    hub.record()
    return Installation(hub, {"author": home, "runner": runner}, files)


def _deploy(home: Path, files: Sequence[str]) -> None:
    for file in files:
        must(home, "apply", "-f", file, "-e", "dev")
