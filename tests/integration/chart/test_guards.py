"""The guards of cell labels and isolation objects bind everybody but the agent, cluster-admins included."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.integration.chart.cells import CellNamespace
from tests.integration.chart.kinds import installed_kind
from tools.stack.api import Answer, ApiClient
from tools.stack.chart import AGENT_USER

pytestmark = pytest.mark.real

NewCell = Callable[[], CellNamespace]
_DEADLINE_SECONDS = 40.0


def _refused(answer: Answer, by: str) -> None:
    assert answer.status == 403, f"HTTP {answer.status}: {answer.message}"
    assert by in answer.message, answer.message


def _merge(labels: dict[str, str | None]) -> dict[str, object]:
    return {"metadata": {"labels": labels}}


def _patch(client: ApiClient, namespace: str, labels: dict[str, str | None], subresource: str = "") -> Answer:
    path = f"/api/v1/namespaces/{namespace}{subresource}"
    return client.request("PATCH", path, _merge(labels), content_type="application/merge-patch+json")


def test_v12_cell_labels_are_made_by_the_agent_only(admin: ApiClient) -> None:
    """Nobody else makes a namespace that the fence would take for a cell."""
    claimed = CellNamespace("shop", "claimed", "dev").namespace()
    _refused(admin.create(claimed), "cellward-cell-labels")
    _refused(admin.apply(claimed, manager="test"), "cellward-cell-labels")


@pytest.mark.parametrize("subresource", ["", "/status"])
def test_v12_cell_labels_cannot_be_added_changed_or_removed(
    admin: ApiClient, new_cell: NewCell, subresource: str
) -> None:
    """A namespaceSelector would not see a label being removed; comparing old and new does."""
    cell = new_cell()
    for labels in (
        {"cellward.dev/environment": "prod"},
        {"cellward.dev/cell": None},
        {"cellward.dev/project": None, "cellward.dev/cell": None, "cellward.dev/environment": None},
        {"cellward.dev/further": "x"},
    ):
        _refused(_patch(admin, cell.name, dict(labels), subresource), "cellward-cell-labels")
    _refused(_patch(admin, "default", {"cellward.dev/cell": "x"}, subresource), "cellward-cell-labels")


def test_other_labels_of_a_cell_stay_free(admin: ApiClient, new_cell: NewCell) -> None:
    """The guard is about our labels; a cluster's own tools may label namespaces as they like."""
    cell = new_cell()
    assert _patch(admin, cell.name, {"team": "blue"}).ok
    assert _patch(admin, cell.name, {"team": None}).ok
    assert _patch(admin, "default", {"team": "blue"}).ok


def test_v10_isolation_cannot_be_written_or_deleted_by_others(admin: ApiClient, new_cell: NewCell) -> None:
    """Changed, deleted, deleted as a collection, or widened by a further policy: all refused to a cluster-admin."""
    cell = new_cell()
    widened = {**cell.network_policy(), "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}}
    collection = f"/apis/networking.k8s.io/v1/namespaces/{cell.name}/networkpolicies"
    _refused(admin.apply(widened, manager="test"), "cellward-isolation-guard")
    _refused(admin.delete(cell.network_policy()), "cellward-isolation-guard")
    _refused(admin.request("DELETE", collection), "cellward-isolation-guard")
    _refused(admin.create(cell.network_policy(managed=False)), "cellward-isolation-guard")
    assert admin.get(cell.network_policy()).body["spec"].get("ingress", []) == []


def test_v10_label_of_isolation_cannot_be_forged_or_stripped(admin: ApiClient, new_cell: NewCell) -> None:
    """Outside cells nobody else uses our mark; inside, taking it off is a write like any other."""
    cell = new_cell()
    _refused(admin.create(cell.network_policy(namespace="default")), "cellward-isolation-guard")
    path = f"/apis/networking.k8s.io/v1/namespaces/{cell.name}/networkpolicies/deny"
    stripped = _merge({"app.kubernetes.io/managed-by": None})
    answer = admin.request("PATCH", path, stripped, content_type="application/merge-patch+json")
    _refused(answer, "cellward-isolation-guard")


def test_network_policies_outside_cells_stay_free(admin: ApiClient) -> None:
    """The guard does not stand in the way of a cluster's own isolation."""
    policy = CellNamespace("shop", "none", "dev").network_policy(namespace="default", managed=False)
    policy["metadata"]["name"] = "their-own"
    assert admin.create(policy).ok
    assert admin.delete(policy).ok


def test_v12_binding_of_a_cell_is_the_agents(admin: ApiClient, new_cell: NewCell) -> None:
    """The cell account's binding is as much part of the cell as its isolation."""
    cell = new_cell()
    _refused(admin.delete(cell.binding()), "cellward-isolation-guard")


def test_the_agent_itself_is_let_through(admin: ApiClient, new_cell: NewCell) -> None:
    """The control of all refusals above; also how demo and tests tamper past the guard."""
    cell = new_cell()
    assert admin.delete(cell.network_policy(), user=AGENT_USER).ok


def test_deleting_a_cell_namespace_is_not_stranded(admin: ApiClient, new_cell: NewCell) -> None:
    """The namespace controller may delete guarded objects once their namespace is going."""
    cell = new_cell()
    assert admin.delete(cell.namespace()).ok
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while admin.get(cell.namespace()).status != 404:
        assert time.monotonic() < deadline, admin.get(cell.namespace()).text
        time.sleep(0.05)


_ENGINES = (
    ("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    ("cilium.io", "v2", "CiliumLocalRedirectPolicy", "ciliumlocalredirectpolicies"),
    ("cilium.io", "v2", "CiliumEnvoyConfig", "ciliumenvoyconfigs"),
    ("crd.projectcalico.org", "v1", "NetworkPolicy", "networkpolicies"),
    ("projectcalico.org", "v3", "NetworkPolicy", "networkpolicies"),
    ("crd.antrea.io", "v1beta1", "NetworkPolicy", "networkpolicies"),
    ("networking.gke.io", "v1alpha1", "FQDNNetworkPolicy", "fqdnnetworkpolicies"),
    ("networking.k8s.aws", "v1alpha1", "ApplicationNetworkPolicy", "applicationnetworkpolicies"),
)


@pytest.fixture(scope="module")
def _plugins(admin: ApiClient) -> Iterator[None]:
    """All of their kinds at once: the guard takes two seconds to see new ones."""
    with ExitStack() as kinds:
        for engine in _ENGINES:
            kinds.enter_context(installed_kind(admin, *engine))
        yield


@pytest.mark.usefixtures("_plugins")
@pytest.mark.parametrize(("group", "version", "kind", "plural"), _ENGINES)
def test_v10_policies_of_network_plugins_do_not_open_a_cell(
    admin: ApiClient, agent: ApiClient, new_cell: NewCell, group: str, version: str, kind: str, plural: str
) -> None:
    """They add to NetworkPolicies or go round them, so whoever may write one could open what the agent keeps closed."""
    cell = new_cell()

    def write(client: ApiClient, namespace: str) -> Answer:
        body = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "open"}}
        return client.request("POST", f"/apis/{group}/{version}/namespaces/{namespace}/{plural}", body)

    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (control := write(admin, "default")).status != 201:
        assert time.monotonic() < deadline, control.message
        time.sleep(0.1)
    path = f"/apis/{group}/{version}/namespaces/{cell.name}/{plural}/open"
    while (answer := write(admin, cell.name)).ok:
        assert time.monotonic() < deadline, "the guard never saw the new kind"
        # One that came in while the guard was away is got rid of by anybody: the agent has no right to.
        assert admin.request("DELETE", path).ok
        time.sleep(0.1)
    _refused(answer, "cellward-isolation-guard")
    assert write(agent, cell.name).status == 403
