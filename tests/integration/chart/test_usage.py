"""V12: what a cell uses is read with the chart's rights, by the cell's own account, on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.kube.client import KubeClient
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_NOT_FOUND
from agent.metrics.registry import AgentMetrics
from agent.metrics.usage import UsageReader
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from tests.integration.chart.cells import CellNamespace
from tools.stack.api import ApiClient
from tools.stack.control_plane import BlockingControlPlane

pytestmark = pytest.mark.real


@pytest.fixture
async def kube(control_plane: BlockingControlPlane, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """The agent's own client."""
    client = await KubeClient.connect(control_plane.agent_kubeconfig(tmp_path / "kubeconfig"))
    yield client
    await client.close()


def make_pod(admin: ApiClient, cell: CellNamespace) -> None:
    """A pod as a workload of the cell has it."""
    box = {
        "name": "c", "image": "example.test/c@sha256:" + "0" * 64,
        "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}},
    }  # fmt: skip
    labels = {"app.kubernetes.io/managed-by": "cellward"}
    metadata = {"name": "one", "namespace": cell.name, "labels": labels}
    spec = {"containers": [box], "automountServiceAccountToken": False, "serviceAccountName": "default"}
    admin.must(
        admin.apply({**_kind("v1", "ServiceAccount"), "metadata": {**metadata, "name": "default"}}, manager="t"),
        "account",
    )
    admin.must(admin.apply({**_kind("v1", "Pod"), "metadata": metadata, "spec": spec}, manager="t"), "pod")


def _kind(api_version: str, kind: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind}


async def test_v12_requests_are_read_and_usage_is_unknown_without_a_metrics_server(
    admin: ApiClient, kube: KubeClient, new_cell: Any
) -> None:
    """The cell's account sees its pods; another cell's are closed to it."""
    cell, other = new_cell(), new_cell()
    make_pod(admin, cell)
    metrics, key = AgentMetrics(), CellKey(cell.project, cell.cell, cell.environment)
    reader = UsageReader(kube, lambda: {key: cell.name}, lambda _: cell.user, metrics, SystemClock(), 60.0)
    await reader._one(key, cell.name)
    reader._show(60.0)
    labels = {"project": cell.project, "cell": cell.cell, "environment": cell.environment}

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"cellward_agent_cell_{name}", labels)

    assert (value("pods"), value("cpu_requests_cores"), value("memory_requests_bytes")) == (1, 0.25, 2.0**26)
    assert (value("cpu_usage_cores"), value("cpu_limits_cores")) == (None, None)
    for place, kind, code in (
        (cell.name, ("metrics.k8s.io/v1beta1", "PodMetrics"), KUBE_NOT_FOUND),
        (other.name, ("v1", "Pod"), KUBE_FORBIDDEN),
        (other.name, ("metrics.k8s.io/v1beta1", "PodMetrics"), KUBE_FORBIDDEN),
    ):
        with pytest.raises(CellwardError) as refused:
            await kube.list(*kind, namespace=place, as_user=cell.user)
        assert refused.value.code == code.code
