"""Random sets of pods, namespaces and NetworkPolicies, with every connection between some ends; from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cellward.isolation.model import Connection, ContainerPort, Outside, Pod, World

_T = TypeVar("_T")

NAMESPACES = ("default", "shop", "bank")
#: What labels are made of; every namespace and pod carries the first key.
KEYS, VALUES = ("tier", "app", "zone"), ("a", "b", "c")
PORTS, PORT_NAMES, PROTOCOLS = (53, 80, 81, 8080), ("http", "dns", "metrics"), ("TCP", "UDP", "SCTP")
BLOCKS = (
    ("0.0.0.0/0", ("10.0.0.0/8", "10.0.1.0/24", "192.0.2.7/32")),
    ("10.0.0.0/16", ("10.0.1.0/24", "10.0.2.3/32")),
    ("192.0.2.0/24", ("192.0.2.0/25", "192.0.2.7/32")),
    ("::/0", ("fd00::/8", "2001:db8::7/128")),
    ("2001:db8::/32", ("2001:db8::/64", "2001:db8::7/128")),
)
OUTSIDE = ("192.0.2.7", "192.0.2.200", "2001:db8::7", "2001:db8:1::1")


@dataclass(frozen=True, slots=True)
class Case:
    """One set and what is asked about it."""

    world: World
    ends: tuple[Pod | Outside, ...]
    traffic: tuple[tuple[int, int, int, str], ...]

    def connections(self) -> list[Connection]:
        """The connections in the order of ``traffic``."""
        return [
            Connection(self.ends[one], self.ends[other], port, protocol) for one, other, port, protocol in self.traffic
        ]

    def question(self) -> dict[str, Any]:
        """What the oracle is asked, as its main.go reads it."""
        return {
            "policies": list(self.world.policies),
            "ends": [self._end(end) for end in self.ends],
            "traffic": [
                {"from": one, "to": other, "port": port, "protocol": protocol}
                for one, other, port, protocol in self.traffic
            ],
        }

    def _end(self, end: Pod | Outside) -> dict[str, Any]:
        if isinstance(end, Outside):
            return {"ip": end.ip}
        return {
            "ip": end.ip,
            "namespace": end.namespace,
            "namespaceLabels": self.world.namespaces.get(end.namespace, {}),
            "podLabels": end.labels,
            "ports": [{"name": one.name, "port": one.port, "protocol": one.protocol} for one in end.ports],
        }


def made(seed: int) -> Case:
    """Return the set of a seed."""
    return _Maker(random.Random(seed)).case()


class _Maker:
    """Draws one set; each choice is as likely as makes rules match about every other time."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def case(self) -> Case:
        namespaces = {name: self._labels() for name in NAMESPACES}
        pods = [self._pod(namespace, index) for index, namespace in enumerate(self._some(NAMESPACES * 2, 2, 4))]
        ends: list[Pod | Outside] = [*pods, *(Outside(ip) for ip in self._some(OUTSIDE, 1, 2))]
        policies = [self._policy(index) for index in range(self._random.randint(1, 6))]
        pairs = [(one, other) for one in range(len(ends)) for other in range(len(ends)) if one != other]
        asked = [(port, self._one(PROTOCOLS)) for port in self._some(PORTS, 2, 3)]
        traffic = tuple((one, other, port, protocol) for one, other in pairs for port, protocol in asked)
        return Case(World(namespaces, policies), tuple(ends), traffic)

    def _one(self, of: Sequence[_T]) -> _T:
        return self._random.choice(of)

    def _some(self, of: Sequence[_T], low: int, high: int) -> list[_T]:
        return self._random.sample(of, min(len(of), self._random.randint(low, high)))

    def _odds(self, of: float) -> bool:
        return self._random.random() < of

    def _labels(self) -> dict[str, str]:
        return {key: self._one(VALUES) for key in KEYS if key == KEYS[0] or self._odds(0.5)}

    def _pod(self, namespace: str, index: int) -> Pod:
        ports = [
            ContainerPort(name, port, self._one(PROTOCOLS))
            for name, port in zip(self._some(PORT_NAMES, 0, 3), self._some(PORTS, 3, 3), strict=False)
        ]
        family = f"10.0.{index}.{self._random.randint(1, 4)}" if self._odds(0.7) else f"fd00::{index + 1:x}"
        return Pod(namespace, f"pod-{index}", self._labels(), family, tuple(ports))

    def _policy(self, index: int) -> dict[str, Any]:
        spec: dict[str, Any] = {"podSelector": self._selector(empty=0.4)}
        for field, side in (("ingress", "from"), ("egress", "to")):
            if self._odds(0.65):
                spec[field] = [self._rule(side) for _ in range(self._random.randint(0, 3))]
        if self._odds(0.7):
            spec["policyTypes"] = self._some(("Ingress", "Egress"), 1, 2)
        metadata = {"name": f"policy-{index}", "namespace": self._one(NAMESPACES)}
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}

    def _rule(self, side: str) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        if self._odds(0.8):
            rule[side] = [self._peer() for _ in range(self._random.randint(0, 3))]
        if self._odds(0.7):
            rule["ports"] = [self._port() for _ in range(self._random.randint(0, 3))]
        return rule

    def _peer(self) -> dict[str, Any]:
        kind = self._one(("block", "pods", "namespaces", "both"))
        if kind == "block":
            cidr, inside = self._one(BLOCKS)
            excluded = self._some(inside, 0, 2)
            return {"ipBlock": {"cidr": cidr, "except": excluded} if excluded or self._odds(0.5) else {"cidr": cidr}}
        peer = {}
        if kind != "namespaces":
            peer["podSelector"] = self._selector(empty=0.3)
        if kind != "pods":
            peer["namespaceSelector"] = self._selector(empty=0.3)
        return peer

    def _port(self) -> dict[str, Any]:
        port: dict[str, Any] = {} if self._odds(0.4) else {"protocol": self._one(PROTOCOLS)}
        if self._odds(0.2):
            return port
        if self._odds(0.3):
            return {**port, "port": self._one(PORT_NAMES)}
        low = self._one(PORTS)
        return (
            {**port, "port": low, "endPort": low + self._one((0, 1, 8000))}
            if self._odds(0.3)
            else {**port, "port": low}
        )

    def _selector(self, empty: float) -> Mapping[str, Any]:
        if self._odds(empty):
            return {}
        selector: dict[str, Any] = {}
        if self._odds(0.6):
            selector["matchLabels"] = {self._one(KEYS): self._one(VALUES)}
        if self._odds(0.6):
            selector["matchExpressions"] = [self._requirement() for _ in range(self._random.randint(0, 2))]
        return selector

    def _requirement(self) -> dict[str, Any]:
        operator = self._one(("In", "NotIn", "Exists", "DoesNotExist"))
        # Of what NotIn says about things without the key the oracle has another opinion, see the test.
        key = KEYS[0] if operator == "NotIn" and self._odds(0.8) else self._one(KEYS)
        values = {"values": self._some(VALUES, 1, 2)} if operator in {"In", "NotIn"} else {}
        return {"key": key, "operator": operator, **values}
