"""Each guarded field by each account that may write it: refused at the door or taken back, and repair goes on.

The accounts are the agent and the cell's own account, as a thief would use them, a cluster-admin, and whoever may do
anything in the cell's namespace and patch the namespace itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agent.objects.identity import CellIdentity
from agent.objects.ownership import strip
from cellward.cells.labels import CLUSTER_STAMP, STAMP
from tests.fakes.cell_world import World, cell_yaml
from tests.fakes.rights import await_right
from tests.integration.cells.damage import GROUND, RBAC, Damage, Target
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_NAMESPACE, AGENT_USER

pytestmark = pytest.mark.real

NAMESPACE_ADMIN = "tess"
Snapshot = Mapping[str, dict[str, Any] | None]


def snapshot(target: Target) -> Snapshot:
    """Return what must stay as released of everything that makes up a cell."""
    found: dict[str, dict[str, Any] | None] = {}
    owned = (target.namespace, target.deny, target.binding, target.service_account, target.workload)
    for what in (*owned, target.named("NetworkPolicy", "open", "networking.k8s.io/v1")):
        answer = target.admin.get(what)
        body = strip(answer.body) if answer.ok else None
        if body is not None and what["kind"] == "Namespace":
            # The stamps are others after the guards were away, but there have to be some.
            labels = body.setdefault("metadata", {}).setdefault("labels", {})
            labels |= {stamp: stamp in labels for stamp in (STAMP, CLUSTER_STAMP)}
        found[f"{what['kind']}/{what['metadata']['name']}"] = body
    return found


@pytest.fixture(scope="module")
def namespace_admin(admin: ApiClient) -> Iterator[str]:
    """Return somebody who may patch namespaces; in the cells of these tests he may do anything."""
    rules = [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "patch", "update"]}]
    role = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "patch-namespaces"}, "rules": rules}
    binding = {
        "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "patch-namespaces"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patch-namespaces"},
        "subjects": [{"kind": "User", "name": NAMESPACE_ADMIN, "apiGroup": "rbac.authorization.k8s.io"}],
    }  # fmt: skip
    for one in (role, binding):
        admin.must(admin.apply(one, manager="test"), one["kind"])
    await_right(admin, NAMESPACE_ADMIN, "", resource="namespaces")
    yield NAMESPACE_ADMIN
    for one in (role, binding):
        admin.delete(one)


def _let_in(target: Target, user: str) -> None:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    binding = {**target.named("RoleBinding", "namespace-admin", RBAC), "roleRef": reference, "subjects": [subject]}
    target.admin.must(target.admin.apply(binding, manager="test"), "the namespace's administrator")
    await_right(target.admin, user, target.place)


@pytest.mark.parametrize("account", ["agent", "cell", "cluster-admin", "namespace-admin"])
@pytest.mark.timeout(600)
async def test_v10_guarded_field_is_refused_or_taken_back(
    world: World, admin: ApiClient, namespace_admin: str, cell: str, account: str
) -> None:
    """And a swapped image comes back after each of them, so none stops the repair of anything else."""
    await world.deploy(cell_yaml(cell), cell)
    mender = Target(admin, cell)
    _let_in(mender, namespace_admin)
    users = {
        "agent": AGENT_USER,
        "cell": CellIdentity(mender.place, AGENT_NAMESPACE).user,
        "cluster-admin": "",
        "namespace-admin": namespace_admin,
    }
    released = snapshot(mender)
    refused: set[str] = set()
    for damage in GROUND:
        if _refused(damage, Target(admin, cell, users[account])):
            refused.add(damage.name)
        assert mender.swap_image().ok
        await world.until(lambda: snapshot(mender) == released, seconds=120)
        await world.until(lambda: not world.report(cell).conditions, seconds=120)
    # Nobody lowers the level, not even for a moment.
    assert {"privileged", "old version", "level off", "version off", "audit lowered"} <= refused


def _refused(damage: Damage, target: Target) -> bool:
    answers = [attempt(target) for attempt in damage.attempts]
    assert all(answer.ok or answer.status == 403 for answer in answers), (damage.name, [one.text for one in answers])
    return all(not answer.ok for answer in answers)
