"""``cellward hold``, ``quarantine`` and ``lift``: what a hub may withhold without a signature (design §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.cells import split
from cli.context import command, local
from cli.options import (
    DEFAULT_HOME,
    CellArgument,
    ClusterOption,
    DryRunOption,
    EnvironmentOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposeOption,
    RecordOption,
    SignedOption,
)
from cli.output import Format, say, show_list
from cli.records import Options
from cli.revocations import check_unsigned, lift_signed, quarantine_signed
from cli.views import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cellward.api import schemas
    from cellward.api.schemas import HubState


class Narrowed(Shown):
    """One cell in one environment on one cluster: what the hub wanted of it before, and wants now."""

    project: str
    cell: str
    environment: str
    cluster: str
    before: str
    after: str


@command
def hold(
    cell: CellArgument,
    environment: EnvironmentOption = None,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Keep the running version: newer Deployments wait until `cellward lift`. Repair and isolation go on."""
    _narrow(cell, "hold", environment, cluster, dry_run, home, output)


@command
def quarantine(  # noqa: PLR0913 - options of a command
    cell: CellArgument,
    environment: EnvironmentOption = None,
    cluster: ClusterOption = None,
    reason: Annotated[str, typer.Option(help="Why; with --signed it is part of what is signed.")] = "",
    signed: SignedOption = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Cut a cell off from everything but DNS until `cellward lift`; its pods stay, for whoever looks into it."""
    if signed:
        _check_everywhere(cluster)
        options = Options(home, record, dry_run, None, output, passphrase_file, propose_to)
        quarantine_signed(*split(cell), environment or (), reason, options)
        return
    if reason:
        raise errors.BAD_OPTION("--reason goes with --signed here")
    check_unsigned(propose_to)
    _narrow(cell, "quarantine", environment, cluster, dry_run, home, output)


@command
def lift(  # noqa: PLR0913 - options of a command
    cell: CellArgument,
    environment: EnvironmentOption = None,
    cluster: ClusterOption = None,
    signed: SignedOption = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """End a hold or a quarantine of the hub; the cell returns at most to what signatures allow."""
    if signed:
        _check_everywhere(cluster)
        options = Options(home, record, dry_run, None, output, passphrase_file, propose_to)
        lift_signed(*split(cell), environment or (), options)
        return
    check_unsigned(propose_to)
    _narrow(cell, "run", environment, cluster, dry_run, home, output)


def _check_everywhere(clusters: list[str] | None) -> None:
    if clusters:
        raise errors.BAD_OPTION("--cluster does not go with --signed: what is signed holds on every cluster")


def _narrow(
    cell: str,
    state: HubState,
    environments: list[str] | None,
    clusters: list[str] | None,
    dry_run: bool,
    home: Path,
    output: Format,
) -> None:
    from cellward.api import schemas

    project, name = split(cell)
    client = local(home).client()
    found = client.get(f"/cells/{project}/{name}", schemas.Cell)
    meant = _meant(found.states, environments, clusters)
    done: list[Narrowed] = []
    for each in meant:
        if not dry_run:
            body = schemas.NarrowRequest(cluster=each.cluster, environment=each.environment, state=state)
            client.post(f"/cells/{project}/{name}/narrowing", body, schemas.Cell)
        done.append(
            Narrowed(
                project=project,
                cell=name,
                environment=each.environment,
                cluster=each.cluster,
                before=each.hub_state,
                after=state,
            )
        )
    columns = (
        ("cluster", lambda item: item.cluster),
        ("environment", lambda item: item.environment),
        ("before", lambda item: item.before),
        ("after", lambda item: item.after),
    )
    show_list(done, output, columns, lambda item: f"cell/{project}/{name}/{item.environment}/{item.cluster}")
    if dry_run:
        say("nothing was changed")


def _meant(
    states: Sequence[schemas.CellState], environments: list[str] | None, clusters: list[str] | None
) -> list[schemas.CellState]:
    """States that the options name; raises cli/bad-option when one of them names nothing."""
    for option, given, there in (
        ("--environment", environments, {state.environment for state in states}),
        ("--cluster", clusters, {state.cluster for state in states}),
    ):
        for text in given or ():
            if text not in there:
                raise errors.BAD_OPTION(f"{option} {text}: the cell is meant for {', '.join(sorted(there)) or 'none'}")
    found = [
        state
        for state in states
        if (not environments or state.environment in environments) and (not clusters or state.cluster in clusters)
    ]
    if not found:
        raise errors.BAD_OPTION("the cell is meant for no cluster of that environment")
    return found
