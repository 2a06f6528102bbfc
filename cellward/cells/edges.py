"""Whether the two sides of an edge say the same; pure.

A caller's release carries the callee's ports as they were when it was signed (ADR 0002). Where that came from an old or
invented release of the callee, the port may be another endpoint's by now, which the callee opens for other reasons. So
an edge is open only while the callee's accepted release on this cluster offers what the caller's was signed for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cellward.cells.model import CellSpec


@dataclass(frozen=True, slots=True)
class Offer:
    """One endpoint of a cell and where it leads."""

    endpoint: str
    component: str
    service_port: int
    pod_port: int
    protocol: str

    def __str__(self) -> str:
        return f"port {self.pod_port}/{self.protocol} of {self.component} (service port {self.service_port})"


@dataclass(frozen=True, slots=True)
class Need:
    """One connection of a cell to another, as it was signed."""

    project: str
    cell: str
    offer: Offer

    @property
    def edge(self) -> str:
        """Name of the edge, and of its NetworkPolicy."""
        return f"connection.{self.project}.{self.cell}.{self.offer.endpoint}"


def offers_of(spec: CellSpec) -> tuple[Offer, ...]:
    """Return what a cell offers, whoever may reach it."""
    found = []
    for name, endpoint in sorted(spec.endpoints.items()):
        port = spec.components[endpoint.component].ports[endpoint.port]
        found.append(Offer(name, endpoint.component, port.exposed, port.port, port.protocol))
    return tuple(found)


def needs_of(spec: CellSpec) -> tuple[Need, ...]:
    """Return the connections of a cell to other cells."""
    return tuple(
        Need(
            peer.project, peer.cell,
            Offer(connection.endpoint, peer.component, peer.service_port, peer.pod_port, peer.protocol),
        )
        for connection in spec.connections
        if (peer := connection.resolved) is not None and connection.endpoint is not None
    )  # fmt: skip


def difference(need: Need, offers: Iterable[Offer]) -> str:
    """Return how the callee's offers differ from what the caller was signed for, or an empty text."""
    there = next((offer for offer in offers if offer.endpoint == need.offer.endpoint), None)
    if there is None:
        return f"it was signed for {need.offer}, and what runs there offers no endpoint {need.offer.endpoint}"
    if there != need.offer:
        return f"it was signed for {need.offer}, and what runs there offers {there}"
    return ""
