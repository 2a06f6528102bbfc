"""Both charts with nothing but what must be said: one's hub serves, the other's agent joins and decides.

Processes read the very files that the charts mount. Only paths of the pods and their ports are those of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from agent.vitals import ask
from cellward.errors import CellwardError
from cli.commands import app
from hub.settings import HubSettings, load_settings
from tests.fakes.command_line import IMAGE
from tests.integration.chart.render import CHARTS, pick, rendered
from tools.parts.locate import path_of
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.ports import free_ports

pytestmark = pytest.mark.real

ROOT = CHARTS.parent


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[BlockingControlPlane]:
    """A cluster of its own: an agent that works in it would be in the way of other tests."""
    with BlockingControlPlane("defaults", tmp_path / "cluster", controllers=False) as running:
        running.install_agent_chart()
        yield running


@asynccontextmanager
async def process(name: str, config: Path, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one of our programs until the context ends; it must end by itself then, and in order."""
    path = f"{path_of('opa').parent}:{os.environ['PATH']}"
    with (config.parent / f"{name}.log").open("wb") as log:
        run = await asyncio.create_subprocess_exec(
            sys.executable, "-m", name, "run", "--config", str(config),
            cwd=ROOT, env={"PATH": path, **env}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield run
    finally:
        if run.returncode is None:
            run.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(run.wait(), 60) == 0, (config.parent / f"{name}.log").read_text()[-3000:]


def hub_of(directory: Path) -> Path:
    """The hub's settings as its chart mounts them, on this machine."""
    values = CHARTS / "cellward-hub" / "ci" / "default-values.yaml"
    mounted = pick(rendered("cellward-hub", "-f", str(values)), "ConfigMap", "cellward-hub")["data"]
    said = yaml.safe_load(mounted["hub.yaml"])
    names = ("enrolment", "link", "api", "metrics")
    said["listen"] = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
    said["advertise"] = {name: said["listen"][name] for name in said["advertise"]}
    said["data_dir"] = str(directory / "hub-data")
    file = directory / "hub.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


def agent_of(values: Path, token: str, directory: Path, cluster: BlockingControlPlane) -> Path:
    """The agent's settings and files as its chart mounts them, on this machine."""
    mounted = pick(rendered("cellward-agent", "-f", str(values)), "ConfigMap", "cellward-agent")["data"]
    guards = directory / "chart"
    guards.mkdir()
    for name, text in mounted.items():
        # As the Deployment's volumes have it: the guards in a directory of their own.
        (guards if name[0].isdigit() else directory).joinpath(name).write_text(text)
    (directory / "token").write_text(token)
    said: dict[str, Any] = yaml.safe_load(mounted["agent.yaml"])
    moved = {
        "state_dir": "state", "root_file": "root.json", "hub_ca_file": "hub-ca.pem", "join_token_file": "token",
        "guards_dir": "chart",
    }  # fmt: skip
    said |= {name: str(directory / place) for name, place in moved.items()}
    said["kubeconfig"] = str(cluster.agent_kubeconfig(directory / "kubeconfig"))
    said["health_listen"] = f"127.0.0.1:{free_ports(1)[0]}"
    file = directory / "agent.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


async def command(home: Path, *words: str) -> str:
    """One command of a person; returns what it printed."""
    arguments = [*words, "--home", str(home)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"NO_COLOR": "1"})
    assert result.exit_code == 0, (result.stdout, result.stderr, result.exception)
    return result.stdout


async def handed(tool: str, config: Path, file: Path) -> Path:
    """What `kubectl exec … cellward-hub TOOL` prints, in a file."""
    words = [sys.executable, "-m", "hub", tool, "--config", str(config)]
    run = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    out, _ = await run.communicate()
    assert run.returncode == 0
    file.write_bytes(out)
    return file


async def listens(settings: HubSettings, hub: asyncio.subprocess.Process) -> None:
    """Wait until the hub's API is open."""
    host, _, port = settings.listen.api.rpartition(":")
    while hub.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            return
        await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_the_defaults_of_both_charts_work_together(cluster: BlockingControlPlane, tmp_path: Path) -> None:
    """Install the hub, log in, make keys, print the line, install the agent: it joins, and policy comes into force.

    Before a policy is published the agent's pod has started and is not ready, and it says that policy is missing.
    """
    config, home = hub_of(tmp_path), tmp_path / "home"
    async with process("hub", config) as hub:
        settings = load_settings(config)
        await listens(settings, hub)
        files = [await handed(tool, config, tmp_path / f"{tool}.txt") for tool in ("ca", "admin-token")]
        server = f"https://{settings.listen.api}"
        await command(home, "login", "--server", server, "--ca-file", str(files[0]), "--token-file", str(files[1]))
        await command(home, "init", "--no-passphrase", "--owner", "me")
        trust = yaml.safe_load((home / "trust.yaml").read_text())
        (home / "trust.yaml").write_text(yaml.safe_dump({**trust, "image": IMAGE}))
        invite = ("clusters", "invite", "eu-1", "--environment", "dev", "--no-production")
        await command(home, *invite)
        where, token = tmp_path / "agent", (home / "join-eu-1-token").read_text()
        where.mkdir()
        at = agent_of(home / "join-eu-1-values.yaml", token, where, cluster)
        address = yaml.safe_load(at.read_text())["health_listen"]
        async with process("agent", at) as agent:
            assert "policy-in-force" in await missing(address, agent)
            await command(home, "policy", "publish", str(ROOT / "policies" / "starter"))
            assert await ask(address) == {"ok": True, "missing": [], "hubConnected": True}
            assert "eu-1" in await command(home, "clusters", "list")


async def missing(address: str, agent: asyncio.subprocess.Process) -> str:
    """What a started agent says is missing, once that is policy alone."""
    while agent.returncode is None:
        try:
            await ask(address, patience=0.5)
        except CellwardError as error:
            # Its own engine has nothing to answer with before it has policy.
            if "answers: " in error.message and "api-server" not in error.message:
                return error.message
        await asyncio.sleep(0.05)
    return "the agent has ended"
