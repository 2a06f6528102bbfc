"""Simulated nodes: objects that kwok keeps Ready and whose pods it moves through their phases, without containers."""

from __future__ import annotations

from tools.stack.api import ApiClient, JSONObject


def create_nodes(admin: ApiClient, count: int) -> None:
    """Create ``count`` nodes named ``simulated-<n>``; kwok does the rest."""
    for number in range(1, count + 1):
        name = f"simulated-{number}"
        room = {"cpu": "64", "memory": "256Gi", "pods": "500"}
        node: JSONObject = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "cellward-stack": "simulated"},
            },
            "status": {"allocatable": room, "capacity": room},
        }
        answer = admin.create(node)
        if answer.status != 409:
            admin.must(answer, f"create node {name}")
