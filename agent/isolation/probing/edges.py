"""Which edges of a cell are tried, and what each should be; pure.

Invariants:

- ``expected`` comes from the accepted intents of both sides alone: an edge is open when the caller connects to it and
  the callee shows it, and anything else is closed (V10).
- A forbidden edge counts as proof only where something listens that is known to answer somebody else (``sure``): a
  closed port that nobody listens on proves nothing.
- What is not tried, for the bounds or because nothing is known to answer there, is counted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cellward.cells.metadata import METADATA_ADDRESSES
from cellward.cells.network import (
    AGENT_NAMESPACE,
    Addresses,
    CellComponent,
    CellsOf,
    Edge,
    NamespacePods,
    NetworkIntent,
    PortRange,
)

#: On which the responder in a cell answers. No edge of a cell is asked to leave it alone: it is judged like any other.
RESPONDER_PORT: Final = 17445
#: Label value of pods that stand for whatever part of a cell no edge names.
NO_COMPONENT: Final = "cellward-probe"
#: Bounds of one probe: kinds of callers, and edges of each. The rest is counted and said.
MAX_CALLERS: Final = 4
MAX_TARGETS: Final = 48
KUBELET_PORT: Final = 10250
METADATA_PORT: Final = 80

How = Literal["tcp", "echo", "udp", "dns"]


@dataclass(frozen=True, slots=True)
class Target:
    """One edge to try.

    Attributes:
        peer: the other side in words.
        host: an address, or ``NODE`` or ``RESOLVER``, which only the pod knows.
        port: on the receiving side.
        how: what is sent; see ``prober/main.go``.
        expected: what the accepted intents say.
        sure: whether it is known that somebody listens there.
    """

    peer: str
    host: str
    port: int
    how: How
    expected: Literal["open", "closed"]
    sure: bool

    @property
    def protocol(self) -> Literal["TCP", "UDP"]:
        """Transport."""
        return "UDP" if self.how in {"udp", "dns"} else "TCP"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a cell that is ready.

    Attributes:
        component: of the cell.
        address: its own.
        node: where it runs.
        answers: whether it is ready because a probe of the kubelet was answered; any other is ready once it runs.
    """

    component: str
    address: str
    node: str = ""
    answers: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another cell of this cluster, as it was accepted, with the pods that are ready."""

    network: NetworkIntent
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around a cell, as the agent knows it by itself.

    Attributes:
        agent: the agent's own address; empty when it does not run in the cluster.
        agent_port: on which it answers TCP and UDP.
        api: host and port of the API server as pods know it.
        metadata: addresses of metadata services.
        outside: an address outside the cluster, host and port; from the installation.
        neighbours: the other cells.
        reached: hosts and ports of these that the agent itself reached just now.
        beyond: neighbours that were left out.
    """

    agent: str
    agent_port: int
    api: tuple[str, int] | None = None
    metadata: tuple[str, ...] = ()
    outside: tuple[str, int] | None = None
    neighbours: tuple[Neighbour, ...] = ()
    reached: frozenset[tuple[str, int]] = frozenset()
    beyond: int = 0

    @property
    def foreign(self) -> tuple[tuple[str, int], ...]:
        """What may answer or not: metadata services, and what is outside."""
        hosts = tuple((host, METADATA_PORT) for host in self.metadata)
        return hosts if self.outside is None else (*hosts, self.outside)


def metadata_of(address: str) -> tuple[str, ...]:
    """Return where clouds answer with credentials, of the family of an address; of none when there is no address.

    NAT64 twins are left out: a gateway that knows them would have to be there.
    """
    if not address:
        return ()
    version = ipaddress.ip_address(address).version
    known = (ipaddress.ip_network(one) for one in METADATA_ADDRESSES)
    return tuple(
        str(one.network_address)
        for one in known
        if one.version == version and one.num_addresses == 1 and not str(one).startswith("64:ff9b:")
    )


def callers(network: NetworkIntent) -> tuple[tuple[str, ...], int]:
    """Return the components a probe sends from, ``NO_COMPONENT`` first, and how many were left out.

    Components that no egress edge names are all alike.
    """
    named = sorted({name for edge in network.edges if edge.direction == "egress" for name in edge.components})
    kept = named[: MAX_CALLERS - 1]
    return (NO_COMPONENT, *kept), len(named) - len(kept)


def targets(
    network: NetworkIntent, component: str, around: Surroundings, responder: str
) -> tuple[tuple[Target, ...], int]:
    """Return what a pod of ``component`` tries, at most ``MAX_TARGETS``, and how many edges were left out.

    What is forbidden and sure comes first.

    Args:
        network: the accepted intent of the cell.
        component: whose label the pod has.
        around: what is around the cell.
        responder: address of the pod of the same cell that answers.
    """
    cells, mute = _cells(network, component, around.neighbours)
    found = [*_fixed(network, component, around, responder), *cells]
    found.sort(key=lambda one: (not one.sure, one.expected == "open"))
    # One way to see that the pod can send at all stays: without, what is closed to it proves nothing.
    kept = found[:MAX_TARGETS]
    if kept != found and all(one.expected == "closed" for one in kept):
        kept[-1:] = [one for one in found if one.expected == "open"][:1] or kept[-1:]
    return tuple(kept), len(found) - len(kept) + mute


def entrances(network: NetworkIntent, pods: Sequence[Pod], responder: str) -> tuple[Target, ...]:
    """Return what the agent tries from its own namespace, which is no cell: any pod, and each port that is shown.

    A port that the agent may scrape is left out.
    """
    found = [
        Target("", responder, RESPONDER_PORT, "echo", "closed", sure=True),
        Target("", responder, RESPONDER_PORT, "udp", "closed", sure=True),
    ]
    found += [
        Target(pod.component, pod.address, port.port, "tcp", "closed", sure=pod.answers)
        for pod in _one_of_each(pods)
        for port in _shown_ports(network, pod.component)
        if port.protocol == "TCP" and not _scraped(network, pod.component, port)
    ]
    return tuple(found[:MAX_TARGETS])


def _scraped(network: NetworkIntent, component: str, port: PortRange) -> bool:
    return any(
        edge.direction == "ingress"
        and _is_of(edge, component)
        and (not edge.ports or port in edge.ports)
        and any(isinstance(peer, NamespacePods) and peer.namespace == AGENT_NAMESPACE for peer in edge.peers)
        for edge in network.edges
    )


def _fixed(network: NetworkIntent, component: str, around: Surroundings, responder: str) -> Iterator[Target]:
    within = _opened(network, "egress", "allow-within-cell-out") and _opened(network, "ingress", "allow-within-cell")
    expected: Literal["open", "closed"] = "open" if within else "closed"
    yield Target("this cell", responder, RESPONDER_PORT, "echo", expected, sure=True)
    yield Target("this cell", responder, RESPONDER_PORT, "udp", expected, sure=True)
    if _opened(network, "egress", "allow-dns"):
        yield Target("DNS", "RESOLVER", 53, "dns", "open", sure=True)
    if around.agent:
        yield Target("the agent", around.agent, around.agent_port, "tcp", "closed", sure=True)
        yield Target("the agent", around.agent, around.agent_port, "udp", "closed", sure=True)
    # The kubelet of the pod's own node: its address is not known before the pod is placed, nor whether it answers pods.
    if not any(_covers(edge, component, None, PortRange(KUBELET_PORT, "TCP")) for edge in _egress(network)):
        yield Target("the node's kubelet", "NODE", KUBELET_PORT, "tcp", "closed", sure=False)
    # The agent talks to the API server all the time.
    hosts = [("the API server", *around.api, True)] if around.api is not None else []
    for host, port in around.foreign:
        peer = "outside" if (host, port) == around.outside else f"metadata {host}"
        hosts.append((peer, host, port, (host, port) in around.reached))
    for peer, host, port, sure in hosts:
        if not _reaches(network, component, host, PortRange(port, "TCP")):
            yield Target(peer, host, port, "tcp", "closed", sure=sure)


def _cells(network: NetworkIntent, component: str, neighbours: Sequence[Neighbour]) -> tuple[list[Target], int]:
    """Return the edges to other cells, and how many ports there are that nothing sent to would be answered."""
    found, mute = [], 0
    for neighbour in neighbours:
        there = neighbour.network
        name = f"{there.project}/{there.cell}/{there.environment}"
        for pod in _one_of_each(neighbour.pods):
            for port in _shown_ports(there, pod.component):
                if port.protocol != "TCP":
                    mute += 1
                    continue
                both = connects(network, component, there, pod.component, port)
                expected: Literal["open", "closed"] = "open" if both else "closed"
                peer = f"{name} {pod.component}"
                found.append(Target(peer, pod.address, port.port, "tcp", expected, sure=pod.answers))
    return found, mute


def connects(here: NetworkIntent, component: str, there: NetworkIntent, peer: str, port: PortRange) -> bool:
    """Whether both sides' intents open an edge between components of two cells."""
    wanted = CellComponent(there.project, there.cell, there.environment, peer)
    leaves = any(_is_of(edge, component) and wanted in edge.peers and port in edge.ports for edge in _egress(here))
    reach = {CellsOf(here.environment, here.project), CellsOf(here.environment, None)}
    enters = any(
        edge.direction == "ingress" and _is_of(edge, peer) and port in edge.ports and reach & set(edge.peers)
        for edge in there.edges
    )
    return leaves and enters


def _reaches(network: NetworkIntent, component: str, host: str, port: PortRange) -> bool:
    """Whether an address range that the cell may talk to holds an address."""
    return any(_covers(edge, component, host, port) for edge in _egress(network))


def _covers(edge: Edge, component: str, host: str | None, port: PortRange) -> bool:
    """Whether an edge opens a port of an address; of None, of any address at all."""
    if not _is_of(edge, component) or (edge.ports and port not in edge.ports):
        return False
    ranges = [peer for peer in edge.peers if isinstance(peer, Addresses)]
    return any(host is None or _within(host, one) for one in ranges)


def _within(host: str, addresses: Addresses) -> bool:
    """Whether a range holds a host; a name may be anywhere, so it counts as held and is not tried."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    excluded = any(address in ipaddress.ip_network(one) for one in addresses.excluded)
    return address in ipaddress.ip_network(addresses.cidr) and not excluded


def _is_of(edge: Edge, component: str) -> bool:
    return not edge.components or component in edge.components


def _egress(network: NetworkIntent) -> Iterable[Edge]:
    return (edge for edge in network.edges if edge.direction == "egress")


def _opened(network: NetworkIntent, direction: str, name: str) -> bool:
    return any(edge.name == name and edge.direction == direction for edge in network.edges)


def _shown_ports(network: NetworkIntent, component: str) -> tuple[PortRange, ...]:
    """Ports of a component that are shown to other cells: somebody listens on them, once its pods are ready."""
    return tuple(
        sorted(
            {
                port
                for edge in network.edges
                if edge.direction == "ingress" and component in edge.components and edge.name.startswith("endpoint.")
                for port in edge.ports
            }
        )
    )


def _one_of_each(pods: Sequence[Pod]) -> tuple[Pod, ...]:
    """One pod of each component stands for the others, one that is known to answer where there is one."""
    ordered = sorted(pods, key=lambda pod: (pod.answers, pod.address))
    return tuple({pod.component: pod for pod in ordered}.values())
