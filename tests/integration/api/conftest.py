"""A command line logged in to a fresh hub, and one of a whole installation."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from hub.authority.model import HubKeys
from tests.fakes.command_line import IMAGE, STARTER, Cli, set_image
from tests.fakes.live_api import TOKENS, LiveApi, live_api


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the hub's log, in this same process, out of what commands print."""
    with structlog.testing.capture_logs():
        yield


async def _logged_in(directory: Path, api: LiveApi) -> Cli:
    (directory / "ca.pem").write_bytes(api.ca_pem)
    (directory / "admin.token").write_text(TOKENS["admin"])
    run = Cli(directory / "home", api)
    await run(
        "login", "--server", api.server, "--ca-file", str(directory / "ca.pem"),
        "--token-file", str(directory / "admin.token"),
    )  # fmt: skip
    return run


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    """A command line logged in to a fresh hub."""
    async with live_api(tmp_path) as api:
        yield await _logged_in(tmp_path, api)


@dataclass(frozen=True)
class Made:
    """An installation that was made once, to be copied: what hub and command line keep, and the hub's keys."""

    directory: Path
    keys: HubKeys
    server: str


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make keys, publish policy, invite two clusters."""
    directory = tmp_path_factory.mktemp("made")

    async def make() -> Made:
        async with live_api(directory) as api:
            run = await _logged_in(directory, api)
            await run("init", "--no-passphrase", "--owner", "ada")
            await run("policy", "publish", str(STARTER), "--skip-compile")
            set_image(run, IMAGE)
            await run("clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
            await run("clusters", "invite", "us-1", "--environment", "prod", "--production")
            return Made(directory, api.keys, api.server)

    with structlog.testing.capture_logs():
        return asyncio.run(make())


@pytest.fixture
async def installed(made: Made, tmp_path: Path) -> AsyncIterator[Cli]:
    """A copy of the one that was made, with eu-1 (dev) and us-1 (prod) joined."""
    shutil.copytree(made.directory, tmp_path, dirs_exist_ok=True)
    async with live_api(tmp_path, made.keys) as api:
        await api.services.realm.require()
        config = tmp_path / "home" / "config.yaml"
        config.write_text(config.read_text().replace(made.server, api.server))
        run = Cli(tmp_path / "home", api)
        await api.agent_joins("eu-1", "dev", region="eu")
        await api.agent_joins("us-1", "prod", production=True)
        yield run
