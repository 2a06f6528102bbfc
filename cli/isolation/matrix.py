"""``cellward isolation matrix``: every cell against every other, by what their NetworkPolicies say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from cli.context import command, local
from cli.isolation.standing import Fleet, Standing, fleet, path_of
from cli.options import DEFAULT_HOME, ClusterOption, EnvironmentOption, HomeOption, OutputOption
from cli.output import Format, put, put_lines, say, short, show_data, show_table
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.isolation.cells import Passage


class MatrixEdge(Shown):
    """One component to one port of another; a port that is closed is not listed."""

    source: str
    destination: str
    port: int
    protocol: str
    verdict: Literal["open", "undetermined"]
    egress: str
    ingress: str


class MatrixPair(Shown):
    """One cell to another on one cluster; ``verdict`` is open when one edge is."""

    cluster: str
    source: str
    destination: str
    verdict: Literal["open", "closed", "undetermined"]
    edges: list[MatrixEdge]


class MatrixCell(Shown):
    """A cell on a cluster: what it was judged by, and what the agent measured, by the hub's word."""

    cluster: str
    cell: str
    version: str
    release: str
    evidence: str
    isolation: str


class Matrix(Shown):
    """The whole table, and what could not be verified."""

    cells: list[MatrixCell]
    pairs: list[MatrixPair]
    unverified: list[str]


@command
def matrix(
    cluster: ClusterOption = None,
    environment: EnvironmentOption = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show which cells may talk to which, on every cluster of the fleet.

    Judged are the NetworkPolicies that agents render from signed releases, verified here; whether packets obey is what
    the agents measure.
    """
    place = local(home)
    found = fleet(place.client(), place.home, clusters=cluster or (), environments=environment or ())
    made = matrix_of(found)
    if output in {Format.json, Format.yaml}:
        show_data(made.model_dump(mode="json", by_alias=True), output)
    elif output is Format.name:
        put_lines(f"pair/{pair.cluster}/{pair.source}/{pair.destination}" for pair in made.pairs)
    else:
        _table(found, made)
    for sentence in made.unverified:
        say(f"not verified: {sentence}")


def matrix_of(found: Fleet) -> Matrix:
    """Return the matrix of a fleet; raises what rendering and isolation/bad-policy raise."""
    cells = [
        MatrixCell(
            cluster=one.cluster, cell=path_of(one.key), version=one.release.version, release=one.digest,
            evidence=one.evidence, isolation=one.isolation,
        )
        for cluster in found.clusters()
        for one in found.on(cluster)
    ]  # fmt: skip
    pairs = [pair for cluster in found.clusters() for pair in _pairs(cluster, found)]
    return Matrix(cells=cells, pairs=pairs, unverified=list(found.unverified))


def _pairs(cluster: str, found: Fleet) -> Iterable[MatrixPair]:
    from cellward.isolation.cells import passages, world_of

    members = found.members(cluster)
    world = world_of(list(members.values()))
    for key, source in members.items():
        for other, destination in members.items():
            if key == other:
                continue
            edges = [_edge(one) for one in passages(world, source, destination) if one.verdict != "denied"]
            said = {edge.verdict for edge in edges}
            yield MatrixPair(
                cluster=cluster, source=path_of(key), destination=path_of(other), edges=edges,
                verdict="open" if "open" in said else "undetermined" if said else "closed",
            )  # fmt: skip


def _edge(one: Passage) -> MatrixEdge:
    return MatrixEdge(
        source=one.source, destination=one.destination, port=one.port.port, protocol=one.port.protocol,
        verdict="open" if one.verdict == "allowed" else "undetermined",
        egress=one.judgement.egress.reason, ingress=one.judgement.ingress.reason,
    )  # fmt: skip


def _table(found: Fleet, made: Matrix) -> None:
    """One table for each cluster: lines are callers, numbered columns are the same cells as callees."""
    if not found.cells:
        put("no cell runs that could be verified")
    for cluster in found.clusters():
        standing = found.on(cluster)
        pairs = {(pair.source, pair.destination): pair for pair in made.pairs if pair.cluster == cluster}
        put(f"cluster {cluster}")
        show_table(
            ("from", *(str(number) for number in range(1, len(standing) + 1)), "version", "measured", "evidence"),
            [_line(number, one, standing, pairs) for number, one in enumerate(standing, 1)],
        )
        put()
    put(
        "A port is open from a component of the line to one of the column; - closed, = the cell itself, ? undetermined."
    )


def _line(
    number: int, one: Standing, standing: tuple[Standing, ...], pairs: Mapping[tuple[str, str], MatrixPair]
) -> list[str]:
    own = path_of(one.key)
    ports = ["=" if other is one else _ports(pairs[own, path_of(other.key)]) for other in standing]
    return [f"{number} {own}", *ports, f"{one.release.version} ({short(one.digest)})", one.isolation, one.evidence]


def _ports(pair: MatrixPair) -> str:
    found = sorted({(edge.port, edge.protocol, edge.verdict) for edge in pair.edges})
    texts = [
        f"{port}{'' if protocol == 'TCP' else f'/{protocol}'}{'' if verdict == 'open' else '?'}"
        for port, protocol, verdict in found
    ]
    return ",".join(texts) or "-"
