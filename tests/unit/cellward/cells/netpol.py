"""A small independent evaluator of NetworkPolicy v1, written from the Kubernetes API reference, not from our renderer.

It knows: pod selection, policyTypes, rules that add up, peers (podSelector, namespaceSelector, both, ipBlock with
except), numeric ports. A pod that no policy selects for a direction is open in that direction.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Labels = Mapping[str, str]
Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod with its address and the labels of its namespace."""

    namespace: str
    name: str
    ip: str
    labels: Labels
    namespace_labels: Labels


@dataclass(frozen=True)
class Outside:
    """An address that is no pod's."""

    ip: str


def allowed(policies: Sequence[Policy], source: Pod, target: Pod | Outside, port: int, protocol: str) -> bool:
    """Whether traffic passes: out of the source's policies and into the target's."""
    if not _direction(policies, "Egress", source, target, port, protocol):
        return False
    return isinstance(target, Outside) or _direction(policies, "Ingress", target, source, port, protocol)


def _direction(
    policies: Sequence[Policy], direction: str, pod: Pod, other: Pod | Outside, port: int, protocol: str
) -> bool:
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    field, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _rule(rule, side, policy, other, port, protocol) for policy in selecting for rule in policy["spec"][field]
    )


def _rule(rule: Mapping[str, Any], side: str, policy: Policy, other: Pod | Outside, port: int, protocol: str) -> bool:
    peers, ports = rule.get(side), rule.get("ports")
    if peers and not any(_peer(peer, policy["metadata"]["namespace"], other) for peer in peers):
        return False
    return not ports or any(
        item.get("protocol", "TCP") == protocol and item.get("port", port) == port for item in ports
    )


def _peer(peer: Mapping[str, Any], namespace: str, other: Pod | Outside) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(other.ip)
        block = peer["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and all(address not in ipaddress.ip_network(item) for item in block.get("except", []))
    if isinstance(other, Outside):
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != namespace:
        return False
    return "podSelector" not in peer or _selects(peer["podSelector"], other.labels)


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expression(item, labels) for item in selector.get("matchExpressions", []))


def _expression(item: Mapping[str, Any], labels: Labels) -> bool:
    value = labels.get(item["key"])
    match item["operator"]:
        case "In":
            return value in item["values"]
        case "NotIn":
            return value not in item["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise AssertionError(f"operator {other}")
