"""Whether NetworkPolicies let a connection pass, for each direction, and why; pure.

Sources: Kubernetes API reference, NetworkPolicy networking.k8s.io/v1 (rules are added up, ``policyTypes`` and its
default, empty rules), KEP-2079 (endPort), and the concept page "Network Policies" for what is left open: pods in the
network of their node, traffic of nodes, protocols other than TCP, UDP and SCTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellward.isolation.errors import BAD_POLICY
from cellward.isolation.model import (
    Connection,
    ContainerPort,
    End,
    Judgement,
    Node,
    Outside,
    Pod,
    Rule,
    Side,
    Way,
    World,
)
from cellward.isolation.selectors import PROTOCOLS, block_has, port_matches, selects

_FIELDS: Final[Mapping[Way, tuple[str, str]]] = {"ingress": ("Ingress", "from"), "egress": ("Egress", "to")}
_DEFAULT_NAMESPACE: Final = "default"


def judge(world: World, connection: Connection) -> Judgement:
    """Return what the policies of both ends say of a connection.

    A connection is allowed when the source's egress and the destination's ingress are; an answer to it passes always.
    Raises isolation/bad-policy for a policy that no API server would have stored.
    """
    return Judgement(_side(world, connection, "egress"), _side(world, connection, "ingress"))


def policy_types(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the directions of a policy: without ``policyTypes`` ingress, and egress when there is a rule for it."""
    stated = tuple(spec.get("policyTypes") or ())
    return stated or (("Ingress", "Egress") if spec.get("egress") else ("Ingress",))


@dataclass(frozen=True, slots=True)
class _Asked:
    """One direction of a connection: the pod whose policies are asked, and the other end."""

    world: World
    connection: Connection
    way: Way
    pod: Pod
    peer: End

    @property
    def named(self) -> tuple[ContainerPort, ...]:
        receiver = self.connection.destination
        return receiver.ports if isinstance(receiver, Pod) else ()


def _side(world: World, connection: Connection, way: Way) -> Side:
    own, peer = connection.source, connection.destination
    if way == "ingress":
        own, peer = peer, own
    if not isinstance(own, Pod):
        kind = "a node" if isinstance(own, Node) else "outside the cluster"
        return Side(way, "allowed", (), (), f"{own.ip} is {kind}: no policy selects it")
    if isinstance(peer, Pod) and _same(own, peer):
        return Side(way, "allowed", (), (), "a pod's traffic to itself cannot be closed")
    if isinstance(peer, Node) and own.node and own.node == peer.name:
        return Side(way, "allowed", (), (), "traffic of a pod and its own node cannot be closed")
    asked = _Asked(world, connection, way, own, peer)
    policies = [policy for policy in world.policies if _selects_pod(policy, asked)]
    names = tuple(sorted(_name(policy) for policy in policies))
    if not policies:
        return Side(way, "allowed", (), (), f"no policy selects {_told(own)} for {way}")
    return _judged(asked, policies, names)


def _judged(asked: _Asked, policies: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> Side:
    """Add up what the rules of the selecting policies say."""
    way, protocol = asked.way, asked.connection.protocol
    found = [(rule, _rule_allows(body, policy, asked)) for policy in policies for rule, body in _rules(policy, way)]
    allowing = tuple(sorted(rule for rule, allowed in found if allowed))
    open_reason = ""
    if asked.pod.host_network and not allowing:
        open_reason = (
            f"{_told(asked.pod)} is in the network of its node, where the API does not say whether it is selected"
        )
    elif protocol not in PROTOCOLS:
        open_reason = f"the API does not say what policies do to {protocol}"
    elif not allowing and any(allowed is None for _, allowed in found):
        open_reason = _why_open(asked.peer)
    if open_reason:
        return Side(way, "undetermined", names, allowing, open_reason)
    if allowing:
        return Side(way, "allowed", names, allowing, f"allowed by {allowing[0]}")
    return Side(way, "denied", names, (), f"{names[0]} and {len(names) - 1} more select it, and no rule allows this")


def _why_open(peer: End) -> str:
    if isinstance(peer, Node):
        return f"the API does not say how policies see traffic of node {peer.name}"
    if isinstance(peer, Pod) and peer.host_network:
        return f"{_told(peer)} is in the network of its node, where the API does not say whether it is matched"
    return "an address block decides, and the pod's address is not known"


def _selects_pod(policy: Mapping[str, Any], asked: _Asked) -> bool:
    spec = policy.get("spec") or {}
    return (
        _namespace(policy) == asked.pod.namespace
        and _FIELDS[asked.way][0] in policy_types(spec)
        and selects(spec.get("podSelector") or {}, asked.pod.labels)
    )


def _rules(policy: Mapping[str, Any], way: Way) -> Iterator[tuple[Rule, Mapping[str, Any]]]:
    for index, body in enumerate(policy["spec"].get(way) or ()):
        yield Rule(_name(policy), way, index), body


def _rule_allows(rule: Mapping[str, Any], policy: Mapping[str, Any], asked: _Asked) -> bool | None:
    """Whether a rule allows the connection; None when that is left open. Both its peers and its ports must match."""
    ports, wanted = rule.get("ports") or (), asked.connection
    met = [port_matches(one, wanted.port, wanted.protocol, asked.named) for one in ports]
    peers = [_peer_matches(one, policy, asked) for one in rule.get(_FIELDS[asked.way][1]) or ()]
    if ports and not any(met):
        return False
    if not peers or True in peers:
        return True
    return None if None in peers else False


def _peer_matches(peer: Mapping[str, Any], policy: Mapping[str, Any], asked: _Asked) -> bool | None:
    block, pods, namespaces = peer.get("ipBlock"), peer.get("podSelector"), peer.get("namespaceSelector")
    if (block is None) == (pods is None and namespaces is None):
        raise BAD_POLICY(f"{_name(policy)} has a peer that is not either ipBlock or selectors")
    other = asked.peer
    if block is not None:
        # Read also where it does not decide: a policy is well formed or it is not, whoever asks.
        has = block_has(block, other.ip)
        return has if isinstance(other, Outside) or (isinstance(other, Pod) and not other.host_network) else None
    if not isinstance(other, Pod):
        return None if isinstance(other, Node) else False
    if namespaces is None:
        inside = other.namespace == _namespace(policy)
    else:
        inside = selects(namespaces, asked.world.namespaces.get(other.namespace, {}))
    if not (inside and selects(pods or {}, other.labels)):
        return None if other.host_network else False
    return None if other.host_network else True


def _same(one: Pod, other: Pod) -> bool:
    return (one.namespace, one.name) == (other.namespace, other.name)


def _namespace(policy: Mapping[str, Any]) -> str:
    return str(policy["metadata"].get("namespace") or _DEFAULT_NAMESPACE)


def _name(policy: Mapping[str, Any]) -> str:
    return f"{_namespace(policy)}/{policy['metadata'].get('name', '')}"


def _told(pod: Pod) -> str:
    return f"pod {pod.namespace}/{pod.name}"
