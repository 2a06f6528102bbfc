"""What must hold inside one cell beyond single fields, and between cells."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from cellward.cells.errors import (
    BAD_FIELD,
    CYCLE,
    DUPLICATE,
    ENV_COLLISION,
    METADATA_SERVICE,
    UNKNOWN_COMPONENT,
)
from cellward.cells.manifests import check_manifest
from cellward.cells.metadata import is_many_gateways, is_metadata
from cellward.cells.model import CellSpec, Component, Connection

CellName = tuple[str, str]

#: IPv4 addresses in IPv6 dress (RFC 4291 §2.5.5.2): every range above could be written around in it.
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
#: Every namespace has an account of this name, which is not the cell's.
_RESERVED_COMPONENT = "default"
#: The volume of a component's files.
RESERVED_VOLUME = "cellward-config"


def validate_spec(spec: CellSpec, where: str) -> None:
    """Check one cell; raises cells/* with ``where`` and the field's path."""
    for name, component in spec.components.items():
        _check_component(name, component, f"{where}: spec.components.{name}")
    for name, endpoint in spec.endpoints.items():
        at = f"{where}: spec.endpoints.{name}"
        found = spec.components.get(endpoint.component)
        if found is None or not found.serves:
            raise UNKNOWN_COMPONENT(f"{at}.component: {endpoint.component!r} is no component with a Service")
        if endpoint.port not in found.ports:
            raise UNKNOWN_COMPONENT(f"{at}.port: component {endpoint.component!r} has no port {endpoint.port!r}")
    targets: set[tuple[str, ...]] = set()
    for index, connection in enumerate(spec.connections):
        at = f"{where}: spec.connections.{index}"
        _check_connection(spec, connection, at)
        target = _target(connection)
        if target in targets:
            raise DUPLICATE(f"{at}: {' '.join(target)} is connected to twice")
        targets.add(target)
    _check_env(spec, where)


def check_cycles(edges: Mapping[CellName, Iterable[CellName]]) -> None:
    """Refuse circles in who depends on whom; raises cells/cycle naming one."""
    done: set[CellName] = set()
    for start in sorted(edges):
        path: list[CellName] = []
        stack: list[tuple[CellName, bool]] = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(node)
                continue
            if node in path:
                circle = " → ".join("/".join(key) for key in [*path[path.index(node) :], node])
                raise CYCLE(f"these cells depend on each other: {circle}")
            if node in done:
                continue
            path.append(node)
            stack.append((node, True))
            stack.extend((peer, False) for peer in sorted(edges.get(node, ()), reverse=True))


def users_of(spec: CellSpec, connection: Connection) -> tuple[str, ...]:
    """Return the components that may use a connection, in order."""
    return tuple(sorted(spec.components if connection.components is None else connection.components))


def _check_component(name: str, component: Component, at: str) -> None:
    _check_names(name, component, at)
    for kind, numbers in (
        ("port", [(port.port, port.protocol) for port in component.ports.values()]),
        ("servicePort", [(port.exposed, port.protocol) for port in component.ports.values()]),
    ):
        if len(set(numbers)) != len(numbers):
            raise DUPLICATE(f"{at}.ports: two ports have the same {kind}")
    mounts = [volume.mount_path for volume in component.volumes.values()]
    mounts += [] if component.config is None else list(component.config.files)
    if len(set(mounts)) != len(mounts):
        raise DUPLICATE(f"{at}: two volumes or files are mounted at one path")
    if component.scrape is not None and component.scrape.port not in component.ports:
        raise UNKNOWN_COMPONENT(f"{at}.scrape.port: there is no port {component.scrape.port!r}")
    scrape = component.scrape
    if scrape is not None and scrape.metrics and component.ports[scrape.port].protocol != "TCP":
        raise BAD_FIELD(f"{at}.scrape.port: metrics are read over TCP", field=f"{at}.scrape.port")
    if component.probes is not None:
        for kind in ("readiness", "liveness", "startup"):
            probe = getattr(component.probes, kind)
            way = probe and (probe.http or probe.tcp)
            if way and isinstance(way.port, str) and way.port not in component.ports:
                raise UNKNOWN_COMPONENT(f"{at}.probes.{kind}: there is no port {way.port!r}")
    for index, manifest in enumerate(component.manifests):
        check_manifest(manifest, f"{at}.manifests.{index}")


def _check_names(name: str, component: Component, at: str) -> None:
    """Refuse names that every API server would refuse later, or take for something else."""
    if component.type != "manifests" and name == _RESERVED_COMPONENT:
        raise BAD_FIELD(f"{at}: every namespace has an account named {name}; name the component otherwise", field=at)
    if component.serves and not name[0].isalpha():
        raise BAD_FIELD(f"{at}: the name of a Service begins with a letter (RFC 1035)", field=at)
    if RESERVED_VOLUME in component.volumes:
        field = f"{at}.volumes.{RESERVED_VOLUME}"
        raise BAD_FIELD(f"{field}: the component's files are in a volume of this name", field=field)


def _check_connection(spec: CellSpec, connection: Connection, at: str) -> None:
    for name in connection.components or ():
        component = spec.components.get(name)
        if component is None:
            raise UNKNOWN_COMPONENT(f"{at}.components: the cell has no component {name!r}")
        if connection.env is not None and component.type == "manifests":
            raise BAD_FIELD(f"{at}.env: component {name!r} is raw manifests, which receive no variables")
    if len(set(connection.components or ())) != len(connection.components or ()):
        raise DUPLICATE(f"{at}.components: a component is named twice")
    external = connection.external
    if external is None:
        return
    if external.cidr is not None and is_metadata(external.cidr):
        raise METADATA_SERVICE(f"{at}.external.cidr: {external.cidr} is a metadata service")
    if external.cidr is not None and is_many_gateways(external.cidr):
        field = f"{at}.external.cidr"
        raise BAD_FIELD(f"{field}: {external.cidr} holds many NAT64 prefixes; name the /96 of the gateway", field=field)
    if external.cidr is not None and _is_mapped(external.cidr):
        field = f"{at}.external.cidr"
        raise BAD_FIELD(f"{field}: {external.cidr} is an IPv4 range; write it as one", field=field)
    ports = [(port.port, port.protocol) for port in external.ports]
    if len(set(ports)) != len(ports):
        raise DUPLICATE(f"{at}.external.ports: a port is named twice")


def _is_mapped(cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED)  # type: ignore[arg-type]


def _target(connection: Connection) -> tuple[str, ...]:
    if connection.external is not None:
        return ("external", str(connection.external.cidr or connection.external.host))
    return (connection.project or "", str(connection.cell), str(connection.endpoint))


def _check_env(spec: CellSpec, where: str) -> None:
    for name, component in spec.components.items():
        sources: list[str] = [*component.env, *component.secrets]
        sources += [item.env for item in spec.connections if item.env is not None and name in users_of(spec, item)]
        twice = sorted({item for item in sources if sources.count(item) > 1})
        if twice:
            raise ENV_COLLISION(f"{where}: spec.components.{name}: variable {twice[0]} is set by two sources")
