"""What makes a namespace a cell, as the agent writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.stack.chart import AGENT_NAMESPACE

#: Stamps as an agent derives them.
STAMPS = {"cellward.dev/stamp": "5" * 40, "cellward.dev/cluster-stamp": "6" * 40}


@dataclass(frozen=True, slots=True)
class CellNamespace:
    """A cell's namespace with its account and binding, as the agent makes them."""

    project: str
    cell: str
    environment: str

    @property
    def name(self) -> str:
        """The namespace's name."""
        return f"{self.project}--{self.cell}--{self.environment}"

    @property
    def account(self) -> str:
        """Name of the cell's service account in the agent's namespace."""
        return f"cell-{self.name}"

    @property
    def user(self) -> str:
        """User name of that account."""
        return f"system:serviceaccount:{AGENT_NAMESPACE}:{self.account}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels that say which cell a namespace is."""
        return {
            "cellward.dev/project": self.project,
            "cellward.dev/cell": self.cell,
            "cellward.dev/environment": self.environment,
        }

    def bare(self, **labels: str) -> dict[str, Any]:
        """Return a namespace that says it is this cell and carries no stamp."""
        metadata = {"name": self.name, "labels": {**self.labels, **labels}}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def namespace(self, **labels: str) -> dict[str, Any]:
        """Return the namespace object; further labels are added."""
        level = {"pod-security.kubernetes.io/enforce": "baseline"}
        metadata = {"name": self.name, "labels": {**self.labels, **STAMPS, **level, **labels}}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def service_account(self) -> dict[str, Any]:
        """Return the account object."""
        metadata = {"name": self.account, "namespace": AGENT_NAMESPACE}
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}

    def binding(
        self, *, namespace: str = "", name: str = "cellward-cell", role: str = "cellward-cell"
    ) -> dict[str, Any]:
        """Return the binding of the account, by default the right one."""
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace or self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": self.account, "namespace": AGENT_NAMESPACE}],
        }

    def network_policy(self, *, namespace: str = "", managed: bool = True) -> dict[str, Any]:
        """Return a default-deny policy."""
        labels = {"app.kubernetes.io/managed-by": "cellward"} if managed else {}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": "deny" if managed else "foreign",
                "namespace": namespace or self.name,
                "labels": labels,
            },
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []},
        }

    def config_map(self, *, namespace: str = "") -> dict[str, Any]:
        """Return an ordinary object of the cell."""
        metadata = {"name": "settings", "namespace": namespace or self.name}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}}
