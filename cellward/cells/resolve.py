"""Resolving connections before signing, and the checks that need more than one cell (ADR 0002).

What comes in as known must be specs of releases whose signatures were checked: a port that the hub made up would be
signed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from cellward.cells.errors import BAD_FIELD, DUPLICATE, NOT_VISIBLE, UNKNOWN_TARGET, VERSION_REUSED
from cellward.cells.load import CellManifest
from cellward.cells.model import Cell, CellSpec, Connection, Resolved
from cellward.cells.render import render
from cellward.cells.spec import build_release, parse_spec, spec_to_json
from cellward.cells.stamps import PLACEHOLDER
from cellward.cells.validate import CellName, check_cycles, validate_spec
from cellward.documents.canonical import JSON
from cellward.documents.facts import ClusterFacts

_ORDER = ("cell", "project", "organization", "public")
_TRIAL_ENVIRONMENT = "trial"


def resolve_cells(
    cells: Sequence[Cell | CellManifest], known: Mapping[CellName, Mapping[str, JSON]]
) -> dict[CellName, dict[str, JSON]]:
    """Return the spec to sign of every cell, connections resolved.

    ``known`` holds specs of cells released before, also of those being applied now: a change of what a cell offers or
    needs under the same version is refused. Each result is rendered once on trial, so that nothing is signed that an
    agent could not render.

    Raises cells/duplicate, cells/unknown-target, cells/not-visible, cells/cycle, cells/version-reused and what
    ``validate_spec`` and ``render`` raise.
    """
    mine = _own(cells)
    before = {key: parse_spec(spec, f"released cell {'/'.join(key)}") for key, spec in known.items()}
    everything = before | {key: cell.spec for key, (cell, _) in mine.items()}
    result: dict[CellName, dict[str, JSON]] = {}
    for key, (cell, where) in mine.items():
        validate_spec(cell.spec, where)
        if key in before:
            _check_version(cell.spec, before[key], where)
        connections = [
            _resolve(key, connection, everything, f"{where}: spec.connections.{index}")
            for index, connection in enumerate(cell.spec.connections)
        ]
        _check_twice(connections, where)
        spec = spec_to_json(cell.spec.model_copy(update={"connections": connections}))
        _try(cell, spec)
        result[key] = spec
    check_cycles({key: set(_needs(key, spec)) for key, spec in everything.items()})
    return result


def _own(cells: Iterable[Cell | CellManifest]) -> dict[CellName, tuple[Cell, str]]:
    mine: dict[CellName, tuple[Cell, str]] = {}
    for item in cells:
        cell = item.cell if isinstance(item, CellManifest) else item
        where = f"cell {'/'.join(cell.key)}"
        if isinstance(item, CellManifest):
            where = f"{item.source}, document {item.index + 1}"
        if cell.key in mine:
            raise DUPLICATE(f"{where}: cell {'/'.join(cell.key)} is already defined in {mine[cell.key][1]}")
        mine[cell.key] = (cell, where)
    return mine


def _resolve(key: CellName, connection: Connection, everything: Mapping[CellName, CellSpec], at: str) -> Connection:
    if connection.resolved is not None:
        raise BAD_FIELD(f"{at}.resolved: is filled in when the release is signed", field=f"{at}.resolved")
    if connection.external is not None or connection.cell is None or connection.endpoint is None:
        return connection
    peer = (connection.project or key[0], connection.cell)
    spec = everything.get(peer)
    if peer == key:
        raise UNKNOWN_TARGET(f"{at}: a cell needs no connection to itself")
    if spec is None:
        raise UNKNOWN_TARGET(f"{at}.cell: there is no cell {'/'.join(peer)}")
    endpoint = spec.endpoints.get(connection.endpoint)
    if endpoint is None:
        raise UNKNOWN_TARGET(f"{at}.endpoint: cell {'/'.join(peer)} offers no endpoint {connection.endpoint!r}")
    needed = "project" if peer[0] == key[0] else "organization"
    if _ORDER.index(endpoint.visibility) < _ORDER.index(needed):
        raise NOT_VISIBLE(
            f"{at}.endpoint: {connection.endpoint!r} of cell {'/'.join(peer)} has visibility {endpoint.visibility}, "
            f"{needed} is needed"
        )
    component = spec.components.get(endpoint.component)
    port = None if component is None else component.ports.get(endpoint.port)
    if port is None:
        raise UNKNOWN_TARGET(f"{at}.endpoint: {connection.endpoint!r} of cell {'/'.join(peer)} leads nowhere")
    resolved = Resolved.model_validate(
        {
            "project": peer[0],
            "cell": peer[1],
            "component": endpoint.component,
            "service": endpoint.component,
            "servicePort": port.exposed,
            "podPort": port.port,
            "protocol": port.protocol,
        }
    )
    return connection.model_copy(update={"resolved": resolved})


def _check_twice(connections: Sequence[Connection], where: str) -> None:
    """Refuse one peer under two spellings, with its project and without: only one of their edges would be opened."""
    peers: set[tuple[str, str, str | None]] = set()
    for index, connection in enumerate(connections):
        if connection.resolved is None:
            continue
        peer = (connection.resolved.project, connection.resolved.cell, connection.endpoint)
        if peer in peers:
            raise DUPLICATE(f"{where}: spec.connections.{index}: {'/'.join(peer[:2])} {peer[2]} is connected to twice")
        peers.add(peer)


def _needs(key: CellName, spec: CellSpec) -> Iterable[CellName]:
    return ((item.project or key[0], item.cell) for item in spec.connections if item.cell is not None)


def _check_version(new: CellSpec, old: CellSpec, where: str) -> None:
    if new.version == old.version and _contract(new) != _contract(old):
        raise VERSION_REUSED(f"{where}: version {new.version} was released with other endpoints or connections")


def _contract(spec: CellSpec) -> object:
    """Return what a cell offers and needs, in comparable form."""
    offers = {
        name: (endpoint.model_dump(), spec.components[endpoint.component].ports[endpoint.port].model_dump())
        for name, endpoint in spec.endpoints.items()
    }
    needs = sorted(repr(item.model_dump(exclude={"resolved", "env"})) for item in spec.connections)
    return offers, needs


def _try(cell: Cell, spec: Mapping[str, JSON]) -> None:
    """Render once in an environment that does not exist."""
    moment = datetime.fromtimestamp(0, UTC)
    release = build_release(cell, spec, realm="sha256:" + "0" * 64, issued_at=moment)
    facts = ClusterFacts(name="trial", uid="trial", environments=(_TRIAL_ENVIRONMENT,), production=True)
    render(release, facts, _TRIAL_ENVIRONMENT, PLACEHOLDER)
