"""Who writes what in a cell: the agent itself, or the cell's own account by impersonation; pure.

The accounts live in the agent's namespace, so no pod of a cell can use them. Names match the fence of the chart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from agent.isolation.driver import AGENT_MANAGER
from agent.kube.interfaces import JSONObject
from agent.objects.model import OwnedObject, Role

#: Name of the one RoleBinding in a cell, and of the ClusterRole it binds.
CELL_ROLE: Final = "cellward-cell"
_MAX_NAME: Final = 63
_RBAC: Final = "rbac.authorization.k8s.io"
_MANAGED: Final = {"app.kubernetes.io/managed-by": "cellward", "app.kubernetes.io/part-of": "cellward"}


@dataclass(frozen=True, slots=True)
class CellIdentity:
    """Accounts and field managers of one cell."""

    namespace: str
    agent_namespace: str

    @property
    def account(self) -> str:
        """Name of the cell's ServiceAccount in the agent's namespace, at most 63 characters."""
        name = f"cell-{self.namespace}"
        if len(name) <= _MAX_NAME:
            return name
        digest = hashlib.sha256(self.namespace.encode()).hexdigest()[:10]
        return f"{name[: _MAX_NAME - 11]}-{digest}"

    @property
    def user(self) -> str:
        """User name of that account."""
        return f"system:serviceaccount:{self.agent_namespace}:{self.account}"

    @property
    def manager(self) -> str:
        """Field manager of the cell's objects."""
        return f"cellward/{self.namespace}"

    def manager_of(self, role: Role) -> str:
        """Field manager of objects of a role."""
        return self.manager if role is Role.OBJECT else AGENT_MANAGER

    def user_of(self, role: Role) -> str | None:
        """User to impersonate for objects of a role; None for the agent itself."""
        return self.user if role is Role.OBJECT else None

    def rights(self, labels: dict[str, str]) -> tuple[OwnedObject, OwnedObject]:
        """Return the account and its binding; ``labels`` say which cell they belong to."""
        marked = {**_MANAGED, **labels}
        account: JSONObject = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": self.account, "namespace": self.agent_namespace, "labels": marked},
            "automountServiceAccountToken": False,
        }
        binding: JSONObject = {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": CELL_ROLE, "namespace": self.namespace, "labels": marked},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": CELL_ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": self.account, "namespace": self.agent_namespace}],
        }
        return OwnedObject(account, Role.RIGHTS), OwnedObject(binding, Role.RIGHTS)
