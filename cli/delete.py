"""``cellward delete``: ends a cell by a signed tombstone."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from cli.cells import split
from cli.context import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    TimeoutOption,
    WaitOption,
    command,
    local,
    now,
)
from cli.output import Format, Shown, say, short, show_one, show_table
from cli.signing import known_documents, next_sequence, remember_sequences, sign, upload
from cli.waiting import wait_cells


class Deleted(Shown):
    """What was done; ``change`` is ended or would-end."""

    project: str
    cell: str
    environments: list[str]
    sequence: int
    tombstone: str
    delete_data: bool
    change: str


@command
def delete(  # noqa: PLR0913 - options of a command
    cell: Annotated[str, typer.Argument(help="PROJECT/CELL")],
    environment: Annotated[list[str], typer.Option("--environment", "-e", help="Where it ends; may be repeated.")],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete persistent data and the namespace.")
    ] = False,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long agents may newly accept it.")] = 365,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """End a cell by a signed tombstone; data and namespace stay unless said otherwise."""
    from cellward.documents.model import Tombstone
    from cli.keys import load_key

    place = local(home)
    trust = place.home.trust()
    project, name = split(cell)
    client = place.trusted_client(trust)
    known = known_documents(client, place.home, trust)
    author = load_key(place.home, "author", passphrase_file)
    issued = now()
    sequence = next_sequence(place.home, known, (project, name))
    environments = tuple(sorted(set(environment)))
    envelope = sign(
        Tombstone(
            realm=trust.realm,
            project=project,
            cell=name,
            environments=environments,
            sequence=sequence,
            delete_data=delete_data,
            issued_at=issued,
            not_after=issued + timedelta(days=valid_days),
        ),
        author,
    )
    result = upload(client, [envelope], dry_run=dry_run)
    if not dry_run:
        remember_sequences(place.home, {(project, name): sequence})
    say(f"{'would end' if dry_run else 'ended'} on: {', '.join(result.clusters) or 'no cluster has it'}")
    done = Deleted(
        project=project,
        cell=name,
        environments=list(environments),
        sequence=sequence,
        tombstone=envelope.digest,
        delete_data=delete_data,
        change="would-end" if dry_run else "ended",
    )
    show_one(done, output, lambda: _table(done), f"cell/{project}/{name}")
    if wait and not dry_run and result.clusters:
        wait_cells(client, {(project, name): envelope.digest}, "removed", timeout)


def _table(done: Deleted) -> None:
    show_table(
        ("cell", "environments", "sequence", "tombstone", "data", "change"),
        [
            [
                f"{done.project}/{done.cell}",
                ",".join(done.environments),
                str(done.sequence),
                short(done.tombstone),
                "deleted" if done.delete_data else "kept",
                done.change,
            ]
        ],
    )
