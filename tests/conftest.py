"""Fixtures every kind of test may use: the real parts, found but never built here (``make test`` builds them first)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tools.parts.locate import path_of
from tools.stack.control_plane import BlockingControlPlane

# No test is about time (design §13), and a busy machine is none of a property's business.
settings.register_profile("cellward", deadline=None)
settings.load_profile("cellward")


@pytest.fixture(scope="session")
def opa_binary() -> Path:
    """Return the real OPA at the pinned version."""
    return path_of("opa")


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingControlPlane]:
    """Run one real API server with etcd and controllers, the agent's chart installed, no nodes.

    One per test process. Tests share it: each works in cell namespaces of its own and leaves cluster-wide objects
    alone. It is synchronous on purpose, so that function-scoped event loops come and go around it.
    """
    with BlockingControlPlane("test", tmp_path_factory.mktemp("control-plane")) as running:
        running.install_agent_chart()
        yield running
