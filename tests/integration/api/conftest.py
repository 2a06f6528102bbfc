"""A command line logged in to a fresh hub, and one of a whole installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.fakes.command_line import IMAGE, STARTER, Cli, set_image
from tests.fakes.live_api import TOKENS, live_api


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
    set_image(cli, IMAGE)
    await cli("clusters", "invite", "eu-1", "--environment", "dev", "--no-production", "--region", "eu")
    await cli("clusters", "invite", "us-1", "--environment", "prod", "--production")
    await cli.api.agent_joins("eu-1", "dev", region="eu")
    await cli.api.agent_joins("us-1", "prod", production=True)
    return cli
