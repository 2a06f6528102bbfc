"""Which edges of a cell are tried, and what each should be; pure.

Invariants:

- ``expected`` comes from the accepted intents of both sides alone: an edge is open when the caller connects to it and
  the callee shows it, and anything else is closed (V10).
- A forbidden edge counts as proof only where something listens that was seen to answer somebody else (``sure``): a
  closed port that nobody listens on proves nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cellward.cells.network import (
    Addresses,
    CellComponent,
    CellsOf,
    Edge,
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
    """A pod of a cell that is ready: its component and its address."""

    component: str
    address: str


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
    """

    agent: str
    agent_port: int
    api: tuple[str, int] | None = None
    metadata: tuple[str, ...] = ("169.254.169.254",)
    outside: tuple[str, int] | None = None
    neighbours: tuple[Neighbour, ...] = ()


def callers(network: NetworkIntent) -> tuple[tuple[str, ...], int]:
    """Return the components a probe sends from, ``NO_COMPONENT`` first, and how many were left out.

    Components that no egress edge names are all alike.
    """
    named = sorted({name for edge in network.edges if edge.direction == "egress" for name in edge.components})
    kept = named[: MAX_CALLERS - 1]
    return (NO_COMPONENT, *kept), len(named) - len(kept)


def targets(network: NetworkIntent, component: str, around: Surroundings, responder: str) -> tuple[Target, ...]:
    """Return what a pod of ``component`` tries, at most ``MAX_TARGETS``: what is forbidden and sure comes first.

    Args:
        network: the accepted intent of the cell.
        component: whose label the pod has.
        around: what is around the cell.
        responder: address of the pod of the same cell that answers.
    """
    found = [*_fixed(network, component, around, responder), *_cells(network, component, around.neighbours)]
    found.sort(key=lambda one: (not one.sure, one.expected == "open"))
    return tuple(found[:MAX_TARGETS])


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
    # The kubelet of the pod's own node: its address is not known before the pod is placed.
    if not any(_covers(edge, component, None, PortRange(10250, "TCP")) for edge in _egress(network)):
        yield Target("the node's kubelet", "NODE", 10250, "tcp", "closed", sure=True)
    hosts = [("metadata", host, 80, False) for host in around.metadata]
    hosts += [("the API server", *around.api, True)] if around.api is not None else []
    hosts += [("outside", *around.outside, True)] if around.outside is not None else []
    for peer, host, port, sure in hosts:
        if not _reaches(network, component, host, PortRange(port, "TCP")):
            yield Target(peer, host, port, "tcp", "closed", sure=sure)


def _cells(network: NetworkIntent, component: str, neighbours: Sequence[Neighbour]) -> Iterator[Target]:
    for neighbour in neighbours:
        there = neighbour.network
        name = f"{there.project}/{there.cell}/{there.environment}"
        for pod in _one_of_each(neighbour.pods):
            for port in _shown_ports(there, pod.component):
                if port.protocol != "TCP":
                    continue
                both = connects(network, component, there, pod.component, port)
                expected: Literal["open", "closed"] = "open" if both else "closed"
                yield Target(f"{name} {pod.component}", pod.address, port.port, "tcp", expected, sure=True)


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
    address = ipaddress.ip_address(host)
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
    """One pod of each component stands for the others."""
    return tuple({pod.component: pod for pod in pods}.values())
