"""V12: the rights of each account of the charts, asked of the real authorizer for every verb on every resource.

The tables below are the whole of it. What the API server knows and a table does not name is denied, everywhere; a right
that somebody adds to a chart needs its row here.
"""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest

from agent.isolation.foreign import FOREIGN
from tests.integration.chart.cells import CellNamespace
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_NAMESPACE, AGENT_USER

pytestmark = pytest.mark.real

VERBS = (
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate",
    "impersonate", "approve", "sign",
)  # fmt: skip
READ = frozenset({"get", "list", "watch"})
WRITE = frozenset({"create", "patch", "delete"})
#: A name that no rule names, and every one that some rule does.
ANY = "any-other"
NAMES = (ANY, "cellward-agent-anchor", "cellward-stamps", "cellward-agent-identity", "cellward-cell")
Rights = dict[tuple[str, str], frozenset[str]]

#: Group and resource to verbs, for any name: everywhere.
EVERYWHERE: Rights = {
    **{("", name): READ for name in ("configmaps", "persistentvolumeclaims", "serviceaccounts", "services")},
    ("", "namespaces"): READ | WRITE,
    ("", "resourcequotas"): READ,
    ("", "nodes"): READ,
    **{("apps", name): READ for name in ("daemonsets", "deployments", "statefulsets")},
    ("autoscaling", "horizontalpodautoscalers"): READ,
    **{("batch", name): READ for name in ("cronjobs", "jobs")},
    ("networking.k8s.io", "networkpolicies"): READ | WRITE,
    ("policy", "poddisruptionbudgets"): READ,
    ("rbac.authorization.k8s.io", "rolebindings"): READ,
    **{
        ("admissionregistration.k8s.io", name): READ
        for name in ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
    },
}
#: The same, for one name alone.
BY_NAME: dict[str, Rights] = {
    "cellward-cell": {
        ("rbac.authorization.k8s.io", "rolebindings"): WRITE,
        ("rbac.authorization.k8s.io", "clusterroles"): frozenset({"bind"}),
    }
}
#: What comes on top in its own namespace.
AT_HOME: Rights = {("", "serviceaccounts"): WRITE | {"impersonate"}}
AT_HOME_BY_NAME: dict[str, Rights] = {
    "cellward-agent-anchor": {("", "secrets"): frozenset({"get", "create", "patch", "update"})},
    "cellward-stamps": {("", "configmaps"): frozenset({"patch"})},
    "cellward-agent-identity": {("", "configmaps"): frozenset({"create", "patch"})},
}
#: What a cell's account may do, in its namespace alone.
ALL = READ | WRITE | {"update"}
IN_CELL: Rights = {
    **{("", name): ALL for name in ("configmaps", "persistentvolumeclaims", "serviceaccounts", "services")},
    **{("", name): READ for name in ("events", "pods")},
    **{("apps", name): ALL for name in ("daemonsets", "deployments", "statefulsets")},
    ("autoscaling", "horizontalpodautoscalers"): ALL,
    **{("batch", name): ALL for name in ("cronjobs", "jobs")},
    ("policy", "poddisruptionbudgets"): ALL,
    ("metrics.k8s.io", "pods"): frozenset({"list"}),
}

#: Not served as resources by an API server alone, and rights all the same; usage comes from a server of its own.
NOT_SERVED = {
    ("", "users"), ("", "groups"), ("authentication.k8s.io", "uids"),
    ("metrics.k8s.io", "pods"), ("metrics.k8s.io", "nodes"), ("", "nodes/metrics"),
}  # fmt: skip


class Authorizer:
    """Asks the API server's own authorizer, over one connection: there are thousands of questions."""

    def __init__(self, admin: ApiClient) -> None:
        context = ssl.create_default_context(cafile=str(admin.ca))
        assert admin.pair is not None
        context.load_cert_chain(*admin.pair)
        self._connection = http.client.HTTPSConnection(admin.host, admin.port, context=context, timeout=60)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._connection.request("GET" if body is None else "POST", path, data, headers)
        answer = self._connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        assert answer.status < 300, found
        return found

    @cached_property
    def resources(self) -> list[tuple[str, str]]:
        """Group and name of every resource that this API server has by itself, subresources too."""
        found = {("", one["name"]) for one in self.ask("/api/v1")["resources"]}
        foreign = {one.api_version.partition("/")[0] for one in FOREIGN}
        for group in self.ask("/apis")["groups"]:
            # Another test may just have some of network plugins; test_fence asks about those.
            if group["name"] in foreign:
                continue
            for version in group["versions"]:
                listed = self.ask(f"/apis/{version['groupVersion']}")["resources"]
                found |= {(group["name"], one["name"]) for one in listed}
        return sorted(found | NOT_SERVED)

    def allows(self, user: str, namespace: str, group: str, resource: str, verb: str, name: str) -> bool:
        """``kubectl auth can-i``, as an administrator asks it of an account."""
        of_account = user.split(":")[2]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{of_account}", "system:authenticated"]
        kind, _, sub = resource.partition("/")
        what = {
            "namespace": namespace, "group": group, "resource": kind, "subresource": sub, "verb": verb, "name": name,
        }  # fmt: skip
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": what},
        }
        return bool(self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])


#: Open to every service account by the API server's own roles: asking about oneself, and certificates to trust.
OF_EVERYBODY = {
    ("certificates.k8s.io", "clustertrustbundles"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
}


@pytest.fixture(scope="module")
def authorizer(admin: ApiClient) -> Iterator[Authorizer]:
    """The real one."""
    asked = Authorizer(admin)
    yield asked
    asked.close()


def told(rights: Rights, name: str, by_name: dict[str, Rights]) -> set[tuple[str, str, str]]:
    """Rows of a table, for a name, as ``allowed`` has them."""
    both = [rights, by_name.get(name, {})]
    rows = {(*what, verb) for table in both for what, verbs in table.items() for verb in verbs}
    return {row for row in rows if name == ANY or row[0] in {"", "rbac.authorization.k8s.io"}}


def allowed(authorizer: Authorizer, user: str, namespace: str, name: str) -> Iterator[tuple[str, str, str]]:
    """Everything that an account may do with things of a name in a namespace, beside what everybody may.

    Of a name that some rule names only the groups are asked in which one does: of the rest ``ANY`` tells.
    """
    groups = None if name == ANY else {"", "rbac.authorization.k8s.io"}
    for (group, resource), verb in itertools.product(authorizer.resources, VERBS):
        if groups is not None and group not in groups:
            continue
        if (group, resource) not in OF_EVERYBODY and authorizer.allows(user, namespace, group, resource, verb, name):
            yield group, resource, verb


@pytest.mark.parametrize("name", NAMES)
def test_v12_the_agent_may_do_in_its_namespace_what_the_table_says(authorizer: Authorizer, name: str) -> None:
    """Every resource the API server knows, every verb: exactly the rows, and nothing else."""
    wanted = told(EVERYWHERE, name, BY_NAME) | told(AT_HOME, name, AT_HOME_BY_NAME)
    assert set(allowed(authorizer, AGENT_USER, AGENT_NAMESPACE, name)) == wanted


@pytest.mark.parametrize("name", [ANY, "cellward-agent-anchor", "cellward-cell"])
def test_v12_the_agent_may_do_elsewhere_what_the_table_says(authorizer: Authorizer, name: str) -> None:
    """The same in a namespace that is not its own: what its Role gives ends at its namespace."""
    assert set(allowed(authorizer, AGENT_USER, "kube-system", name)) == told(EVERYWHERE, name, BY_NAME)


def test_v12_an_account_of_a_cell_has_its_namespace_alone(authorizer: Authorizer, new_cell: Any) -> None:
    """In its cell what the table says, and not one right anywhere else."""
    cell: CellNamespace = new_cell()
    user = f"system:serviceaccount:{AGENT_NAMESPACE}:{cell.account}"
    assert set(allowed(authorizer, user, cell.name, ANY)) == told(IN_CELL, ANY, {})
    assert set(allowed(authorizer, user, AGENT_NAMESPACE, ANY)) == set()


def test_v12_the_hub_may_do_nothing(authorizer: Authorizer) -> None:
    """Its chart binds no role: whoever takes the hub has no right in the cluster it runs in."""
    user = "system:serviceaccount:cellward-hub:cellward-hub"
    assert set(allowed(authorizer, user, "cellward-hub", ANY)) == set()
