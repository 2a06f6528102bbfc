"""The command line in this process beside a live API, and what it is given in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from cli.commands import app
from cli.door.client import Client
from cli.home import Home
from tests.fakes.live_api import LiveApi

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


def set_image(cli: Cli, image: str) -> None:
    """Name the agent's image in trust.yaml, as a person would."""
    trust = yaml.safe_load((cli.home / "trust.yaml").read_text())
    (cli.home / "trust.yaml").write_text(yaml.safe_dump({**trust, "image": image}))


def file_in(directory: Path, text: str, name: str = "cell.yaml") -> str:
    """Write a file; returns its name as an option takes it."""
    path = directory / name
    path.write_text(text)
    return str(path)


def client_of(cli: Cli) -> Client:
    """A client of the hub that the command line is logged in to."""
    return Client(Home(cli.home).profile())


def commands_of(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its name as typed."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child_name, child in children.items():
        yield from commands_of(child, f"{name} {child_name}".strip())
