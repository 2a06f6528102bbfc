"""Policies of network plugins beside our own: which cells one of them may select; pure.

A cluster-wide policy of a plugin goes before NetworkPolicies or adds to them, so a cell that one selects is isolated by
somebody else too. Nobody here judges what it allows.

Invariant: anything that is not understood counts as selecting. Pods are not looked at (the agent reads none), so a
selector of pods selects whatever it may.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellward.cells.labels import NAMESPACE_NAME

Labels = Mapping[str, str]
Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A cell's namespace."""

    name: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class ForeignKind:
    """One kind; ``selects`` is None for a kind that lives in the namespace it is about."""

    api_version: str
    kind: str
    selects: Callable[[Spec, Place], bool] | None = None


def may_select(kind: ForeignKind, policy: Mapping[str, Any], place: Place) -> bool:
    """Whether a policy may be about pods of a cell."""
    metadata = policy["metadata"]
    if kind.selects is None:
        return bool(metadata.get("namespace") == place.name and not _is_a_view(kind, metadata["name"]))
    try:
        return kind.selects(policy.get("spec") or {}, place)
    except (AttributeError, KeyError, TypeError, ValueError):
        return True


def _is_a_view(kind: ForeignKind, name: str) -> bool:
    """Whether it is a NetworkPolicy as Calico's API server shows it; nobody makes others of that name there."""
    return kind.api_version.startswith("projectcalico.org/") and name.startswith("knp.default.")


# -- the project's own: AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy --------------------------


def _by_subject(spec: Spec, place: Place) -> bool:
    subject = spec["subject"]
    if set(subject) == {"namespaces"}:
        return _matches(subject["namespaces"], place.labels)
    if set(subject) == {"pods"}:
        return _matches(subject["pods"]["namespaceSelector"], place.labels)
    return True


def _matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector matches; one with unknown parts does."""
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        return True
    return not any(_is_false(*one, labels) for one in _requirements(selector))


def _requirements(selector: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[str]]]:
    for key, value in (selector.get("matchLabels") or {}).items():
        yield key, "In", [value]
    for one in selector.get("matchExpressions") or ():
        yield one["key"], one["operator"], one.get("values") or ()


def _is_false(key: str, operator: str, values: Sequence[str], labels: Labels) -> bool:
    match operator:
        case "In":
            return labels.get(key) not in values
        case "NotIn":
            return labels.get(key) in values
        case "Exists":
            return key not in labels
        case "DoesNotExist":
            return key in labels
        case _:
            return False


# -- Antrea -----------------------------------------------------------------------------------------------------------


def _antrea(spec: Spec, place: Place) -> bool:
    applied = spec.get("appliedTo")
    if applied:
        return any(_applied(one, place) for one in applied)
    rules = [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]
    return not rules or any(not rule.get("appliedTo") or _any_applied(rule, place) for rule in rules)


def _any_applied(rule: Mapping[str, Any], place: Place) -> bool:
    return any(_applied(one, place) for one in rule["appliedTo"])


def _applied(target: Mapping[str, Any], place: Place) -> bool:
    if set(target) == {"nodeSelector"}:
        return False
    known = "namespaceSelector" in target and set(target) <= {"namespaceSelector", "podSelector"}
    return _matches(target["namespaceSelector"], place.labels) if known else True


# -- Calico -----------------------------------------------------------------------------------------------------------

_KEY: Final = r"(?P<key>[A-Za-z0-9_./-]+)"
_QUOTED: Final = r"""(?:'[^'"]*'|"[^'"]*")"""
_ALL: Final = re.compile(r"all\(\s*\)")
_GLOBAL: Final = re.compile(r"global\(\s*\)")
_HAS: Final = re.compile(rf"(?P<no>!?)\s*has\(\s*{_KEY}\s*\)")
_EQUAL: Final = re.compile(rf"{_KEY}\s*(?P<operator>==|!=)\s*(?P<value>{_QUOTED})")
_AMONG: Final = re.compile(
    rf"{_KEY}\s+(?P<operator>in|not\s+in)\s*\{{(?P<values>\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*)\}}"
)


def _calico(spec: Spec, place: Place) -> bool:
    name = {"projectcalico.org/name": place.name}
    if _none_of(str(spec.get("namespaceSelector") or ""), {**place.labels, **name}, complete=True):
        return False
    known = {"projectcalico.org/namespace": place.name, "projectcalico.org/orchestrator": "k8s"}
    return not _none_of(str(spec.get("selector") or ""), known, complete=False)


def _none_of(expression: str, labels: Labels, *, complete: bool) -> bool:
    """Whether a selector is false for sure: a plain conjunction of known terms, one of which is.

    Every term must be understood: a text cut at the wrong place, inside of a quoted value, has one that is not.
    """
    if not expression.strip():
        return False
    terms = [_term(term.strip(), labels, complete=complete) for term in expression.split("&&")]
    return None not in terms and True in terms


def _term(term: str, labels: Labels, *, complete: bool) -> bool | None:
    """Whether a term is false for sure; None when it is not understood. Without ``complete`` other labels may exist."""
    if _ALL.fullmatch(term):
        return False
    if _GLOBAL.fullmatch(term):
        return complete
    if found := _HAS.fullmatch(term):
        operator, values = ("DoesNotExist" if found["no"] else "Exists"), []
    elif found := _EQUAL.fullmatch(term):
        operator, values = ("In" if found["operator"] == "==" else "NotIn"), [found["value"][1:-1]]
    elif found := _AMONG.fullmatch(term):
        operator = "In" if found["operator"] == "in" else "NotIn"
        values = [value[1:-1] for value in re.findall(_QUOTED, found["values"])]
    else:
        return None
    return (complete or found["key"] in labels) and _is_false(found["key"], operator, values, labels)


# -- Cilium -----------------------------------------------------------------------------------------------------------

_POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
_OF_NAMESPACE: Final = "io.cilium.k8s.namespace.labels."
_SOURCE: Final = re.compile(r"^(?:k8s|any)[:.]")


def _cilium(spec: Spec, place: Place) -> bool:
    selector = spec.get("endpointSelector")
    if selector is None:
        # Without either it is malformed, with this one it is about nodes.
        return set(spec) & {"nodeSelector", "endpointSelector"} != {"nodeSelector"}
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        return True
    return not any(_false_in_cilium(*one, place) for one in _requirements(selector))


def _false_in_cilium(key: str, operator: str, values: Sequence[str], place: Place) -> bool:
    bare = _SOURCE.sub("", key)
    if bare == _POD_NAMESPACE:
        return _is_false(bare, operator, values, {bare: place.name})
    if bare.startswith(_OF_NAMESPACE):
        return _is_false(bare.removeprefix(_OF_NAMESPACE), operator, values, place.labels)
    return False


def cilium_rules(policy: Mapping[str, Any]) -> list[Spec]:
    """Return the rules of a policy of Cilium: ``spec``, ``specs`` or both."""
    single, many = policy.get("spec"), policy.get("specs")
    return [*([single] if single else []), *(many or ())]


def _cilium_gateway(spec: Spec, place: Place) -> bool:
    """Whether traffic of a cell leaves by another node; a selector without namespaces is about all of them."""
    selectors = spec.get("selectors")
    return not selectors or any(_matches(one.get("namespaceSelector") or {}, place.labels) for one in selectors)


def _cilium_envoy(spec: Spec, place: Place) -> bool:
    """Whether calls of a cell's services go to a proxy; without services a policy elsewhere may name the listener."""
    services = [*(spec.get("services") or ()), *(spec.get("backendServices") or ())]
    return not services or any(one["namespace"] == place.name for one in services)


# -- OVN-Kubernetes and Kube-OVN --------------------------------------------------------------------------------------

#: What of a subnet goes before NetworkPolicies, or takes traffic another way.
_OF_SUBNET: Final = ("acls", "externalEgressGateway", "policyRoutingTableID")


def _ovn_route(spec: Spec, place: Place) -> bool:
    origin = spec["from"]
    return set(origin) != {"namespaceSelector"} or _matches(origin["namespaceSelector"], place.labels)


def _kube_ovn(spec: Spec, place: Place) -> bool:
    """A subnet is about the namespaces it names; the default one, and one that names none, about any."""
    if not any(spec.get(field) for field in _OF_SUBNET):
        return False
    names, selectors = spec.get("namespaces") or (), spec.get("namespaceSelectors") or ()
    if spec.get("default") or not (names or selectors) or isinstance(names, str):
        return True
    return place.name in names or any(_matches(one, place.labels) for one in selectors)


_POLICY: Final = "policy.networking.k8s.io"
_AWS: Final = "networking.k8s.aws/v1alpha1"
CILIUM: Final = ForeignKind("cilium.io/v2", "CiliumClusterwideNetworkPolicy", _cilium)

#: All kinds that are looked at; those that are not on the cluster are asked for again now and then.
FOREIGN: Final = (
    ForeignKind(f"{_POLICY}/v1alpha2", "ClusterNetworkPolicy", _by_subject),
    ForeignKind(f"{_POLICY}/v1alpha1", "AdminNetworkPolicy", _by_subject),
    ForeignKind(f"{_POLICY}/v1alpha1", "BaselineAdminNetworkPolicy", _by_subject),
    ForeignKind("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", _antrea),
    ForeignKind("crd.projectcalico.org/v1", "GlobalNetworkPolicy", _calico),
    ForeignKind("projectcalico.org/v3", "GlobalNetworkPolicy", _calico),
    CILIUM,
    ForeignKind("cilium.io/v2", "CiliumClusterwideEnvoyConfig", _cilium_envoy),
    ForeignKind("cilium.io/v2", "CiliumEgressGatewayPolicy", _cilium_gateway),
    ForeignKind(_AWS, "ClusterNetworkPolicy", _by_subject),
    ForeignKind("k8s.ovn.org/v1", "AdminPolicyBasedExternalRoute", _ovn_route),
    ForeignKind("kubeovn.io/v1", "Subnet", _kube_ovn),
    ForeignKind("crd.antrea.io/v1beta1", "NetworkPolicy"),
    ForeignKind("crd.projectcalico.org/v1", "NetworkPolicy"),
    ForeignKind("projectcalico.org/v3", "NetworkPolicy"),
    ForeignKind("cilium.io/v2", "CiliumNetworkPolicy"),
    ForeignKind("cilium.io/v2", "CiliumEnvoyConfig"),
    ForeignKind("cilium.io/v2", "CiliumLocalRedirectPolicy"),
    ForeignKind(_AWS, "ApplicationNetworkPolicy"),
    ForeignKind("networking.gke.io/v1alpha1", "FQDNNetworkPolicy"),
    ForeignKind("k8s.ovn.org/v1", "EgressFirewall"),
)


def selecting(kind: ForeignKind, policy: Mapping[str, Any], place: Place) -> bool:
    """Whether a policy of a kind may be about pods of a cell, every rule of it looked at."""
    here = Place(place.name, {**place.labels, NAMESPACE_NAME: place.name})
    if kind is not CILIUM:
        return may_select(kind, policy, here)
    try:
        rules = cilium_rules(policy)
    except TypeError:
        return True
    return not rules or any(may_select(kind, {**policy, "spec": rule}, here) for rule in rules)
