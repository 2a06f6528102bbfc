"""V12 on a real API server: what the agent's own token may do, and everything it must not be able to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from agent.isolation.foreign import FOREIGN
from agent.kube.kinds import collection_path, kind_of
from agent.objects.fence import NAMES
from agent.objects.identity import CellIdentity
from tests.fakes.rights import await_right
from tests.integration.chart.cells import STAMPS, CellNamespace
from tools.stack.api import Answer, ApiClient
from tools.stack.chart import AGENT_NAMESPACE, AGENT_USER, chart_objects

pytestmark = pytest.mark.real

_READ = {"get", "list", "watch"}
RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"
NewCell = Callable[[], CellNamespace]


def _plain(kind: str, name: str, namespace: str = "", version: str = "v1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _cluster_admin_binding() -> dict[str, Any]:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "cellward-agent", "namespace": AGENT_NAMESPACE}
    return _plain("ClusterRoleBinding", "mine", version=RBAC, roleRef=reference, subjects=[subject])


def _forbidden(answer: Answer, *, by: str = "") -> None:
    assert answer.status == 403, f"HTTP {answer.status}: {answer.message}"
    assert by in answer.message, answer.message


def _soon(request: Callable[[], Answer]) -> Answer:
    """Repeat until RBAC has read a binding made a moment ago."""
    deadline = time.monotonic() + 30
    while not (answer := request()).ok:
        assert time.monotonic() < deadline, answer.message
        time.sleep(0.05)
    return answer


def test_v12_agent_makes_a_cell_and_applies_into_it(agent: ApiClient, new_cell: NewCell) -> None:
    """The allowed path as a whole: namespace, isolation, account, binding, an object by the cell's account, the end."""
    cell = new_cell()
    assert agent.apply(cell.config_map(), manager=f"cellward/{cell.name}", user=cell.user).ok
    assert agent.delete(cell.config_map(), user=cell.user).ok
    assert agent.delete(cell.network_policy()).ok
    assert agent.delete(cell.binding()).ok
    assert agent.delete(cell.service_account()).ok
    assert agent.delete(cell.namespace()).ok


@pytest.mark.parametrize(
    "path",
    [
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/statefulsets",
        "/apis/apps/v1/daemonsets",
        "/apis/batch/v1/jobs",
        "/apis/batch/v1/cronjobs",
        "/api/v1/services",
        "/api/v1/configmaps",
        "/api/v1/serviceaccounts",
        "/api/v1/persistentvolumeclaims",
        "/api/v1/resourcequotas",
        "/api/v1/namespaces",
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/apis/rbac.authorization.k8s.io/v1/rolebindings",
        "/apis/autoscaling/v2/horizontalpodautoscalers",
        "/apis/policy/v1/poddisruptionbudgets",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    ],
)
def test_v12_agent_reads_what_it_repairs(agent: ApiClient, path: str) -> None:
    """Drift is found by one watch per kind over the whole cluster, so these lists must be open."""
    assert agent.request("GET", path + "?limit=1").ok


@pytest.mark.parametrize("verb", ["create", "apply"])
def test_v12_agent_keeps_its_anchor(agent: ApiClient, verb: str) -> None:
    """Its own namespace is open for the anchor by name, and for nothing else of that kind."""
    mine, other = _plain("Secret", "cellward-agent-anchor", AGENT_NAMESPACE), _plain("Secret", "other", AGENT_NAMESPACE)
    assert agent.apply(mine, manager="cellward-agent").ok
    assert agent.get(mine).ok
    _forbidden(agent.create(other) if verb == "create" else agent.apply(other, manager="cellward-agent"))


def test_v1_floors_are_written_by_the_agent_alone(agent: ApiClient, new_cell: NewCell) -> None:
    """No account of a cell reads or writes the copy of the floors, and the agent itself does not take it away."""
    cell, anchor = new_cell(), _plain("Secret", "cellward-agent-anchor", AGENT_NAMESPACE)
    assert agent.apply(anchor, manager="cellward-agent").ok
    path = f"/api/v1/namespaces/{AGENT_NAMESPACE}/secrets/cellward-agent-anchor"
    _forbidden(agent.apply(anchor, manager="x", user=cell.user))
    _forbidden(agent.delete(anchor, user=cell.user))
    _forbidden(agent.request("GET", path, user=cell.user))
    _forbidden(agent.delete(anchor))


def test_v12_agent_says_who_it_is_in_one_config_map(agent: ApiClient) -> None:
    """One ConfigMap by name, which `clusters endorse` reads; its settings beside it are not the agent's to write."""
    mine = _plain("ConfigMap", "cellward-agent-identity", AGENT_NAMESPACE)
    assert agent.apply(mine, manager="cellward-agent").ok
    assert agent.get(mine).ok
    _forbidden(agent.apply(_plain("ConfigMap", "cellward-agent", AGENT_NAMESPACE), manager="cellward-agent"))


@pytest.mark.parametrize("path", ["/api/v1/pods", "/apis/networking.k8s.io/v1/ingresses", "/api/v1/persistentvolumes"])
def test_v12_agent_reads_nothing_it_does_not_need(agent: ApiClient, path: str) -> None:
    """Neither pods, whose environment may hold what is nobody's business, nor kinds it never writes."""
    _forbidden(agent.request("GET", path + "?limit=1"))


@pytest.mark.parametrize(
    "path",
    [
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
        "/apis/crd.antrea.io/v1beta1/clusternetworkpolicies",
        "/apis/crd.projectcalico.org/v1/globalnetworkpolicies",
        "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies",
        "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies",
        "/apis/cilium.io/v2/ciliumclusterwideenvoyconfigs",
        "/apis/cilium.io/v2/ciliumegressgatewaypolicies",
        "/apis/networking.k8s.aws/v1alpha1/clusternetworkpolicies",
        "/apis/networking.gke.io/v1alpha1/fqdnnetworkpolicies",
        "/apis/k8s.ovn.org/v1/adminpolicybasedexternalroutes",
        "/apis/k8s.ovn.org/v1/egressfirewalls",
        "/apis/kubeovn.io/v1/subnets",
    ],
)
def test_v12_agent_watches_policies_of_plugins_and_writes_none(agent: ApiClient, path: str) -> None:
    """It says that isolation is unknown; what a cluster's administrators isolate is theirs."""
    assert agent.request("GET", path).status == 404, "no such kind here, and nobody who forbids to look"
    _forbidden(agent.request("POST", path, {"metadata": {"name": "mine"}}))
    _forbidden(agent.request("DELETE", f"{path}/theirs"))


def test_v10_every_policy_of_plugins_that_is_looked_for_may_be_read(agent: ApiClient) -> None:
    """The agent's list and its rights say the same, and discovery is open to it."""
    paths = [collection_path(kind_of(one.api_version, one.kind), "") for one in FOREIGN]
    # Other tests install one or another of these kinds; what may not be read is 403, there or not.
    assert {agent.request("GET", path).status for path in paths} <= {200, 404}
    assert agent.request("GET", "/apis/networking.k8s.io").ok
    assert agent.request("GET", "/apis/networking.k8s.io/v1").ok


def test_v12_agent_reads_no_secrets_elsewhere(agent: ApiClient, new_cell: NewCell) -> None:
    """No Secrets outside its namespace, cells included, and in its own only the one by name."""
    cell = new_cell()
    for namespace in ("kube-system", "default", cell.name, AGENT_NAMESPACE):
        _forbidden(agent.request("GET", f"/api/v1/namespaces/{namespace}/secrets"))
    _forbidden(agent.request("GET", "/api/v1/secrets"))
    _forbidden(agent.request("GET", f"/api/v1/namespaces/{cell.name}/secrets", user=cell.user))


def test_v12_pods_and_events_are_read_in_cells_alone(agent: ApiClient, new_cell: NewCell) -> None:
    """By the account of that very cell, never by the agent itself; nothing is written, and no log or shell opened."""
    cell, other = new_cell(), new_cell()
    for plural in ("pods", "events"):
        path = f"/api/v1/namespaces/{cell.name}/{plural}"
        assert _soon(lambda path=path: agent.request("GET", path, user=cell.user)).ok
        _forbidden(agent.request("GET", path))
        _forbidden(agent.request("GET", path, user=other.user))
        _forbidden(agent.request("GET", f"/api/v1/{plural}", user=cell.user))
        _forbidden(agent.request("GET", f"/api/v1/namespaces/default/{plural}", user=cell.user))
        _forbidden(agent.request("POST", path, {"metadata": {"name": "mine"}}, user=cell.user))
        for verb in ("PATCH", "DELETE"):
            _forbidden(agent.request(verb, f"{path}/mine", {}, user=cell.user))
    for what in ("log", "exec", "attach", "portforward", "ephemeralcontainers"):
        _forbidden(agent.request("GET", f"/api/v1/namespaces/{cell.name}/pods/mine/{what}", user=cell.user))


def test_v12_agent_cannot_raise_its_rights(agent: ApiClient, new_cell: NewCell) -> None:
    """No binding to cluster-admin, no role of its own making, no other name or role for a binding."""
    cell = new_cell()
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    _forbidden(agent.create(_cluster_admin_binding()))
    _forbidden(agent.apply(_cluster_admin_binding(), manager="x"))
    _forbidden(agent.create(_plain("ClusterRole", "mine", version=RBAC, rules=everything)))
    _forbidden(agent.apply(_plain("ClusterRole", "cellward-cell", version=RBAC, rules=everything), manager="x"))
    _forbidden(agent.create(_plain("Role", "mine", cell.name, version=RBAC, rules=everything)))
    _forbidden(agent.apply(cell.binding(name="other"), manager="x"))
    fresh = CellNamespace("shop", "rights", "dev")
    assert agent.apply(fresh.namespace(), manager="x").ok
    _forbidden(agent.apply(fresh.binding(role="cluster-admin"), manager="x"))
    _forbidden(agent.apply(fresh.binding(role="admin"), manager="x"))


@pytest.mark.parametrize("namespace", ["kube-system", "default", AGENT_NAMESPACE])
def test_v12_fence_keeps_the_cell_role_in_cells(agent: ApiClient, new_cell: NewCell, namespace: str) -> None:
    """RBAC alone would allow ``bind`` of the cell role anywhere; in the agent's own namespace it would run pods."""
    _forbidden(agent.apply(new_cell().binding(namespace=namespace), manager="x"), by="cellward-agent-fence")


def test_v12_fence_checks_the_subjects_of_a_binding(agent: ApiClient, new_cell: NewCell) -> None:
    """A cell's binding is for that cell's account alone: no user, group, second subject or other cell's account."""
    cell, other = new_cell(), new_cell()
    account = cell.binding()["subjects"][0]
    strangers: list[list[dict[str, str]]] = [
        [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
        [{"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}],
        [account, {"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        [{**account, "name": other.account}],
        [{**account, "name": "cellward-agent"}],
        [{**account, "namespace": "default"}],
        [],
    ]
    for subjects in strangers:
        answer = agent.apply({**cell.binding(), "subjects": subjects}, manager="cellward-agent")
        _forbidden(answer, by="cellward-agent-fence")


@pytest.mark.parametrize("namespace", ["kube-system", "default", AGENT_NAMESPACE])
def test_v12_fence_keeps_network_policies_in_cells(agent: ApiClient, new_cell: NewCell, namespace: str) -> None:
    """The right to write NetworkPolicies is cluster-wide in RBAC; the fence makes it end at cells."""
    policy = new_cell().network_policy(namespace=namespace)
    _forbidden(agent.apply(policy, manager="x"), by="cellward-agent-fence")


def test_v12_fence_holds_for_delete_too(agent: ApiClient, admin: ApiClient, new_cell: NewCell) -> None:
    """A foreign NetworkPolicy and a foreign namespace cannot be deleted, one by one or as a collection."""
    foreign = new_cell().network_policy(namespace="default", managed=False)
    admin.must(admin.apply(foreign, manager="test"), "a foreign policy")
    _forbidden(agent.delete(foreign), by="cellward-agent-fence")
    _forbidden(agent.request("DELETE", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"))
    theirs = _plain("Namespace", "theirs")
    admin.must(admin.apply(theirs, manager="test"), "a foreign namespace")
    _forbidden(agent.delete(theirs), by="cellward-agent-fence")
    _forbidden(agent.delete(_plain("Namespace", AGENT_NAMESPACE)), by="cellward-agent-fence")
    assert admin.get(foreign).ok


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("plain", {}),
        ("shop--web--dev", {}),
        ("shop--web--dev", {"cellward.dev/project": "shop", "cellward.dev/cell": "web"}),
        (
            "other--web--dev",
            {"cellward.dev/project": "shop", "cellward.dev/cell": "web", "cellward.dev/environment": "dev"},
        ),
        ("kube-web", {"cellward.dev/project": "kube", "cellward.dev/cell": "web", "cellward.dev/environment": ""}),
        ("a--b--c--d", {"cellward.dev/project": "a--b", "cellward.dev/cell": "c", "cellward.dev/environment": "d"}),
        (
            "averyveryverylongproject--web--dev",
            {
                "cellward.dev/project": "averyveryverylongproject",
                "cellward.dev/cell": "web",
                "cellward.dev/environment": "dev",
            },
        ),
    ],
)
def test_v12_new_namespace_needs_pattern_and_labels(agent: ApiClient, name: str, labels: dict[str, str]) -> None:
    """A new namespace is named project--cell--environment and says the same in its labels."""
    namespace = _plain("Namespace", name)
    namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "baseline", **STAMPS, **labels}
    _forbidden(agent.create(namespace), by="cellward-agent-fence")
    _forbidden(agent.apply(namespace, manager="x"), by="cellward-agent-fence")


def test_v12_agent_cannot_adopt_a_foreign_namespace(agent: ApiClient, admin: ApiClient) -> None:
    """A namespace that is not a cell, even with the right name, cannot be turned into one by labels."""
    foreign = CellNamespace("shop", "foreign", "dev")
    admin.must(admin.apply(_plain("Namespace", foreign.name), manager="test"), "a foreign namespace")
    _forbidden(agent.apply(foreign.namespace(), manager="x"), by="cellward-agent-fence")
    _forbidden(agent.apply(foreign.network_policy(), manager="x"), by="cellward-agent-fence")
    _forbidden(agent.apply(foreign.binding(), manager="x"), by="cellward-agent-fence")


@pytest.mark.parametrize("stamp", [None, "", "x" * 40, "5" * 39])
def test_v12_fence_knows_a_cell_by_its_stamp(agent: ApiClient, new_cell: NewCell, stamp: str | None) -> None:
    """No cell is made without one, and none loses it, not even by the agent."""
    for cell in (CellNamespace("shop", "unstamped", "dev"), new_cell()):
        namespace = cell.namespace()
        if stamp is None:
            del namespace["metadata"]["labels"]["cellward.dev/stamp"]
        else:
            namespace["metadata"]["labels"]["cellward.dev/stamp"] = stamp
        _forbidden(agent.apply(namespace, manager="cellward-agent"), by="cellward-agent-fence")


def test_v12_agent_changes_the_stamp_of_a_cell(agent: ApiClient, new_cell: NewCell) -> None:
    """The control: after an absence of the guards it takes another."""
    changed = new_cell().namespace(**{"cellward.dev/stamp": "7" * 40})
    assert agent.apply(changed, manager="cellward-agent").ok


def test_v12_agent_writes_its_mark_and_makes_no_other(agent: ApiClient, admin: ApiClient) -> None:
    """One ConfigMap in its own namespace, which the chart makes; not deleted, and no other."""
    mark = _plain("ConfigMap", "cellward-stamps", AGENT_NAMESPACE, data={"stamped": "true"})
    assert agent.apply(mark, manager="cellward-agent-stamps").ok
    _forbidden(agent.delete(mark))
    for namespace, name in ((AGENT_NAMESPACE, "other"), ("default", "cellward-stamps")):
        _forbidden(agent.apply(_plain("ConfigMap", name, namespace, data={}), manager="x"))
    assert admin.get(mark).body["data"] == {"stamped": "true"}


def test_v12_agent_cannot_change_which_cell_a_namespace_is(agent: ApiClient, new_cell: NewCell) -> None:
    """The labels of a cell stay what they were when it was made."""
    changed = new_cell().namespace(**{"cellward.dev/environment": "prod"})
    _forbidden(agent.apply(changed, manager="cellward-agent"), by="cellward-agent-fence")


@pytest.mark.parametrize(
    "labels",
    [
        {"pod-security.kubernetes.io/enforce": "privileged"},
        {"pod-security.kubernetes.io/enforce": None},
        {"pod-security.kubernetes.io/enforce-version": "v1.0"},
    ],
    ids=["privileged", "no level", "old version"],
)
def test_v12_cell_never_runs_privileged_pods(
    agent: ApiClient, new_cell: NewCell, labels: dict[str, str | None]
) -> None:
    """Neither made nor changed into a namespace whose pods could take over a node; a node is a way to every right."""
    for cell in (CellNamespace("shop", "privileged", "dev"), new_cell()):
        namespace = cell.namespace()
        wanted = {**namespace["metadata"]["labels"], **labels}
        namespace["metadata"]["labels"] = {key: value for key, value in wanted.items() if value is not None}
        answer = agent.apply(namespace, manager="cellward-agent")
        _forbidden(answer)
        # The fence and the guard of these labels both refuse it; the API server names one of them.
        assert "cellward-agent-fence" in answer.message or "cellward-pod-security" in answer.message, answer.message


@pytest.mark.parametrize(("label", "wanted"), [("enforce", "baseline"), ("enforce-version", "latest")])
def test_v12_fence_keeps_no_level_that_somebody_else_set(
    agent: ApiClient, admin: ApiClient, label: str, wanted: str
) -> None:
    """The guard lets stand what was there before; the agent must set it right with the very write that takes back."""
    cell, label = CellNamespace("shop", f"kept-{label}"[:15], "dev"), f"pod-security.kubernetes.io/{label}"
    lost = _plain("Namespace", cell.name)
    lost["metadata"]["labels"] = {label: "privileged" if label.endswith("enforce") else "v1.25"}
    lost["metadata"]["annotations"] = {"cellward.dev/take-back": cell.name}
    admin.must(admin.apply(lost, manager="test"), "a namespace that lost its labels")
    taken = cell.namespace()
    taken["metadata"]["labels"].pop(label, None)
    _forbidden(agent.apply(taken, manager="cellward-agent"), by="cellward-agent-fence")
    taken["metadata"]["labels"][label] = wanted
    answer = agent.apply(taken, manager="cellward-agent")
    assert answer.ok, answer.message


def test_v12_privileged_pod_is_refused_in_a_cell(admin: ApiClient, new_cell: NewCell) -> None:
    """The control of the test above: the level does what we rely on it for, even for a cluster-admin."""
    container = {"name": "x", "image": "x:1", "securityContext": {"privileged": True}}
    answer = admin.create(_plain("Pod", "taker", new_cell().name, spec={"containers": [container]}))
    assert answer.status == 403
    assert "PodSecurity" in answer.message


def test_v12_agent_cannot_write_admission_configuration(agent: ApiClient) -> None:
    """It watches the policies that fence it and cannot touch them, nor add webhooks."""
    for name in NAMES:
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            existing = _plain(kind, name, version=ADMISSION)
            assert agent.get(existing).ok
            _forbidden(agent.delete(existing))
            _forbidden(agent.apply({**existing, "spec": {}}, manager="x"))
    hook = _plain("ValidatingWebhookConfiguration", "mine", version=ADMISSION, webhooks=[])
    _forbidden(agent.create(hook))
    _forbidden(agent.apply(hook, manager="x"))


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("admin", ()),
        ("system:kube-controller-manager", ()),
        ("system:serviceaccount:kube-system:namespace-controller", ()),
        ("system:serviceaccount:default:default", ()),
        (f"system:serviceaccount:{AGENT_NAMESPACE}:cell-x", ("system:masters",)),
        (AGENT_USER, ("system:masters",)),
    ],
)
def test_v12_agent_impersonates_only_accounts_of_its_namespace(
    agent: ApiClient, user: str, groups: tuple[str, ...]
) -> None:
    """No users, no groups, no accounts of other namespaces."""
    _forbidden(agent.request("GET", "/api/v1/namespaces", user=user, groups=groups))


def test_v12_agent_cannot_make_tokens_or_other_accounts(agent: ApiClient, new_cell: NewCell) -> None:
    """A token of a cell account would be a credential outside the agent; other accounts are not its own."""
    cell = new_cell()
    for account in (cell.account, "cellward-agent", "default"):
        path = f"/api/v1/namespaces/{AGENT_NAMESPACE}/serviceaccounts/{account}/token"
        _forbidden(agent.request("POST", path, {"spec": {}}))
    _forbidden(agent.create(_plain("ServiceAccount", "mine", AGENT_NAMESPACE)), by="cellward-agent-fence")
    _forbidden(agent.delete(_plain("ServiceAccount", "default", AGENT_NAMESPACE)), by="cellward-agent-fence")
    _forbidden(agent.create(_plain("ServiceAccount", "mine", "default")))


def test_v12_agent_applies_no_workloads_as_itself(agent: ApiClient, new_cell: NewCell) -> None:
    """Workloads are applied by the cell's account; the agent itself may not, nor run a pod beside its own."""
    cell = new_cell()
    pod = {"containers": [{"name": "x", "image": "x:1"}], "serviceAccountName": "cellward-agent"}
    _forbidden(agent.apply(cell.config_map(), manager="x"))
    for namespace in (AGENT_NAMESPACE, cell.name, "default"):
        _forbidden(agent.create(_plain("Pod", "mine", namespace, spec=pod)))
    for subresource in ("exec", "attach", "portforward", "ephemeralcontainers", "proxy"):
        _forbidden(agent.request("POST", f"/api/v1/namespaces/{cell.name}/pods/x/{subresource}", {}))


def test_v12_cell_account_stays_in_its_namespace(agent: ApiClient, new_cell: NewCell) -> None:
    """A cell's account has its own namespace, without isolation objects, rights, secrets and controller history."""
    cell, other = new_cell(), new_cell()
    for namespace in (other.name, "default", "kube-system", AGENT_NAMESPACE):
        _forbidden(agent.apply(cell.config_map(namespace=namespace), manager="x", user=cell.user))
    _forbidden(agent.apply(cell.network_policy(), manager="x", user=cell.user))
    _forbidden(agent.delete(cell.network_policy(), user=cell.user))
    _forbidden(agent.apply(cell.binding(), manager="x", user=cell.user))
    _forbidden(agent.apply(cell.namespace(), manager="x", user=cell.user))
    _forbidden(agent.create(_plain("Secret", "mine", cell.name), user=cell.user))
    path = f"/apis/apps/v1/namespaces/{cell.name}/controllerrevisions"
    _forbidden(agent.request("GET", path, user=cell.user))


def test_v12_fence_confines_a_cell_account_bound_elsewhere(
    agent: ApiClient, admin: ApiClient, new_cell: NewCell
) -> None:
    """Even a careless cluster-admin's binding does not let a cell's account write into another cell."""
    cell, other = new_cell(), new_cell()
    careless = cell.binding(namespace=other.name, name="careless")
    admin.must(admin.apply(careless, manager="test"), "a careless binding")
    await_right(admin, cell.user, other.name)
    answer = agent.apply(cell.config_map(namespace=other.name), manager="x", user=cell.user)
    _forbidden(answer, by="cellward-agent-fence")


def test_v12_fence_tells_cells_with_long_names_apart(agent: ApiClient, admin: ApiClient, new_cell: NewCell) -> None:
    """Beyond 63 characters an account's name is cut: another cell's account is another beginning, whoever bound it."""
    long = CellNamespace("a" * 20, "b" * 24, "c" * 12)
    identity = CellIdentity(long.name, AGENT_NAMESPACE)
    assert agent.apply(long.namespace(), manager="cellward-agent").ok
    account, binding = (owned.manifest for owned in identity.rights(long.labels))
    assert agent.apply(account, manager="cellward-agent").ok
    foreign = {**binding, "subjects": [{**binding["subjects"][0], "name": new_cell().account}]}
    _forbidden(agent.apply(foreign, manager="cellward-agent"), by="cellward-agent-fence")
    assert agent.apply(binding, manager="cellward-agent").ok
    _soon(lambda: agent.apply(long.config_map(), manager="x", user=identity.user))
    stranger = new_cell()
    admin.must(admin.apply(stranger.binding(namespace=long.name, name="careless"), manager="test"), "careless")
    await_right(admin, stranger.user, long.name)
    answer = agent.apply(long.config_map(), manager="x", user=stranger.user)
    _forbidden(answer, by="cellward-agent-fence")
    assert agent.delete(long.namespace()).ok


def test_v12_other_accounts_of_the_agents_namespace_write_nothing(
    agent: ApiClient, admin: ApiClient, new_cell: NewCell
) -> None:
    """The agent may impersonate every account of its namespace: a powerful one there would be the way out."""
    cell = new_cell()
    powerful = f"system:serviceaccount:{AGENT_NAMESPACE}:powerful"
    admin.must(admin.apply(_plain("ServiceAccount", "powerful", AGENT_NAMESPACE), manager="test"), "an account")
    binding = _plain(
        "ClusterRoleBinding", "powerful", version=RBAC,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        subjects=[{"kind": "ServiceAccount", "name": "powerful", "namespace": AGENT_NAMESPACE}],
    )  # fmt: skip
    admin.must(admin.apply(binding, manager="test"), "its binding")
    try:
        await_right(admin, powerful, cell.name)
        for namespace in ("default", "kube-system", AGENT_NAMESPACE, cell.name):
            answer = agent.apply(_plain("ConfigMap", "x", namespace), manager="x", user=powerful)
            _forbidden(answer, by="cellward-agent-fence")
    finally:
        admin.delete(binding)


def test_v12_policies_type_check(admin: ApiClient) -> None:
    """A type error in a policy shows only in its status, filled in by the controller manager a moment later."""
    policies = [o for o in chart_objects() if o["kind"] == "ValidatingAdmissionPolicy"]
    assert len(policies) == len(NAMES)
    for policy in policies:
        deadline = time.monotonic() + 30
        while "typeChecking" not in (status := admin.get(policy).body.get("status", {})):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        assert status["typeChecking"].get("expressionWarnings", []) == []


def test_v12_no_rule_has_a_star_or_escalate() -> None:
    """Read from the files themselves: nothing that a later kind or verb would silently widen."""
    rules = [(o["metadata"]["name"], r) for o in chart_objects() if "Role" in o["kind"] for r in o.get("rules", [])]
    assert len(rules) > 5
    for name, rule in rules:
        listed = [*rule.get("apiGroups", []), *rule.get("resources", []), *rule["verbs"]]
        assert not {"*", "escalate", "deletecollection"} & set(listed), f"{name}: {rule}"
        assert not [entry for entry in listed if "*" in entry], f"{name}: {rule}"
        assert "nonResourceURLs" not in rule
        if "bind" in rule["verbs"]:
            assert rule["resourceNames"] == ["cellward-cell"], name
        if "admissionregistration.k8s.io" in rule["apiGroups"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}, name
        if "configmaps" in rule["resources"] and name == "cellward-agent" and set(rule["verbs"]) - _READ:
            assert rule["resourceNames"] in (["cellward-stamps"], ["cellward-agent-identity"]), name
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"] == ["cellward-agent-anchor"], name
