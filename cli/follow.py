"""``cellward trust follow``: go on from a root that is signed, and that the publishers' record does not have.

Somebody who has the file of a ceremony can show its root before it is published. It is a root all the same: clients
take it, and nobody can make it undone. It may come from a hub, because its signatures say all there is to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.ceremony import propose
from cli.context import command, instant, local
from cli.options import DEFAULT_HOME, DryRunOption, HomeOption, OutputOption, RecordOption
from cli.output import Format, put, say, show_one, show_table
from cli.records import look
from cli.views import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellward.policy.record import Record
    from cli.records import Base


class FollowView(Shown):
    """The root that the record goes on from."""

    dry_run: bool
    root_version: int
    #: What differs from the root that the record has: ``+`` comes, ``-`` goes, ``~`` changes.
    changes: list[str]
    roles: dict[str, str]
    expires: str


@command
def follow(
    out: Annotated[
        Path | None,
        typer.Option(help="Write a proposal that re-signs the targets for that root, if it names other policy keys."),
    ] = None,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Add a newer root that the hub serves to the publishers' record. No signing key is needed.

    The keys of the record's root and its own must have signed it. For a root published from elsewhere, or whose
    proposal is lost; if you have the proposal, use `cellward trust submit`.
    """
    from cellward.policy.following import newer_roots

    base = look(local(home), record)
    newer = newer_roots(base.record, base.roots)
    newest = newer[-1] if newer else None
    base.record.check_newest(base.seen, newest)
    shown = _told(base.record, newest, dry_run=dry_run)
    if newest is None:
        say("the record has every root that the hub shows")
    elif out is not None:
        _propose(base, newer, out, dry_run=dry_run)
    else:
        changed = _followed(base.record, newer)
        if not dry_run:
            base.keep(changed)
            say(f"{base.path} goes on from root version {shown.root_version}: commit it; nothing was signed")
    show_one(shown, output, lambda: _table(shown), f"root/{shown.root_version}")


def _followed(record: Record, newer: Sequence[bytes]) -> Record:
    from cellward.errors import CellwardError
    from cellward.policy.following import with_roots

    try:
        return with_roots(record, newer)
    except CellwardError as error:
        raise errors.BAD_OPTION(
            error.message, hint="Say --out FILE, and let the owners sign what it proposes; nothing was changed."
        ) from error


def _propose(base: Base, newer: Sequence[bytes], out: Path, *, dry_run: bool) -> None:
    """Propose the targets again with that root: what `trust upgrade` proposes, and the root has its signatures."""
    from tuf.api.metadata import Root

    from cellward.policy.floors import PolicyFloors
    from cellward.policy.publisher import draft_again

    if len(newer) > 1:
        raise errors.BAD_OPTION(
            f"the record misses {len(newer)} roots, and a proposal brings one",
            hint="Each root was made from a record that had the one before: look for that record first.",
        )
    others = {role: floor for role, floor in base.seen.roles.items() if role != Root.type}
    draft = draft_again(base.record, now=instant(), seen=PolicyFloors(others, base.seen.keys))
    if not dry_run:
        propose(draft, out, newer[0])


def _told(record: Record, root: bytes | None, *, dry_run: bool) -> FollowView:
    """Say what the root changes, as a proposal of nothing but it would."""
    from cellward.policy.ceremony import Proposal
    from cellward.policy.errors import INCOMPLETE
    from cellward.policy.publisher import Draft
    from cli import proposals

    if record.targets is None or record.keyring_metadata is None:
        raise INCOMPLETE("there is no policy yet; publish it first")
    found = Proposal(Draft(record, record.targets, record.keyring_metadata, frozenset(), {}), root)
    return FollowView(
        dry_run=dry_run,
        root_version=found.next_root.version,
        changes=proposals.changes(record, found),
        roles=proposals.role_lines(found),
        expires=proposals.life_lines(found)["root"],
    )


def _table(shown: FollowView) -> None:
    show_table(("differs from the record's root",), [[line] for line in shown.changes or ["nothing"]])
    put()
    show_table(("role", "keys"), [[name, keys] for name, keys in shown.roles.items()])
    put()
    show_table(("root", "until"), [[str(shown.root_version), shown.expires]])
