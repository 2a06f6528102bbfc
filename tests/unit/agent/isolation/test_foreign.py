"""Policies of network plugins beside our own: what may select a cell counts, also what nobody here understands."""

from __future__ import annotations

from typing import Any

import pytest

from agent.isolation.foreign import FOREIGN, ForeignKind, Place, selecting

PLACE = Place("shop--web--dev", {"cellward.dev/cell": "web", "cellward.dev/project": "shop", "team": "blue"})
BY_NAME = {(one.api_version, one.kind): one for one in FOREIGN}
CNP = BY_NAME["policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"]
ANP = BY_NAME["policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"]
ANTREA = BY_NAME["crd.antrea.io/v1beta1", "ClusterNetworkPolicy"]
CALICO = BY_NAME["crd.projectcalico.org/v1", "GlobalNetworkPolicy"]
AWS = BY_NAME["networking.k8s.aws/v1alpha1", "ClusterNetworkPolicy"]
ENVOY = BY_NAME["cilium.io/v2", "CiliumClusterwideEnvoyConfig"]
GATEWAY = BY_NAME["cilium.io/v2", "CiliumEgressGatewayPolicy"]
ROUTE = BY_NAME["k8s.ovn.org/v1", "AdminPolicyBasedExternalRoute"]
SUBNET = BY_NAME["kubeovn.io/v1", "Subnet"]
CILIUM = BY_NAME["cilium.io/v2", "CiliumClusterwideNetworkPolicy"]

OURS = {"matchLabels": {"team": "blue"}}
THEIRS = {"matchLabels": {"team": "red"}}
NOT_CELLS = {"matchExpressions": [{"key": "cellward.dev/cell", "operator": "DoesNotExist"}]}
STRANGE = {"matchExpressions": [{"key": "team", "operator": "Like", "values": ["red"]}]}
IN_NAME = "k8s:io.kubernetes.pod.namespace"
OF_NAMESPACE = "k8s:io.cilium.k8s.namespace.labels.team"


def test_v16_rules_of_another_form_count() -> None:
    """A policy of Cilium whose list of rules is no list ends nobody, and selects."""
    for specs in (7, True, "text", {"a": 1}):
        assert selecting(CILIUM, {"metadata": {"name": "x"}, "specs": specs}, PLACE)


def _policy(spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize("kind", [CNP, ANP, AWS], ids=lambda one: f"{one.api_version} {one.kind}")
@pytest.mark.parametrize(
    ("subject", "selects"),
    [
        ({"namespaces": {}}, True),
        ({"namespaces": OURS}, True),
        ({"namespaces": THEIRS}, False),
        ({"namespaces": NOT_CELLS}, False),
        ({"namespaces": STRANGE}, True),
        ({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "shop--web--dev"}}}, True),
        ({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, False),
        ({"namespaces": {**THEIRS, "matchFields": []}}, True),
        ({"pods": {"namespaceSelector": THEIRS, "podSelector": {}}}, False),
        ({"pods": {"namespaceSelector": OURS, "podSelector": {"matchLabels": {"a": "b"}}}}, True),
        ({"pods": {}}, True),
        ({"nodes": {}}, True),
        ({}, True),
        (None, True),
    ],
)
def test_the_projects_own_kinds(kind: ForeignKind, subject: Any, selects: bool) -> None:
    """By the labels of the namespace; pods are not looked at."""
    assert selecting(kind, _policy({"subject": subject}), PLACE) is selects


@pytest.mark.parametrize(
    ("spec", "selects"),
    [
        ({"appliedTo": [{"namespaceSelector": THEIRS}]}, False),
        ({"appliedTo": [{"namespaceSelector": THEIRS}, {"namespaceSelector": OURS, "podSelector": {}}]}, True),
        ({"appliedTo": [{"podSelector": {"matchLabels": {"app": "x"}}}]}, True),
        ({"appliedTo": [{"group": "everything"}]}, True),
        ({"appliedTo": [{"nodeSelector": {}}]}, False),
        ({"ingress": [{"appliedTo": [{"namespaceSelector": THEIRS}]}]}, False),
        ({"ingress": [{"appliedTo": [{"namespaceSelector": THEIRS}]}], "egress": [{}]}, True),
        ({"appliedTo": "everything"}, True),
        ({}, True),
    ],
)
def test_antrea(spec: Any, selects: bool) -> None:
    """For the whole policy or rule by rule."""
    assert selecting(ANTREA, _policy(spec), PLACE) is selects


@pytest.mark.parametrize(
    ("spec", "selects"),
    [
        ({}, True),
        ({"selector": "all()"}, True),
        ({"selector": "app == 'x'"}, True),
        ({"selector": "has(host-endpoint)"}, True),
        ({"selector": "projectcalico.org/namespace == 'kube-system'"}, False),
        ({"selector": "projectcalico.org/namespace == 'kube-system' && app == 'x'"}, False),
        ({"selector": "projectcalico.org/namespace == 'kube-system' || app == 'x'"}, True),
        ({"selector": "!(projectcalico.org/namespace == 'shop--web--dev')"}, True),
        ({"selector": "projectcalico.org/namespace in {'a', \"b\"}"}, False),
        ({"selector": "projectcalico.org/namespace in {'a', 'shop--web--dev'}"}, True),
        ({"selector": "projectcalico.org/namespace not in {'shop--web--dev'}"}, False),
        ({"selector": "app != \"x && projectcalico.org/namespace == 'z' && b != y\""}, True),
        ({"namespaceSelector": "team == 'red'"}, False),
        ({"namespaceSelector": "team == 'blue'", "selector": "all()"}, True),
        ({"namespaceSelector": "!has(cellward.dev/cell)"}, False),
        ({"namespaceSelector": "has(other)"}, False),
        ({"namespaceSelector": "projectcalico.org/name == 'other'"}, False),
        ({"namespaceSelector": "global()"}, False),
        ({"namespaceSelector": "team contains 'red'"}, True),
        ({"namespaceSelector": 7}, True),
    ],
)
def test_calico(spec: Any, selects: bool) -> None:
    """Plain conjunctions of known terms; labels of pods may be anything."""
    assert selecting(CALICO, _policy(spec), PLACE) is selects


@pytest.mark.parametrize(
    ("body", "selects"),
    [
        ({"spec": {"endpointSelector": {}}}, True),
        ({"spec": {"endpointSelector": {"matchLabels": {"app": "x"}}}}, True),
        ({"spec": {"endpointSelector": {"matchLabels": {IN_NAME: "kube-system"}}}}, False),
        ({"spec": {"endpointSelector": {"matchLabels": {IN_NAME: "shop--web--dev", "app": "x"}}}}, True),
        ({"spec": {"endpointSelector": {"matchLabels": {OF_NAMESPACE: "red"}}}}, False),
        ({"spec": {"endpointSelector": {"matchLabels": {OF_NAMESPACE: "blue"}}}}, True),
        ({"spec": {"endpointSelector": {"matchExpressions": [{"key": IN_NAME, "operator": "?"}]}}}, True),
        ({"spec": {"nodeSelector": {}}}, False),
        ({"specs": [{"nodeSelector": {}}, {"endpointSelector": {}}]}, True),
        ({"spec": {"nodeSelector": {}}, "specs": [{"endpointSelector": {}}]}, True),
        ({"spec": {}}, True),
        ({}, True),
    ],
)
def test_cilium(body: Any, selects: bool) -> None:
    """Every rule of it; nodes are none of ours."""
    assert selecting(CILIUM, {"metadata": {"name": "x"}, **body}, PLACE) is selects


_ACLS = {"acls": [{"action": "allow-related", "direction": "to-lport", "match": "ip4", "priority": 3000}]}


@pytest.mark.parametrize(
    ("kind", "spec", "selects"),
    [
        (ENVOY, {"services": [{"name": "api", "namespace": "shop--web--dev"}], "resources": []}, True),
        (ENVOY, {"backendServices": [{"name": "api", "namespace": "shop--web--dev"}]}, True),
        (ENVOY, {"services": [{"name": "api", "namespace": "other"}], "backendServices": None}, False),
        (ENVOY, {"services": [{"name": "api"}]}, True),
        (ENVOY, {"services": "api"}, True),
        (ENVOY, {"resources": []}, True),
        (GATEWAY, {"selectors": [{"namespaceSelector": THEIRS, "podSelector": {}}]}, False),
        (GATEWAY, {"selectors": [{"namespaceSelector": THEIRS}, {"namespaceSelector": OURS}]}, True),
        (GATEWAY, {"selectors": [{"podSelector": {"matchLabels": {"app": "x"}}}]}, True),
        (GATEWAY, {"selectors": [{"namespaceSelector": None}]}, True),
        (GATEWAY, {"selectors": [{"namespaceSelector": STRANGE}]}, True),
        (GATEWAY, {"selectors": []}, True),
        (GATEWAY, {}, True),
        (ROUTE, {"from": {"namespaceSelector": OURS}, "nextHops": {}}, True),
        (ROUTE, {"from": {"namespaceSelector": THEIRS}, "nextHops": {}}, False),
        (ROUTE, {"from": {"namespaceSelector": {}}}, True),
        (ROUTE, {"from": {"namespaceSelector": THEIRS, "more": {}}}, True),
        (ROUTE, {"from": {}}, True),
        (ROUTE, {}, True),
        (SUBNET, {"default": True, "cidrBlock": "10.16.0.0/16", "namespaces": ["shop--web--dev"]}, False),
        (SUBNET, {"default": True, "namespaces": ["other"], **_ACLS}, True),
        (SUBNET, {"namespaces": ["shop--web--dev"], **_ACLS}, True),
        (SUBNET, {"namespaces": ["other"], **_ACLS}, False),
        (SUBNET, {"namespaces": "other", **_ACLS}, True),
        (SUBNET, {"namespaces": ["other"], "namespaceSelectors": [OURS], **_ACLS}, True),
        (SUBNET, {"namespaces": ["other"], "namespaceSelectors": [THEIRS], **_ACLS}, False),
        (SUBNET, {**_ACLS}, True),
        (SUBNET, {"namespaces": ["shop--web--dev"], "externalEgressGateway": "192.0.2.1"}, True),
    ],
)
def test_routes_and_proxies(kind: ForeignKind, spec: Any, selects: bool) -> None:
    """What takes a cell's traffic another way counts like a policy."""
    assert selecting(kind, _policy(spec), PLACE) is selects


@pytest.mark.parametrize(
    "kind", [one for one in FOREIGN if one.selects is None], ids=lambda one: f"{one.api_version} {one.kind}"
)
def test_what_lives_in_the_namespace_of_a_cell_is_about_it(kind: ForeignKind) -> None:
    """Nobody makes one there while the guards stand; one that came in without them counts."""
    for namespace, selects in (("shop--web--dev", True), ("other", False)):
        assert selecting(kind, {"metadata": {"name": "x", "namespace": namespace}}, PLACE) is selects
    view = selecting(kind, {"metadata": {"name": "knp.default.deny", "namespace": "shop--web--dev"}}, PLACE)
    assert view is (kind.api_version != "projectcalico.org/v3")
