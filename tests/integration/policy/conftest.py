"""The agent's policy on the real engine and the real python-tuf."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.policy import PolicyWorld
from tests.integration.policy.agent import Agent


@pytest.fixture
def world() -> PolicyWorld:
    """Return an authority; its hub serves whole sets, as hubs do; singly is in ``tests/unit/agent/policy``."""
    made = PolicyWorld()
    made.source.whole = True
    return made


@pytest.fixture
def agent(world: PolicyWorld, tmp_path: Path, opa_binary: Path) -> Agent:
    """Return an agent's policy, not yet running."""
    return Agent(world, tmp_path, opa_binary)
