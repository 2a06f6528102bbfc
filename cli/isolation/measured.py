"""``cellward isolation test``: what the agents measured with packets, against what is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cellward.cells.proof import is_wrong
from cli import errors
from cli.context import command, local
from cli.options import DEFAULT_HOME, ClusterOption, HomeOption, OutputOption
from cli.output import Format, put, put_lines, say, show_data, show_table
from cli.views import Shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cellward.api import schemas
    from cellward.api.isolation import IsolationEdge

#: What an edge is called in the table; what is wrong first.
_MARKS = ("WRONG", "not tried", "as meant")


class TestedEdge(Shown):
    """One edge: what is meant, and what packets did."""

    direction: str
    component: str
    peer: str
    protocol: str
    port: int
    expected: str
    measured: str
    wrong: bool
    node: str


class TestedCell(Shown):
    """One cell on one cluster; ``isolation`` is what counts now, the rest is the measurement."""

    cell: str
    cluster: str
    isolation: str
    measured_at: str
    text: str
    egress_lag_seconds: float | None
    edges: list[TestedEdge]
    edges_cut: int


@command
def measured(
    cell: Annotated[str, typer.Argument(help="PROJECT/CELL or PROJECT/CELL/ENVIRONMENT")],
    cluster: ClusterOption = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show what agents measured of a cell's isolation, edge by edge; exit 1 when it is not enforced everywhere.

    It measures nothing itself: `cellward clusters command CLUSTER probe CELL` has an agent measure now.
    """
    from cellward.api import schemas

    project, name, environment = _names(cell)
    found = local(home).client().get(f"/cells/{project}/{name}", schemas.Cell, edges=True)
    tested = [
        _tested(state)
        for state in found.states
        if environment in {"", state.environment} and (not cluster or state.cluster in cluster)
    ]
    if not tested:
        raise errors.BAD_OPTION(f"no cluster that was asked for has {cell}")
    if output in {Format.json, Format.yaml}:
        show_data({"cells": [one.model_dump(mode="json", by_alias=True) for one in tested]}, output)
    elif output is Format.name:
        put_lines(f"isolation/{one.cluster}/{one.cell}" for one in tested)
    else:
        _show(tested)
    say("This is the agents' word, by way of the hub. Each change is a record isolation.probe of the agent's chain:")
    say("`cellward audit export DIRECTORY` and `cellward audit verify DIRECTORY` prove what was recorded.")
    if any(one.isolation != "enforced" for one in tested):
        raise typer.Exit(1)


def _names(cell: str) -> tuple[str, str, str]:
    parts = cell.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise errors.BAD_OPTION(f"{cell!r} is not PROJECT/CELL or PROJECT/CELL/ENVIRONMENT")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _tested(state: schemas.CellState) -> TestedCell:
    """Of a cluster without a link nobody knows whether what was measured still holds."""
    proof = state.isolation_proof
    moment = proof.measured_at if proof is not None else None
    return TestedCell(
        cell=f"{state.project}/{state.cell}/{state.environment}",
        cluster=state.cluster,
        isolation=state.isolation if state.connected else "unknown",
        measured_at=f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment is not None else "",
        text=_text(state),
        egress_lag_seconds=proof.egress_lag_seconds if proof is not None else None,
        edges=_edges(proof.edges) if proof is not None else [],
        edges_cut=proof.edges_cut if proof is not None else 0,
    )


def _text(state: schemas.CellState) -> str:
    text = state.isolation_proof.text if state.isolation_proof is not None else "nothing was measured"
    return text if state.connected else f"the cluster's link is down, it was {state.isolation}: {text}"


def _edges(edges: Iterable[IsolationEdge]) -> list[TestedEdge]:
    """Edges with what is wrong first, judged here."""
    judged = [TestedEdge(**edge.model_dump(), wrong=is_wrong(edge.expected, edge.measured)) for edge in edges]
    return sorted(judged, key=lambda one: (_mark(one), one.direction, one.component, one.peer, one.protocol, one.port))


def _mark(edge: TestedEdge) -> int:
    return 0 if edge.wrong else 1 if edge.measured == "unknown" else 2


def _show(tested: Sequence[TestedCell]) -> None:
    for one in tested:
        put(f"{one.cell} on {one.cluster}: {one.isolation}")
        put(f"  measured: {one.measured_at or 'never'}; {one.text}")
        if one.egress_lag_seconds is not None:
            put(f"  a new pod got through for {one.egress_lag_seconds:.1f} s at first")
        if one.edges_cut:
            put(f"  {one.edges_cut} more edges were tried and are not shown")
    show_table(
        ("cluster", "environment", "edge", "component", "peer", "port", "expected", "measured", "", "node"),
        [
            [
                one.cluster,
                one.cell.rpartition("/")[2],
                edge.direction,
                edge.component or "any",
                edge.peer,
                f"{edge.port}/{edge.protocol}",
                edge.expected,
                edge.measured,
                _MARKS[_mark(edge)],
                edge.node or "-",
            ]
            for mark in range(len(_MARKS))
            for one in tested
            for edge in one.edges
            if _mark(edge) == mark
        ],
    )
