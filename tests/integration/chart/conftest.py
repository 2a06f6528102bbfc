"""Callers of the chart's tests: a cluster-admin, the agent by its own token, and a way to make cells."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.fakes.rights import await_right
from tests.integration.chart.cells import CellNamespace
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_ACCOUNT, AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def admin(control_plane: BlockingControlPlane) -> ApiClient:
    """Return a cluster-admin (``system:masters``)."""
    return control_plane.admin


@pytest.fixture(scope="session")
def agent(control_plane: BlockingControlPlane) -> ApiClient:
    """Return the agent: a real token of its service account, so exactly the chart's rights."""
    token = control_plane.admin.service_account_token(AGENT_NAMESPACE, AGENT_ACCOUNT, 3600)
    return control_plane.admin.with_token(token)


@pytest.fixture
def new_cell(agent: ApiClient, admin: ApiClient) -> Callable[[], CellNamespace]:
    """Return a function that makes a fresh cell the way the agent does, with the agent's rights."""

    def make() -> CellNamespace:
        cell = CellNamespace("shop", f"chart{next(_numbers)}", "dev")
        for manifest in (cell.namespace(), cell.network_policy(), cell.service_account(), cell.binding()):
            agent.must(agent.apply(manifest, manager="cellward-agent"), f"{manifest['kind']} of {cell.name}")
        await_right(admin, cell.user, cell.name)
        return cell

    return make
