"""``cellward delete``: ends a cell by a signed tombstone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.cells import split
from cli.context import command, local, now
from cli.options import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    VALID_DAYS,
    CellArgument,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    TimeoutOption,
    ValidityOption,
    WaitOption,
)
from cli.output import Format, say, short, show_one, show_table
from cli.views import Shown
from cli.waiting import wait_cells

if TYPE_CHECKING:
    from cellward.documents.model import Tombstone
    from cli.door.client import Client
    from cli.home import Home
    from cli.planning import Order
    from cli.signing import Draft
    from cli.state.store import Store


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
    cell: CellArgument,
    environment: Annotated[
        list[str], typer.Option("--environment", "-e", help="Environment in which it ends; may be repeated.")
    ],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete persistent data and the namespace.")
    ] = False,
    valid_days: ValidityOption = VALID_DAYS,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """End a cell by a signed tombstone; data and namespace stay unless said otherwise."""
    from cellward.documents.model import Tombstone
    from cli.door.documents import HubDocuments, try_out
    from cli.door.keyring import verifier
    from cli.memory import Memory
    from cli.planning import Order, plan_end

    place = local(home)
    trust = place.home.trust()
    project, name = split(cell)
    client = place.trusted_client(trust)
    store, moment = place.home.state(trust), now()
    hub = HubDocuments(client, lambda: verifier(client, place.home, trust, moment), moment)
    order = Order.of(hub.numbered(project, name))
    environments = tuple(sorted(set(environment)))
    wanted = Tombstone(
        realm=trust.realm,
        project=project,
        cell=name,
        environments=environments,
        sequence=1,
        delete_data=delete_data,
        issued_at=moment,
        not_after=moment,
    )
    life = timedelta(days=valid_days)
    if dry_run:
        ending = plan_end(wanted, life, Memory(store, store.read(), moment), order, moment)
        clusters = try_out(client, [(ending.payload_type, ending.payload)]).clusters
    else:
        ending, clusters = _end(place.home, store, client, (wanted, life, order), passphrase_file)
    say(f"{'would end' if dry_run else 'ended'} on: {', '.join(clusters) or 'no cluster has it'}")
    done = Deleted(
        project=project,
        cell=name,
        environments=list(environments),
        sequence=getattr(ending.document, "sequence", 0),
        tombstone=ending.digest,
        delete_data=delete_data,
        change="would-end" if dry_run else "ended",
    )
    show_one(done, output, lambda: _table(done), f"cell/{project}/{name}")
    if wait and not dry_run and clusters:
        wait_cells(client, {(project, name): ending.digest}, "removed", timeout)


def _end(
    home: Home, store: Store, client: Client, asked: tuple[Tombstone, timedelta, Order], passphrase_file: Path | None
) -> tuple[Draft, list[str]]:
    """Write the end down, sign it, hand it over; returns it with the clusters it reaches."""
    from cli.door.documents import upload
    from cli.keys import load_key
    from cli.memory import Memory
    from cli.planning import plan_end
    from cli.signing import remember, sign, taken

    wanted, life, order = asked
    author, moment = load_key(home, "author", passphrase_file), now()
    with store.change() as change:
        ending = plan_end(wanted, life, Memory(store, change.state, moment), order, moment)
        remember(change, [ending], author.keyid)
    result = upload(client, sign(store, [ending], author))
    taken(store, [ending])
    return ending, result.clusters


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
