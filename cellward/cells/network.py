"""Isolation intent of a cell, and the NetworkPolicies it becomes.

Both ways everything is closed; then open: traffic within the cell, DNS, each endpoint from as far as its visibility
says, each connection to its peer, the scrape port to the agent's namespace. An edge needs both sides, the caller's
connection and the callee's visibility, each from that side's own signed release. Ports are *pod* ports. Peers that are
cells are selected by their stamp and by labels that only the agent may write on namespaces; others by the name label
that the API server writes.

Every object carries every field, because a forced apply takes back only fields that it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cellward.cells import labels
from cellward.cells.metadata import metadata_within
from cellward.cells.model import CellSpec, Connection
from cellward.cells.spec import spec_of
from cellward.cells.stamps import Stamps
from cellward.cells.validate import users_of
from cellward.documents.model import Release

DNS_NAMESPACE = "kube-system"
DNS_POD_LABELS: Mapping[str, str] = {"k8s-app": "kube-dns"}
#: NodeLocal DNS answers from the node's network at this address, so no pod selector matches it.
NODE_LOCAL_DNS = "169.254.20.10/32"
#: Where the agent runs, which scrapes.
AGENT_NAMESPACE = "cellward-system"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """One port."""

    port: int
    protocol: str


@dataclass(frozen=True, slots=True)
class SameCell:
    """Any pod of the cell itself."""


@dataclass(frozen=True, slots=True)
class CellsOf:
    """Any pod of any cell of one environment; of one project, or of every project when that is None."""

    environment: str
    project: str | None


@dataclass(frozen=True, slots=True)
class CellComponent:
    """The pods of one component of another cell."""

    project: str
    cell: str
    environment: str
    component: str


@dataclass(frozen=True, slots=True)
class NamespacePods:
    """Pods of a namespace that is no cell, chosen by labels; all of them when there are none."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Addresses:
    """An address range without some addresses."""

    cidr: str
    excluded: tuple[str, ...] = ()


Peer: TypeAlias = SameCell | CellsOf | CellComponent | NamespacePods | Addresses


@dataclass(frozen=True, slots=True)
class Edge:
    """One thing that is open.

    ``components`` is the cell's own side, all its pods when empty; ``ports`` are pod ports on the receiving side, all
    ports when empty; ``name`` is also the name of the NetworkPolicy.
    """

    name: str
    direction: Literal["ingress", "egress"]
    components: tuple[str, ...]
    peers: tuple[Peer, ...]
    ports: tuple[PortRange, ...]


@dataclass(frozen=True, slots=True)
class NetworkIntent:
    """Who may talk to whom; what is not an edge is closed."""

    project: str
    cell: str
    environment: str
    edges: tuple[Edge, ...]

    @property
    def namespace(self) -> str:
        """The cell's namespace."""
        return labels.namespace_of(self.project, self.cell, self.environment)


def intent(release: Release, environment: str) -> NetworkIntent:
    """Return the intent of a release in an environment; raises what ``spec_of`` raises."""
    return intent_of(spec_of(release), release.project, release.cell, environment)


def intent_of(spec: CellSpec, project: str, cell: str, environment: str) -> NetworkIntent:
    """Return the intent of a spec that was read already, edges ordered by name."""
    edges = [
        Edge("allow-within-cell", "ingress", (), (SameCell(),), ()),
        Edge("allow-within-cell-out", "egress", (), (SameCell(),), ()),
        _dns(),
        *_endpoints(spec, project, environment),
        *_connections(spec, environment),
        *_scrapes(spec),
    ]
    return NetworkIntent(project, cell, environment, tuple(sorted(edges, key=lambda edge: edge.name)))


def to_network_policies(network: NetworkIntent, stamps: Stamps) -> tuple[dict[str, Any], ...]:
    """Return the NetworkPolicies of an intent: ``default-deny`` first, then one per edge."""
    return (default_deny(network), *(stamps.restamp(_edge_policy(network, edge)) for edge in network.edges))


def default_deny(network: NetworkIntent) -> dict[str, Any]:
    """Return the policy that closes a cell both ways."""
    return _policy(network, "default-deny", {}, [], [])


def _dns() -> Edge:
    cluster = NamespacePods(DNS_NAMESPACE, tuple(sorted(DNS_POD_LABELS.items())))
    ports = (PortRange(53, "TCP"), PortRange(53, "UDP"))
    return Edge("allow-dns", "egress", (), (cluster, Addresses(NODE_LOCAL_DNS)), ports)


def _endpoints(spec: CellSpec, project: str, environment: str) -> Iterable[Edge]:
    for name, endpoint in spec.endpoints.items():
        if endpoint.visibility == "cell":
            continue
        port = spec.components[endpoint.component].ports[endpoint.port]
        # "public" waits for a gateway that is declared and signed; until then it reaches as far as "organization".
        reach = project if endpoint.visibility == "project" else None
        yield Edge(
            f"endpoint.{name}", "ingress", (endpoint.component,), (CellsOf(environment, reach),),
            (PortRange(port.port, port.protocol),),
        )  # fmt: skip


def _connections(spec: CellSpec, environment: str) -> Iterable[Edge]:
    for connection in spec.connections:
        users = () if connection.components is None else users_of(spec, connection)
        if connection.external is not None:
            yield from _external(connection, users)
        elif connection.resolved is not None:
            peer = connection.resolved
            yield Edge(
                f"connection.{peer.project}.{peer.cell}.{connection.endpoint}", "egress", users,
                (CellComponent(peer.project, peer.cell, environment, peer.component),),
                (PortRange(peer.pod_port, peer.protocol),),
            )  # fmt: skip


def _external(connection: Connection, users: tuple[str, ...]) -> Iterable[Edge]:
    external = connection.external
    if external is None or external.cidr is None:
        return  # a host name is a reported condition: NetworkPolicy knows addresses only
    short = hashlib.sha256(external.cidr.encode()).hexdigest()[:10]
    ports = tuple(sorted(PortRange(port.port, port.protocol) for port in external.ports))
    peer = Addresses(external.cidr, tuple(metadata_within(external.cidr)))
    yield Edge(f"external.{short}", "egress", users, (peer,), ports)


def _scrapes(spec: CellSpec) -> Iterable[Edge]:
    for name, component in spec.components.items():
        if component.scrape is not None:
            port = component.ports[component.scrape.port]
            yield Edge(
                f"scrape.{name}", "ingress", (name,), (NamespacePods(AGENT_NAMESPACE),),
                (PortRange(port.port, port.protocol),),
            )  # fmt: skip


def _edge_policy(network: NetworkIntent, edge: Edge) -> dict[str, Any]:
    rule: dict[str, Any] = {"to" if edge.direction == "egress" else "from": [_peer(peer) for peer in edge.peers]}
    if edge.ports:
        rule["ports"] = [{"port": port.port, "protocol": port.protocol} for port in edge.ports]
    ingress, egress = ([rule], []) if edge.direction == "ingress" else ([], [rule])
    return _policy(network, edge.name, _pods(edge.components), ingress, egress)


def _pods(components: tuple[str, ...]) -> dict[str, Any]:
    if not components:
        return {}
    if len(components) == 1:
        return {"matchLabels": {labels.COMPONENT: components[0]}}
    return {"matchExpressions": [{"key": labels.COMPONENT, "operator": "In", "values": list(components)}]}


def _peer(peer: Peer) -> dict[str, Any]:
    match peer:
        case SameCell():
            return {"podSelector": {}}
        case CellsOf(environment, None):
            namespaces: dict[str, Any] = {
                "matchLabels": {labels.ENVIRONMENT: environment},
                "matchExpressions": [{"key": labels.PROJECT, "operator": "Exists"}],
            }
            return {"namespaceSelector": namespaces, "podSelector": {}}
        case CellsOf(environment, project):
            selected = {labels.ENVIRONMENT: environment, labels.PROJECT: str(project)}
            return {"namespaceSelector": {"matchLabels": selected}, "podSelector": {}}
        case CellComponent(project, cell, environment, component):
            name = labels.namespace_of(project, cell, environment)
            return _in_namespace(name, {"matchLabels": {labels.COMPONENT: component}})
        case NamespacePods(namespace, chosen):
            return _in_namespace(namespace, {"matchLabels": dict(chosen)} if chosen else {})
        case Addresses(cidr, excluded):
            return {"ipBlock": {"cidr": cidr, "except": list(excluded)}} if excluded else {"ipBlock": {"cidr": cidr}}


def _in_namespace(name: str, pods: dict[str, Any]) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {labels.NAMESPACE_NAME: name}}, "podSelector": pods}


def _policy(
    network: NetworkIntent, name: str, pods: dict[str, Any], ingress: list[dict[str, Any]], egress: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name,
            "namespace": network.namespace,
            "labels": labels.cell_labels(network.project, network.cell, network.environment),
        },
        "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress},
    }
