"""Values that NetworkPolicies are judged over, and what becomes of a connection.

Source: Kubernetes API reference, NetworkPolicy networking.k8s.io/v1, and the page "Network Policies" of its concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: ``undetermined`` is what the API leaves open, or what cannot be known without an address.
Verdict = Literal["allowed", "denied", "undetermined"]
Way = Literal["ingress", "egress"]


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a container names: 1 to 63 letters, 1 to 65535, and ``TCP``, ``UDP`` or ``SCTP``."""

    name: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        namespace: its namespace.
        name: what tells it from other pods of the namespace.
        labels: its own labels.
        ip: the address that the connection uses, IPv4 or IPv6, of a pod with two addresses one; empty when not known.
        ports: ports that its containers name.
        host_network: whether it is in the network of its node.
        node: where it runs; empty when not known.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class Outside:
    """An address that is neither a pod's nor a node's."""

    ip: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as the address that its own traffic has."""

    name: str
    ip: str


End: TypeAlias = Pod | Outside | Node


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection: who opens it, to whom, to which port of the receiver (the *pod* port), and ``TCP`` and so on."""

    source: End
    destination: End
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class World:
    """What decides.

    Attributes:
        namespaces: labels by namespace; one that is not here has no labels.
        policies: NetworkPolicies as the API has them, ``networking.k8s.io/v1``.
    """

    namespaces: Mapping[str, Mapping[str, str]]
    policies: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One rule of a policy: ``namespace/name``, the direction, and its index, counted from 0."""

    policy: str
    way: Way
    index: int

    def __str__(self) -> str:
        return f"{self.policy} {self.way}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Side:
    """What one end's policies say of a connection.

    Attributes:
        way: ``egress`` for the source's policies, ``ingress`` for the destination's.
        verdict: what they say.
        selected_by: policies that select the end for this direction, as ``namespace/name``; without one all is allowed.
        allowed_by: every rule that allows the connection.
        reason: one sentence for a person.
    """

    way: Way
    verdict: Verdict
    selected_by: tuple[str, ...]
    allowed_by: tuple[Rule, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both sides of a connection."""

    egress: Side
    ingress: Side

    @property
    def verdict(self) -> Verdict:
        """Allowed when both sides allow it, denied when one denies it, undetermined otherwise."""
        sides = {self.egress.verdict, self.ingress.verdict}
        if "denied" in sides:
            return "denied"
        return "undetermined" if "undetermined" in sides else "allowed"
