"""An engine on an API server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.cell_world import World, chart_guards, fenced
from tests.fakes.kube import FakeKube


@pytest.fixture
async def kube() -> FakeKube:
    """Return a cluster with the chart's fence."""
    return await fenced()


@pytest.fixture
async def world(tmp_path: Path, kube: FakeKube) -> AsyncIterator[World]:
    """Run an engine on it; workloads become ready when a test says so."""
    async with World(tmp_path / "state", kube, chart_guards()).running() as running:
        yield running
