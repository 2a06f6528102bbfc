"""What has to be written into whose file for a closed connection to be open; pure.

Both sides open an edge: the caller's connection and the callee's visibility. So there may be two files, of two teams.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cellward.cells.metadata import is_metadata
from cellward.cells.validate import users_of
from cellward.isolation.cells import Member
from cli.isolation.ends import Port

#: How far each visibility reaches; "public" reaches as far as "organization" until there is a gateway.
_REACH: Final = {"cell": 0, "project": 1, "organization": 2, "public": 2}


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a cell."""

    member: Member
    component: str

    @property
    def cell(self) -> str:
        """Its cell, as it is typed."""
        return "/".join(self.member.key[:2])

    @property
    def file(self) -> str:
        """Whose file it is."""
        owner = self.member.release.owner
        return f"in the file of {self.cell}{f' (owner {owner})' if owner else ''}"


def to_open(source: Part, destination: Part, port: Port) -> tuple[str, ...]:
    """Say what opens a component's port to another cell's component, step by step."""
    if source.member.key.environment != destination.member.key.environment:
        return ("nothing: connections stay within one environment",)
    steps = [
        f"lift the quarantine of {part.cell} (`cellward lift`), which the hub imposed"
        for part in (source, destination)
        if part.member.quarantined
    ]
    return (*steps, *_sides(source, destination, port))


def to_open_outside(source: Part, ip: str, port: Port) -> tuple[str, ...]:
    """Say what opens an address to a component."""
    cidr = str(ipaddress.ip_network(ip))
    if is_metadata(cidr):
        return ("nothing: metadata services stay closed",)
    if source.member.quarantined:
        return (f"lift the quarantine of {source.cell} (`cellward lift`), which the hub imposed",)
    wanted = f"external: {{cidr: {cidr!r}, ports: [{{port: {port.number}, protocol: {port.protocol}}}]}}"
    return (f"{source.file}, add to spec.connections: {wanted}; then `cellward apply` it under a new version",)


def to_open_from_outside() -> tuple[str, ...]:
    """Say what opens a component to an address."""
    return ("nothing: endpoints reach cells only; a public one waits for a gateway of its environment",)


def _sides(source: Part, destination: Part, port: Port) -> Iterator[str]:
    """The callee's side first: the caller's names an endpoint of it."""
    spec, same = destination.member.spec, source.member.key.project == destination.member.key.project
    need = "project" if same else "organization"
    leading = {
        name: endpoint
        for name, endpoint in spec.endpoints.items()
        if endpoint.component == destination.component
        and (found := spec.components[endpoint.component].ports[endpoint.port])
        and (found.port, found.protocol) == (port.number, port.protocol)
    }
    name = max(leading, key=lambda one: _REACH[leading[one].visibility], default="")
    if not name:
        yield from _endpoint(destination, port, need)
    elif _REACH[leading[name].visibility] < _REACH[need]:
        yield f"{destination.file}, set spec.endpoints.{name}.visibility to {need}"
    yield from _connection(source, destination, name or "NAME")


def _endpoint(destination: Part, port: Port, need: str) -> Iterator[str]:
    component = destination.member.spec.components.get(destination.component)
    found = component.ports.items() if component is not None else ()
    name = next((name for name, one in found if (one.port, one.protocol) == (port.number, port.protocol)), "")
    if not name:
        name = "PORT"
        yield f"{destination.file}, add to spec.components.{destination.component}.ports: PORT: {{port: {port.number}}}"
    wanted = f"NAME: {{component: {destination.component}, port: {name}, visibility: {need}}}"
    yield f"{destination.file}, add to spec.endpoints: {wanted}"


def _connection(source: Part, destination: Part, endpoint: str) -> Iterator[str]:
    spec, (project, cell, _) = source.member.spec, destination.member.key
    edge = f"connection.{project}.{cell}.{endpoint}"
    if why := source.member.shut.get(edge):
        yield f"{source.file}, raise spec.version and `cellward apply` it: {why}"
        return
    for connection in spec.connections:
        peer = connection.resolved
        if peer is None or (peer.project, peer.cell, connection.endpoint) != (project, cell, endpoint):
            continue
        if source.component not in users_of(spec, connection):
            yield f"{source.file}, add {source.component} to components of the connection to {cell} {endpoint}"
        return
    other = "" if project == source.member.key.project else f"project: {project}, "
    yield f"{source.file}, add to spec.connections: {{{other}cell: {cell}, endpoint: {endpoint}}}"
