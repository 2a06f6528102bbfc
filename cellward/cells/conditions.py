"""What a release asks for and its isolation objects cannot express: reported, never silently dropped."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cellward.cells.errors import HOST_NAME, PUBLIC_WITHOUT_GATEWAY, WIDE_RANGE
from cellward.cells.model import CellSpec
from cellward.cells.spec import spec_of
from cellward.documents.model import Release

_INSIDE = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)


@dataclass(frozen=True, slots=True)
class CellCondition:
    """One thing to know: ``code`` is stable, ``subject`` is the field, ``message`` says what holds instead."""

    code: str
    subject: str
    message: str


def conditions(release: Release) -> tuple[CellCondition, ...]:
    """Return the conditions of a release, in order of its fields; raises what ``spec_of`` raises."""
    return conditions_of(spec_of(release))


def conditions_of(spec: CellSpec) -> tuple[CellCondition, ...]:
    """Return the conditions of a spec that was read already."""
    found = [
        CellCondition(
            PUBLIC_WITHOUT_GATEWAY.code,
            f"spec.endpoints.{name}",
            "no gateway is declared, so the endpoint is reachable from cells of the environment only",
        )
        for name, endpoint in sorted(spec.endpoints.items())
        if endpoint.visibility == "public"
    ]
    for index, connection in enumerate(spec.connections):
        external = connection.external
        subject = f"spec.connections.{index}"
        if external is not None and external.host is not None:
            text = f"NetworkPolicy cannot express host names, so {external.host} stays closed; name its addresses"
            found.append(CellCondition(HOST_NAME.code, subject, text))
        elif external is not None and external.cidr is not None and _may_be_inside(external.cidr):
            text = f"{external.cidr} can include addresses of the cluster itself, whose own isolation then decides"
            found.append(CellCondition(WIDE_RANGE.code, subject, text))
    return tuple(found)


def _may_be_inside(cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return any(network.version == inside.version and network.overlaps(inside) for inside in _INSIDE)
