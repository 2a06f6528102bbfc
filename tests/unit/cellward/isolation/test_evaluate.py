"""What NetworkPolicies mean, by the sentences of the Kubernetes API reference and concept page (V9, V10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cellward.errors import CellwardError
from cellward.isolation.evaluate import judge, policy_types
from cellward.isolation.model import Connection, ContainerPort, End, Judgement, Node, Outside, Pod, World

NAMESPACES = {"shop": {"team": "a", "zone": ""}, "bank": {"team": "b"}, "bare": {}}
WEB = Pod(
    "shop", "web", {"app": "web"}, "10.0.0.1", (ContainerPort("http", 8080), ContainerPort("dns", 53, "UDP")), node="n1"
)
CACHE = Pod("shop", "cache", {"app": "cache"}, "10.0.0.2")
TELLER = Pod("bank", "teller", {"app": "teller", "tier": "front"}, "fd00::1")
BARE = Pod("bare", "bare", {}, "10.0.0.4")
OUTSIDE = Outside("192.0.2.7")


def policy(name: str = "p", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """A policy that selects every pod unless ``spec`` says otherwise."""
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def into(
    *rules: Mapping[str, Any], source: End = CACHE, port: int = 8080, protocol: str = "TCP", to: Pod = WEB
) -> Judgement:
    """Judge a connection into ``to`` under one policy with these ingress rules."""
    return judge(World(NAMESPACES, [policy(ingress=list(rules))]), Connection(source, to, port, protocol))


def lets(peer: Mapping[str, Any], source: End) -> str:
    """What a rule with one peer says of a source."""
    return into({"from": [peer]}, source=source).verdict


def test_v9_what_no_policy_selects_is_open_and_what_one_selects_is_closed() -> None:
    """Isolation begins with a policy that selects a pod, for each direction by itself."""
    connection = Connection(CACHE, WEB, 8080)
    found = judge(World(NAMESPACES, [policy(namespace="bank")]), connection)
    assert (found.verdict, found.ingress.selected_by) == ("allowed", ())
    deny = policy("default-deny", policyTypes=["Ingress", "Egress"], ingress=[], egress=[])
    found = judge(World(NAMESPACES, [deny]), connection)
    assert (found.egress.verdict, found.ingress.verdict) == ("denied", "denied")
    assert found.ingress.selected_by == ("shop/default-deny",)
    only_web = policy(podSelector={"matchLabels": {"app": "web"}}, ingress=[])
    assert judge(World(NAMESPACES, [only_web]), Connection(WEB, CACHE, 80)).verdict == "allowed"


def test_rules_add_up_and_the_allowing_ones_are_named() -> None:
    """Policies do not conflict; they are additive."""
    policies = [policy("closed", ingress=[]), policy("open", ingress=[{"ports": [{"port": 1}]}, {}])]
    found = judge(World(NAMESPACES, policies), Connection(CACHE, WEB, 8080)).ingress
    assert found.selected_by == ("shop/closed", "shop/open")
    assert [str(rule) for rule in found.allowed_by] == ["shop/open ingress[1]"]


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ("Ingress",)),
        ({"egress": []}, ("Ingress",)),
        ({"egress": [{}]}, ("Ingress", "Egress")),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, ("Egress",)),
        ({"policyTypes": []}, ("Ingress",)),
    ],
)
def test_directions_and_their_default(spec: dict[str, Any], types: tuple[str, ...]) -> None:
    """Without policyTypes it is ingress, and egress when there is a rule for it."""
    assert policy_types(spec) == types
    found = judge(World(NAMESPACES, [policy(**spec)]), Connection(WEB, TELLER, 80))
    assert bool(found.egress.selected_by) is ("Egress" in types)


def test_egress_and_ingress_are_both_needed() -> None:
    """Both the source's and the destination's side must allow a connection."""
    out = policy(
        "out", policyTypes=["Egress"], egress=[{"to": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]
    )
    closed = policy("in", "bank", ingress=[])
    assert judge(World(NAMESPACES, [out]), Connection(WEB, TELLER, 80)).verdict == "allowed"
    found = judge(World(NAMESPACES, [out, closed]), Connection(WEB, TELLER, 80))
    assert (found.egress.verdict, found.ingress.verdict, found.verdict) == ("allowed", "denied", "denied")


@pytest.mark.parametrize(
    ("peer", "from_cache", "from_teller", "from_outside"),
    [
        ({"podSelector": {}}, "allowed", "denied", "denied"),
        ({"podSelector": {"matchLabels": {"app": "teller"}}}, "denied", "denied", "denied"),
        ({"namespaceSelector": {}}, "allowed", "allowed", "denied"),
        ({"namespaceSelector": {"matchLabels": {"team": "b"}}}, "denied", "allowed", "denied"),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "cache"}}}, "allowed", "denied", "denied"),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, "allowed", "denied", "allowed"),
        ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24"]}}, "allowed", "denied", "denied"),
        ({"ipBlock": {"cidr": "::/0"}}, "denied", "allowed", "denied"),
    ],
)
def test_v10_peers(peer: dict[str, Any], from_cache: str, from_teller: str, from_outside: str) -> None:
    """Selectors of one peer hold together; blocks are of one family, without what is excepted."""
    assert [lets(peer, one) for one in (CACHE, TELLER, OUTSIDE)] == [from_cache, from_teller, from_outside]


@pytest.mark.parametrize(
    ("requirement", "from_teller", "from_bare"),
    [
        ({"key": "team", "operator": "In", "values": ["b", "c"]}, "allowed", "denied"),
        # What lacks the key is selected too; the oracle of tests/integration/isolation says otherwise, wrongly.
        ({"key": "team", "operator": "NotIn", "values": ["c"]}, "allowed", "allowed"),
        ({"key": "team", "operator": "NotIn", "values": ["b"]}, "denied", "allowed"),
        ({"key": "team", "operator": "Exists"}, "allowed", "denied"),
        ({"key": "team", "operator": "DoesNotExist"}, "denied", "allowed"),
    ],
)
def test_expressions(requirement: dict[str, Any], from_teller: str, from_bare: str) -> None:
    """The four operators of LabelSelectorRequirement."""
    selector = {"namespaceSelector": {"matchExpressions": [requirement]}}
    assert [lets(selector, one) for one in (TELLER, BARE)] == [from_teller, from_bare]


def test_a_label_that_is_missing_is_not_an_empty_one() -> None:
    """The oracle takes one for the other, wrongly."""
    selector = {"namespaceSelector": {"matchLabels": {"zone": ""}}}
    assert [lets(selector, one) for one in (CACHE, BARE)] == ["allowed", "denied"]


@pytest.mark.parametrize(
    ("port", "tcp_8080", "udp_53", "sctp_9000"),
    [
        ({}, "allowed", "denied", "denied"),
        ({"protocol": "SCTP"}, "denied", "denied", "allowed"),
        ({"port": 8080}, "allowed", "denied", "denied"),
        ({"port": 53}, "denied", "denied", "denied"),
        ({"port": 53, "protocol": "UDP"}, "denied", "allowed", "denied"),
        ({"port": "http"}, "allowed", "denied", "denied"),
        ({"port": "dns"}, "denied", "denied", "denied"),
        ({"port": "dns", "protocol": "UDP"}, "denied", "allowed", "denied"),
        ({"port": 8000, "endPort": 8080}, "allowed", "denied", "denied"),
        ({"port": 8000, "endPort": 8079}, "denied", "denied", "denied"),
        ({"port": 53, "endPort": 53, "protocol": "UDP"}, "denied", "allowed", "denied"),
    ],
)
def test_ports(port: dict[str, Any], tcp_8080: str, udp_53: str, sctp_9000: str) -> None:
    """A protocol that is not stated is TCP, a port that is not stated is each; both ends of a range are in it."""
    asked = ((8080, "TCP"), (53, "UDP"), (9000, "SCTP"))
    found = [into({"ports": [port]}, port=number, protocol=name).verdict for number, name in asked]
    assert found == [tcp_8080, udp_53, sctp_9000]


def test_a_named_port_is_the_receivers() -> None:
    """A name means what the containers of the receiving pod call so, and nothing of an address outside."""
    world = World(NAMESPACES, [policy(policyTypes=["Egress"], egress=[{"ports": [{"port": "http"}]}])])
    assert judge(world, Connection(CACHE, WEB, 8080)).verdict == "allowed"
    assert judge(world, Connection(WEB, CACHE, 8080)).verdict == "denied"
    assert judge(world, Connection(CACHE, OUTSIDE, 8080)).verdict == "denied"


@pytest.mark.parametrize("rule", [{}, {"from": []}, {"from": [], "ports": []}, {"from": None, "ports": None}])
def test_a_rule_that_names_nobody_lets_everybody_in(rule: dict[str, Any]) -> None:
    """Empty or missing from, and empty or missing ports, match all."""
    sources: tuple[End, ...] = (CACHE, TELLER, OUTSIDE, Node("n2", "172.16.0.2"))
    assert [into(rule, source=one).verdict for one in sources] == ["allowed"] * 4


def test_what_cannot_be_closed_is_allowed() -> None:
    """A pod to itself, and the node it runs on; what is outside has no policies."""
    assert into(source=WEB).verdict == "allowed"
    assert into(source=Node("n1", "172.16.0.1")).verdict == "allowed"
    assert judge(World(NAMESPACES, [policy(ingress=[])]), Connection(WEB, OUTSIDE, 443)).verdict == "allowed"


def test_what_the_api_leaves_open_is_undetermined_and_says_why() -> None:
    """Never a guess: nodes, pods in their network, other protocols, an address that nobody knows."""
    on_node = Pod("shop", "agent", {"app": "cache"}, "172.16.0.2", host_network=True)
    some: dict[str, Any] = {"from": [{"podSelector": {}}]}
    block = {"from": [{"ipBlock": {"cidr": "172.16.0.0/12"}}]}
    for found in (
        into(some, source=on_node), into(block, source=on_node), into(to=on_node, source=WEB),
        into(block, source=Node("n2", "172.16.0.2")), into(some, source=Node("n2", "172.16.0.2")),
        into({}, protocol="ICMP"), into(block, source=Pod("bank", "new", {})),
    ):  # fmt: skip
        assert found.verdict == "undetermined"
        assert found.ingress.reason
    # With nothing to be matched, or nothing that selects, both readings agree.
    assert into(source=on_node).verdict == "denied"
    assert judge(World(NAMESPACES, []), Connection(on_node, WEB, 80, "ICMP")).verdict == "allowed"
    # One side that denies is enough.
    worlds = World(NAMESPACES, [policy(ingress=[block]), policy("out", "bank", policyTypes=["Egress"])])
    assert judge(worlds, Connection(Pod("bank", "new", {}), WEB, 80)).verdict == "denied"


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]},
        {"from": [{"ipBlock": {"cidr": "ten"}}]},
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]},
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}]},
        {"ports": [{"port": "http", "endPort": 9}]},
        {"ports": [{"endPort": 9}]},
        {"ports": [{"port": 9, "endPort": 8}]},
    ],
)
def test_v16_what_no_api_server_stores_is_refused(rule: dict[str, Any]) -> None:
    """It is an error with a code, and never read as something else."""
    with pytest.raises(CellwardError) as caught:
        into(rule)
    assert caught.value.code == "isolation/bad-policy"
