"""``cellward cells``: list, show and top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from cli import errors
from cli.context import command, local
from cli.door.pages import every
from cli.door.steps import HEADING, own_step, relayed_step, split_step
from cli.options import DEFAULT_HOME, CellArgument, ClusterOption, HomeOption, OutputOption
from cli.output import Format, put, say, short, show_list, show_one, show_table
from cli.usage import COLUMNS, ProjectOption, Sort, SortOption, chosen, remarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cellward.api import schemas

#: Conditions that say why pods of a cell do not run.
OF_PODS: Final = frozenset(
    {
        "cell/image-not-pulled",
        "cell/pod-not-admitted",
        "cell/pod-not-scheduled",
        "cell/volume-not-mounted",
        "cell/container-not-started",
        "cell/container-crashes",
        "cell/out-of-memory",
    }
)

app = typer.Typer(no_args_is_help=True, help="Cells over the fleet.")


@app.command("list")
@command
def list_cells(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """List cells with the number of clusters where they are ready, isolated as measured, refused, and unknown."""
    from cellward.api import schemas

    client = local(home).client()
    found = list(every(lambda cursor: client.get("/cells", schemas.CellList, cursor=cursor)))
    show_list(
        found,
        output,
        (
            ("cell", lambda item: f"{item.project}/{item.cell}"),
            ("version", lambda item: ",".join(item.versions) or "-"),
            ("environments", lambda item: ",".join(item.environments)),
            ("clusters", lambda item: str(item.clusters)),
            ("ready", lambda item: str(item.ready)),
            ("enforced", lambda item: str(item.enforced)),
            ("refused", lambda item: str(item.refused)),
            ("unknown", lambda item: str(item.unknown)),
        ),
        lambda item: f"cell/{item.project}/{item.cell}",
    )


@app.command()
@command
def show(
    cell: CellArgument,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show a cell on every cluster, with what was refused, why, and what to do next."""
    from cellward.api import schemas
    from cli.evidence import with_evidence

    project, name = split(cell)
    place = local(home)
    client = place.client()
    found = client.get(f"/cells/{project}/{name}", schemas.Cell)
    found = found.model_copy(update={"states": with_evidence(client, place.home, found.states)})
    show_one(found, output, lambda: _table(found.states), f"cell/{project}/{name}")


@app.command()
@command
def top(
    cluster: ClusterOption = None,
    project: ProjectOption = None,
    sort: SortOption = Sort.cpu,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show what cells use on each cluster, against what their pods ask for."""
    from cellward.api.usage import UsageList

    client = local(home).client()
    every_one = every(lambda cursor: client.get("/usage", UsageList, cursor=cursor))
    found = chosen(every_one, clusters=cluster or (), projects=project or (), sort=sort)
    show_list(found, output, COLUMNS, lambda item: f"cell/{item.project}/{item.cell}")
    for line in remarks(found) if output is Format.table else ():
        say(line)


def split(cell: str) -> tuple[str, str]:
    """Project and cell of ``PROJECT/CELL``; raises cli/bad-option."""
    project, slash, name = cell.partition("/")
    if not slash or not project or not name or "/" in name:
        raise errors.BAD_OPTION(f"{cell!r} is not PROJECT/CELL")
    return project, name


def _table(states: Iterable[schemas.CellState]) -> None:
    states = list(states)
    show_table(
        ("cluster", "environment", "phase", "version", "objects", "isolation", "repairs", "deployment", "evidence"),
        [
            [
                state.cluster,
                state.environment,
                _phase(state),
                state.version or "-",
                f"{state.objects_ready}/{state.objects_total}",
                _isolation(state),
                str(state.drift_repairs),
                short(state.desired_digest),
                state.evidence or "-",
            ]
            for state in states
        ],
    )
    show_refusals(states, put)
    show_conditions(states)


def _isolation(state: schemas.CellState) -> str:
    """What was measured, with how many of the edges that were tried are wrong, if some are."""
    proof = state.isolation_proof
    return f"{state.isolation} ({proof.wrong}/{proof.tried} wrong)" if proof and proof.wrong else state.isolation


def _phase(state: schemas.CellState) -> str:
    """What is known of its phase: of a cluster without a link only what it was."""
    phase = state.phase if state.hub_state == "run" else f"{state.phase} ({state.hub_state})"
    if state.connected or state.reported_at is None:
        return phase
    since = f" since {state.unknown_since:%Y-%m-%d %H:%M:%S} UTC" if state.unknown_since is not None else ""
    return f"unknown{since}, was {phase}"


def show_conditions(states: Iterable[schemas.CellState]) -> None:
    """What a cluster cannot do as the cell asks, what in it could not be brought back, and what does not run."""
    for state in states:
        for found in state.conditions:
            show_condition(state, found, put)


def show_condition(state: schemas.CellState, found: schemas.CellCondition, show: Callable[[str], None]) -> None:
    """One condition of a cell with its next step."""
    cell = f"{state.project}/{state.cell}"
    cannot = f"do all that {cell} asks"
    if found.code == "cell/not-repaired":
        cannot = f"keep all of {cell} as released"
    elif found.code in OF_PODS:
        cannot = f"run all pods of {cell}"
    show(f"{state.cluster} cannot {cannot} [{found.code}]")
    message, step = split_step(found.message)
    show(f"  {found.subject}: {message}")
    for heading, text in (("next", own_step(found.code)), (HEADING, step)):
        if text:
            show(f"  {heading}: {text}")


def show_refusals(states: Iterable[schemas.CellState], show: Callable[[str], None] = say) -> None:
    """Every refusal with rule, object, reason and next step (V15): data where asked for, or why a command failed.

    The agent's own step comes through the hub, and is shown so.
    """
    for state in states:
        for refusal in state.refusals:
            show_refusal(state, refusal, "refused", show)


def show_refusal(state: schemas.CellState, refusal: schemas.Refusal, verb: str, show: Callable[[str], None]) -> None:
    """One refusal; the verb is what the cluster does with the cell."""
    show(f"{state.cluster} {verb} {state.project}/{state.cell} in {state.environment} [{refusal.code}]")
    own = own_step(refusal.code)
    for heading, text in (
        ("rule", refusal.rule),
        ("object", refusal.object),
        ("reason", refusal.reason),
        ("next", own),
        (HEADING, relayed_step(refusal.next, own)),
    ):
        if text:
            show(f"  {heading}: {text}")
