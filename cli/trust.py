"""``cellward trust``: show and repair what this machine remembers. For that no hub is asked: none lowers anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from cli import ceremony, follow, hubkeys
from cli.context import command, instant, local, now
from cli.options import DEFAULT_HOME, DryRunOption, HomeOption, OutputOption
from cli.output import Format, put, put_lines, say, short, show_list, show_one, show_table
from cli.views import Shown

if TYPE_CHECKING:
    from cli.state.model import State

app = typer.Typer(no_args_is_help=True, help="What this machine trusts and remembers; keys and thresholds of roles.")
app.command()(ceremony.upgrade)
app.command()(ceremony.sign)
app.command()(ceremony.submit)
app.command()(follow.follow)
app.command()(hubkeys.hub)


class RoleView(Shown):
    """Floor of a TUF role."""

    role: str
    version: int
    digest: str


class PlacedView(Shown):
    """What was signed last for a cell in an environment."""

    project: str
    cell: str
    environment: str
    kind: str
    sequence: int
    digest: str
    issued_at: datetime
    delivered: bool


class FaultView(Shown):
    """A number beyond this machine's clock; it is ignored."""

    what: str
    number: int


class TrustView(Shown):
    """The local state."""

    format: int
    realm: str
    root_digest: str
    floors: list[RoleView]
    keys: dict[str, str]
    locked_keys: list[str]
    sequences: dict[str, int]
    placed: list[PlacedView]
    faults: list[FaultView]


class RepairView(Shown):
    """What a repair did, or would do."""

    dry_run: bool
    done: list[str]


@app.command()
@command
def show(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Show floors, numbers and what was signed last, per cell and environment."""
    from cli.state.memory import faults

    place = local(home)
    trust = place.home.trust()
    state = place.home.state(trust).read()
    found = TrustView(
        format=state.format,
        realm=state.realm,
        root_digest=trust.root_digest,
        floors=[RoleView(role=role, version=one.version, digest=one.digest) for role, one in state.floors.items()],
        keys=dict(state.keys),
        locked_keys=list(state.locked_keys),
        sequences=state.sequences,
        placed=list(_placed(state)),
        faults=[FaultView(what=fault.what, number=fault.number) for fault in faults(state, now())],
    )
    show_one(found, output, lambda: _table(found), f"realm/{found.realm}")
    for fault in found.faults:
        say(f"clock fault: the {fault.what} is {fault.number}, beyond this machine's clock; it is ignored")
    if found.faults:
        say("next: check this machine's clock, then cellward trust repair")


@app.command()
@command
def learn(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Verify the policy that the hub serves, and remember it: for a machine without state of this realm.

    A hub may show an older set. Compare the lines with `cellward trust show` on a machine that published.
    """
    from cli.door.keyring import trusted_policy

    place = local(home)
    trust = place.home.trust()
    trusted_policy(place.trusted_client(trust), place.home, trust, instant())
    floors = place.home.state(trust).read().floors
    show_list(
        [RoleView(role=role, version=one.version, digest=one.digest) for role, one in floors.items()],
        output,
        (
            ("role", lambda one: one.role),
            ("floor", lambda one: str(one.version)),
            ("digest", lambda one: one.digest),
        ),
        lambda one: f"role/{one.role}",
    )
    say("a hub may show an older set: compare each line with `cellward trust show` on a machine that published")


@app.command()
@command
def repair(dry_run: DryRunOption = False, home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Make a damaged local state readable again, and remove numbers ahead of this machine's clock. Works offline."""
    from cli.state.repair import repaired

    place = local(home)
    trust = place.home.trust()
    store = place.home.state(trust)
    with store.locked():
        found = repaired(store, trust.realm, now())
        if not dry_run:
            store.write(found.state)
    done = RepairView(dry_run=dry_run, done=list(found.done))
    show_one(done, output, lambda: put_lines(done.done or ["nothing to repair"]), f"realm/{trust.realm}")


def _placed(state: State) -> Iterator[PlacedView]:
    newest = {
        (*one.key, environment): one
        for one in sorted(state.documents, key=lambda one: one.sequence)
        for environment in one.environments
        if one.own and one.sequence
    }
    for (project, cell, environment), one in sorted(newest.items()):
        yield PlacedView(
            project=project,
            cell=cell,
            environment=environment,
            kind=one.kind,
            sequence=one.sequence,
            digest=one.digest,
            issued_at=one.issued_at,
            delivered=one.delivered,
        )


def _table(found: TrustView) -> None:
    show_table(("role", "floor", "digest"), [[one.role, str(one.version), one.digest] for one in found.floors])
    put()
    show_table(
        ("cell", "environment", "kind", "sequence", "digest", "issued", "delivered"),
        [
            [
                f"{one.project}/{one.cell}",
                one.environment,
                one.kind,
                str(one.sequence),
                short(one.digest),
                f"{one.issued_at:%Y-%m-%d %H:%M:%S} UTC",
                "yes" if one.delivered else "no",
            ]
            for one in found.placed
        ],
    )
    if found.keys or found.locked_keys:
        put()
        locked = [[keyid, "locked"] for keyid in found.locked_keys]
        show_table(("key", "seen"), [*([keyid, kind] for keyid, kind in found.keys.items()), *locked])
