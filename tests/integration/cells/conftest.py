"""Cells on a real API server, as the agent's own account: exactly the chart's rights."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.kube.client import KubeClient
from tests.fakes.cell_world import World, chart_guards
from tools.stack.api import ApiClient
from tools.stack.control_plane import BlockingControlPlane

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def agent_kubeconfig(control_plane: BlockingControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kubeconfig of the agent's account."""
    return control_plane.agent_kubeconfig(tmp_path_factory.mktemp("agent") / "kubeconfig")


@pytest.fixture(scope="session")
def admin(control_plane: BlockingControlPlane) -> ApiClient:
    """Return a cluster-admin, who tampers."""
    return control_plane.admin


@pytest.fixture
async def kube(agent_kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """Return the agent's client."""
    client = await KubeClient.connect(agent_kubeconfig)
    yield client
    await client.close()


@pytest.fixture
def cell() -> str:
    """Return the name of a cell nobody else uses."""
    return f"apply{next(_numbers)}"


@pytest.fixture
async def world(tmp_path: Path, kube: KubeClient) -> AsyncIterator[World]:
    """Run an engine with the agent's rights."""
    async with World(tmp_path / "state", kube, chart_guards()).running() as running:
        yield running
