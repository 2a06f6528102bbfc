"""V10: what is expected of an edge comes from both sides' accepted intents, and nothing that is left out is silent."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from agent.isolation.probing import edges
from agent.isolation.probing.edges import (
    MAX_CALLERS,
    MAX_TARGETS,
    NO_COMPONENT,
    Neighbour,
    Pod,
    Surroundings,
    Target,
    callers,
    connects,
    entrances,
    metadata_of,
    targets,
)
from cellward.cells.labels import cell_labels
from cellward.cells.load import load_cells
from cellward.cells.metadata import METADATA_ADDRESSES
from cellward.cells.network import NetworkIntent, PortRange, intent_of, to_network_policies
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release, spec_of
from cellward.cells.stamps import Stamps
from tests.fakes.cell_world import REALM
from tests.fakes.clock import ManualClock

_STAMPS = Stamps.of(b"k" * 32)
_AROUND = Surroundings("10.0.9.9", 7445, api=("10.96.0.1", 443), metadata=("169.254.169.254",))


def _yaml(project: str, name: str, body: str) -> str:
    return (
        f"apiVersion: cellward.dev/v1alpha1\nkind: Cell\nmetadata: {{name: {name}, project: {project}}}\n"
        f"spec:\n  version: 1.0.0\n  owner: team\n{body}"
    )


def _component(name: str, port: int, extra: str = "") -> str:
    return (
        f"    {name}:\n      type: service\n      image: registry.example/x:1\n"
        f"      ports: {{http: {{port: {port}}}}}\n{extra}"
    )


_SHOWN = _yaml(
    "shop", "back",
    "  components:\n" + _component("api", 9000) + _component("inner", 9001)
    + "  endpoints:\n    api: {component: api, port: http, visibility: project}\n",
)  # fmt: skip
_CALLER = _yaml(
    "shop", "front",
    "  components:\n" + _component("web", 8080) + _component("idle", 8081)
    + "  endpoints:\n    web: {component: web, port: http, visibility: organization}\n"
    + "  connections:\n    - {cell: back, endpoint: api, components: [web]}\n",
)  # fmt: skip


def _intents(*texts: str, environment: str = "dev") -> list[NetworkIntent]:
    manifests = [one for text in texts for one in load_cells(text, "test")]
    resolved = resolve_cells(manifests, {})
    found = []
    for one in manifests:
        release = build_release(one.cell, resolved[one.cell.key], realm=REALM, issued_at=ManualClock().now())
        found.append(intent_of(spec_of(release), release.project, release.cell, environment))
    return found


def _expected(found: tuple[Target, ...]) -> dict[tuple[str, int, str], str]:
    return {(one.peer, one.port, one.protocol): one.expected for one in found}


def test_v10_an_edge_is_open_where_both_sides_say_so_and_for_that_component_alone() -> None:
    """The caller's connection names the component; the callee's visibility does the rest."""
    back, front = _intents(_SHOWN, _CALLER)
    pods = (Pod("api", "10.0.1.1", answers=True), Pod("inner", "10.0.1.2", answers=True))
    around = Surroundings("10.0.9.9", 7445, neighbours=(Neighbour(back, pods),))
    edge = ("shop/back/dev api", 9000, "TCP")
    for component, wanted in (("web", "open"), ("idle", "closed"), (NO_COMPONENT, "closed")):
        found, left_out = targets(front, component, around, "10.0.0.1")
        assert _expected(found)[edge] == wanted
        assert left_out == 0
    # What is not shown is not known to listen; the policies of its cell are tried by the shown one.
    assert not any(one.peer == "shop/back/dev inner" for one in found)


def test_v10_the_other_environment_is_closed_whatever_it_is_called_here() -> None:
    """An edge of development opens nothing to production."""
    (back,) = _intents(_SHOWN, environment="prod")
    front = _intents(_SHOWN, _CALLER)[1]
    assert not connects(front, "web", back, "api", PortRange(9000, "TCP"))


def test_v9_everything_beyond_the_cell_is_tried() -> None:
    """The agent by TCP and UDP, the API server, the node, metadata; DNS and the cell itself are open."""
    front = _intents(_SHOWN, _CALLER)[1]
    found, _ = targets(front, NO_COMPONENT, _AROUND, "10.0.0.1")
    assert _expected(found) == {
        ("this cell", 17445, "TCP"): "open", ("this cell", 17445, "UDP"): "open", ("DNS", 53, "UDP"): "open",
        ("the agent", 7445, "TCP"): "closed", ("the agent", 7445, "UDP"): "closed",
        ("the API server", 443, "TCP"): "closed", ("the node's kubelet", 10250, "TCP"): "closed",
        ("metadata 169.254.169.254", 80, "TCP"): "closed",
    }  # fmt: skip


def test_v9_nobody_known_to_answer_is_no_proof() -> None:
    """Metadata and outside count once the agent reached them; pods once a kubelet was answered; the node never."""
    back, front = _intents(_SHOWN, _CALLER)
    for reached in (frozenset(), frozenset({("169.254.169.254", 80), ("203.0.113.7", 443)})):
        for answers in (False, True):
            around = Surroundings(
                "10.0.9.9", 7445, api=("10.96.0.1", 443), metadata=("169.254.169.254",), outside=("203.0.113.7", 443),
                neighbours=(Neighbour(back, (Pod("api", "10.0.1.1", answers=answers),)),), reached=reached,
            )  # fmt: skip
            sure = {one.peer: one.sure for one in targets(front, "idle", around, "10.0.0.1")[0]}
            assert sure["the agent"]
            assert sure["the API server"]
            assert not sure["the node's kubelet"]
            assert sure["outside"] == sure["metadata 169.254.169.254"] == bool(reached)
            assert sure["shop/back/dev api"] is answers


def test_in_quarantine_nothing_is_expected_to_be_open() -> None:
    """Without edges the cell's own pods are closed to each other, too."""
    closed = NetworkIntent("shop", "front", "dev", ())
    found, _ = targets(closed, NO_COMPONENT, _AROUND, "10.0.0.1")
    assert {one.expected for one in found} == {"closed"}


def test_what_is_left_out_is_counted_and_one_way_to_see_that_a_pod_can_send_stays() -> None:
    """The budget cuts what proves least first."""
    back, front = _intents(_SHOWN, _CALLER)
    many = tuple(
        Neighbour(NetworkIntent("shop", f"c{n}", "dev", back.edges), (Pod("api", f"10.1.0.{n}", answers=True),))
        for n in range(MAX_TARGETS + 20)
    )
    around = Surroundings("10.0.9.9", 7445, api=("10.96.0.1", 443), neighbours=many)
    found, left_out = targets(front, "idle", around, "10.0.0.1")
    whole = len(many) + 7
    assert len(found) == MAX_TARGETS
    assert left_out == whole - MAX_TARGETS
    assert sum(one.expected == "open" for one in found) == 1
    names = [f"part-{n}" for n in range(9)]
    edge = next(one for one in front.edges if one.direction == "egress" and one.components == ("web",))
    wide = NetworkIntent("shop", "x", "dev", tuple(edges.Edge(n, "egress", (n,), edge.peers, ()) for n in names))
    parts, more = callers(wide)
    assert len(parts) == MAX_CALLERS
    assert parts[0] == NO_COMPONENT
    assert more == len(names) - (MAX_CALLERS - 1)


def test_udp_ports_of_others_are_counted_not_tried() -> None:
    """Nothing is known that the program behind one would answer."""
    back, front = _intents(_SHOWN.replace("{port: 9000}", "{port: 9000, protocol: UDP}"), _CALLER)
    around = Surroundings("10.0.9.9", 7445, neighbours=(Neighbour(back, (Pod("api", "10.0.1.1"),)),))
    found, left_out = targets(front, "idle", around, "10.0.0.1")
    assert left_out == 1
    assert not any("back" in one.peer for one in found)


def test_v9_the_agent_tries_every_shown_port_but_what_it_scrapes() -> None:
    """Its namespace is no cell, so an endpoint of any visibility is closed to it."""
    front = _intents(_SHOWN, _CALLER)[1]
    pods = (Pod("web", "10.0.2.2"), Pod("web", "10.0.2.1", answers=True), Pod("idle", "10.0.2.3", answers=True))
    found = entrances(front, pods, "10.0.0.1")
    assert [(one.peer, one.host, one.port, one.how, one.sure) for one in found] == [
        ("", "10.0.0.1", 17445, "echo", True),
        ("", "10.0.0.1", 17445, "udp", True),
        ("web", "10.0.2.1", 8080, "tcp", True),
    ]
    scraped = _intents(
        _SHOWN, _CALLER.replace("{http: {port: 8080}}", "{http: {port: 8080}}\n      scrape: {port: http}")
    )
    assert len(entrances(scraped[1], pods, "10.0.0.1")) == 2


def test_addresses_of_metadata_are_of_the_family_of_the_pods() -> None:
    """Every one that isolation leaves out of connections is tried, but for translated twins."""
    old, new = metadata_of("10.0.0.1"), metadata_of("fd00::1")
    assert "169.254.169.254" in old
    assert "fd00:ec2::254" in new
    known = {one.split("/")[0] for one in METADATA_ADDRESSES if not one.startswith("64:ff9b:")}
    assert {*old, *new} == known
    assert metadata_of("") == ()


def test_an_api_server_with_a_name_is_not_tried_where_an_address_range_is_open() -> None:
    """A name may be in any range; without one it is closed like an address (V16: and nobody stumbles over it)."""
    front = _intents(_SHOWN, _CALLER)[1]
    around = Surroundings("10.0.9.9", 7445, api=("api.example.test", 443))
    assert _expected(targets(front, "web", around, "10.0.0.1")[0])["the API server", 443, "TCP"] == "closed"
    outward = _CALLER + "    - {external: {cidr: 203.0.113.0/24, ports: [{port: 443}]}}\n"
    wide = _intents(_SHOWN, outward)[1]
    found = targets(wide, "web", around, "10.0.0.1")[0]
    assert not any(one.peer == "the API server" for one in found)


# -- property: what is expected is what the rendered policies say, asked another way ----------------------------------


def _random_cells(chance: random.Random) -> list[NetworkIntent]:
    names = ["a", "b", "c"]
    texts = []
    for index, name in enumerate(names):
        body = "  components:\n" + "".join(_component(f"p{n}", 7000 + n) for n in range(3))
        visibility = [chance.choice(["cell", "project", "organization"]) for _ in range(2)]
        body += "  endpoints:\n" + "".join(
            f"    e{n}: {{component: p{n}, port: http, visibility: {seen}}}\n" for n, seen in enumerate(visibility)
        )
        # Cells call earlier ones only: there is no cycle.
        calls = [
            (peer, n) for peer in names[:index] for n in range(2) if chance.random() < 0.6 and _shown(texts, peer, n)
        ]
        if calls:
            body += "  connections:\n"
        for peer, n in calls:
            parts = chance.sample(["p0", "p1", "p2"], chance.randint(1, 3))
            body += f"    - {{cell: {peer}, endpoint: e{n}, components: [{', '.join(parts)}]}}\n"
        texts.append(_yaml("shop", name, body))
    return _intents(*texts)


def _shown(texts: list[str], peer: str, number: int) -> bool:
    text = next(one for one in texts if f"name: {peer}," in one)
    return f"e{number}: {{component: p{number}, port: http, visibility: cell}}" not in text


def _selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    matched = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    for one in selector.get("matchExpressions") or ():
        value = labels.get(one["key"])
        matched = matched and (value in one["values"] if one["operator"] == "In" else value is not None)
    return matched


def _opens(network: NetworkIntent, way: str, own: str, other: NetworkIntent, part: str, port: int) -> bool:
    """Whether the policies of one side let a packet through."""
    space = {
        **cell_labels(other.project, other.cell, other.environment),
        **_STAMPS.of_namespace(other.project),
        "kubernetes.io/metadata.name": other.namespace,
    }
    rules = [
        rule
        for policy in to_network_policies(network, _STAMPS)
        if _selected(policy["spec"]["podSelector"], {"cellward.dev/component": own})
        for rule in policy["spec"][way]
        if not rule.get("ports") or {"port": port, "protocol": "TCP"} in rule["ports"]
    ]
    peers = [peer for rule in rules for peer in rule["to" if way == "egress" else "from"]]
    return any(
        "namespaceSelector" in peer
        and _selected(peer["namespaceSelector"], space)
        and _selected(peer.get("podSelector") or {}, {"cellward.dev/component": part})
        for peer in peers
    )


def _policies_open(here: NetworkIntent, component: str, there: NetworkIntent, peer: str, port: int) -> bool:
    """Whether rendered NetworkPolicies let a packet through, by the rules of Kubernetes alone."""
    leaves = _opens(here, "egress", component, there, peer, port)
    return leaves and _opens(there, "ingress", peer, here, component, port)


@pytest.mark.parametrize("seed", range(25))
def test_v10_what_is_expected_is_what_the_policies_say(seed: int) -> None:
    """Of generated cells, every pair of components: the intent's answer and that of the rendered policies agree.

    A callee's accepted release may be another than the caller was signed for, and show less.
    """
    cells = _random_cells(random.Random(seed))
    later = _random_cells(random.Random(seed + 1000))
    seen = set()
    for here in cells:
        for there in [*cells, *later]:
            if here.cell == there.cell:
                continue
            for component in ("p0", "p1", "p2", NO_COMPONENT):
                for number in range(3):
                    port = PortRange(7000 + number, "TCP")
                    said = connects(here, component, there, f"p{number}", port)
                    assert said == _policies_open(here, component, there, f"p{number}", port.port)
                    seen.add(said)
    assert False in seen


def test_the_generated_cells_have_open_edges_too() -> None:
    """Else the property would hold of a function that says closed of everything."""
    cells = [_random_cells(random.Random(seed)) for seed in range(25)]
    opened = [
        connects(a, f"p{one}", b, f"p{other}", PortRange(7000 + other, "TCP"))
        for found in cells for a in found for b in found if a is not b for one in range(3) for other in range(2)
    ]  # fmt: skip
    assert sum(opened) > 25
