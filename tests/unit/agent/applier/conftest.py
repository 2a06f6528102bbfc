"""An engine on an API server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.applier.fence import load_guards
from tests.fakes.applier_world import World, fenced
from tests.fakes.kube import FakeKube
from tools.stack.chart import CHART_FILES


@pytest.fixture
async def kube() -> FakeKube:
    """Return a cluster with the chart's fence."""
    return await fenced()


@pytest.fixture
async def world(tmp_path: Path, kube: FakeKube) -> AsyncIterator[World]:
    """Run an engine on it; workloads become ready when a test says so."""
    async with World(tmp_path / "state", kube, load_guards(CHART_FILES)).running() as running:
        yield running
