"""The real control plane as a whole: nodes that take pods, and an API server that goes and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cellward.errors import CellwardError
from tools.stack.api import ApiClient
from tools.stack.control_plane import BlockingControlPlane, ControlPlane

pytestmark = pytest.mark.real

_SECONDS = 30.0


def _deployment() -> dict[str, Any]:
    pod = {"containers": [{"name": "web", "image": "example.invalid/web:1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
        },
    }


async def _ready(admin: ApiClient, manifest: dict[str, Any], replicas: int) -> None:
    async with asyncio.timeout(_SECONDS):
        while admin.get(manifest).body.get("status", {}).get("readyReplicas", 0) != replicas:
            await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_simulated_nodes_run_pods_and_storage_outlives_the_api_server(tmp_path: Path) -> None:
    """Pods get ready on simulated nodes; a killed API server comes back on its port with what was stored."""
    async with ControlPlane("whole", tmp_path / "whole", nodes=1) as cluster:
        admin, web = cluster.admin, _deployment()
        admin.must(admin.create(web), "a deployment")
        await _ready(admin, web, 2)
        server = cluster.server
        await cluster.stop_apiserver(kill=True)
        assert not admin.ready()
        await cluster.start_apiserver()
        assert cluster.server == server
        assert admin.get(web).ok
        assert cluster.kubeconfig_admin.stat().st_mode & 0o077 == 0
    assert not admin.ready()


def test_agent_kubeconfig_has_the_agents_rights(control_plane: BlockingControlPlane, tmp_path: Path) -> None:
    """The kubeconfig for an agent carries a token of its account, not a certificate of a cluster-admin."""
    text = control_plane.agent_kubeconfig(tmp_path / "agent.kubeconfig").read_text()
    assert "token:" in text
    assert "client-certificate" not in text


def test_a_part_that_cannot_start_is_told_with_its_log(tmp_path: Path) -> None:
    """A file in the way of etcd's directory: the error says so instead of waiting for the deadline."""
    (tmp_path / "etcd").write_text("in the way")
    with pytest.raises(CellwardError) as caught, BlockingControlPlane("broken", tmp_path):
        pass
    assert caught.value.code == "stack/part-died"
    assert "etcd" in caught.value.message
