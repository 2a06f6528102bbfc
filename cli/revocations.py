"""The signed side of locks and quarantines: entries of the policy set that signers alone set and lift.

A hub may lock and unlock what it locked itself; what stands here outlives a stolen hub. Lifting is a new signed set
without the entry. The commands are in ``cli/locks.py`` and ``cli/narrow.py``, which call this with ``--signed``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.author import amend
from cli.context import command, local, now
from cli.options import (
    DEFAULT_HOME,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposeOption,
    RecordOption,
)
from cli.output import Format, say
from cli.records import Options, base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cellward.documents.revocations import Revocations, SignedQuarantine
    from cellward.identity.locks import Lock

    _Change = Callable[[Revocations], Revocations]


def check_unsigned(propose_to: Path | None) -> None:
    """Refuse, without --signed, an option that would have something proposed: it would be done instead."""
    if propose_to is not None:
        raise errors.BAD_OPTION("--propose goes with --signed")


def lock_signed(lock: Lock, options: Options) -> None:
    """Add a lock to the signed set; one of the same subject is replaced."""
    from cellward.documents.revocations import SignedLock

    def change(found: Revocations) -> Revocations:
        kept = [one for one in found.locks if (one.kind, one.subject) != (lock.kind, lock.subject)]
        new = SignedLock(lock.kind, lock.subject, lock.reason, now())
        return replace(found, locks=(*kept, new))

    _amend(options, change, f"locks {lock}")


def unlock_signed(lock: Lock, options: Options) -> None:
    """Take a lock out of the signed set."""

    def change(found: Revocations) -> Revocations:
        kept = tuple(one for one in found.locks if (one.kind, one.subject) != (lock.kind, lock.subject))
        if len(kept) == len(found.locks):
            raise errors.BAD_OPTION(f"no signed lock holds {lock}", hint="See `cellward locks`.")
        return replace(found, locks=kept)

    _amend(options, change, f"unlocks {lock}")


def quarantine_signed(project: str, cell: str, environments: Sequence[str], reason: str, options: Options) -> None:
    """Add quarantines of a cell to the signed set."""
    from cellward.documents.revocations import SignedQuarantine

    if not environments:
        raise errors.BAD_OPTION("--signed needs --environment")
    if not reason:
        raise errors.BAD_OPTION("--signed needs --reason")

    def change(found: Revocations) -> Revocations:
        kept = [one for one in found.quarantines if not _is(one, project, cell, environments)]
        new = (SignedQuarantine(project, cell, name, reason, now()) for name in dict.fromkeys(environments))
        return replace(found, quarantines=(*kept, *new))

    _amend(options, change, f"quarantines {project}/{cell} in {', '.join(environments)}")


def lift_signed(project: str, cell: str, environments: Sequence[str], options: Options) -> None:
    """Take quarantines of a cell out of the signed set; all of them without environments."""

    def change(found: Revocations) -> Revocations:
        kept = tuple(one for one in found.quarantines if not _is(one, project, cell, environments))
        if len(kept) == len(found.quarantines):
            raise errors.BAD_OPTION(f"no signed quarantine holds {project}/{cell}")
        return replace(found, quarantines=kept)

    _amend(options, change, f"lifts the signed quarantine of {project}/{cell}")


def minimum_signed(project: str, moment: datetime | None, options: Options) -> None:
    """Set, or with None take out, the earliest issue that a cluster without memory of a cell accepts."""

    def change(found: Revocations) -> Revocations:
        kept = {name: at for name, at in found.minimum_issued_at.items() if name != project}
        return replace(found, minimum_issued_at=kept if moment is None else {**kept, project: moment})

    _amend(options, change, f"first contact in project {project} accepts nothing issued before {moment or 'any time'}")


def _amend(options: Options, change: _Change, text: str) -> None:
    from cellward.documents.revocations import Revocations

    base = base_of(local(options.home), options.record)
    # Read back strictly: what an agent could not read must not be signed.
    revocations = Revocations.from_bytes(change(base.record.revocations).to_bytes())
    say(text)
    amend(base, options, revocations=revocations)


def _is(one: SignedQuarantine, project: str, cell: str, environments: Sequence[str]) -> bool:
    return (one.project, one.cell) == (project, cell) and (not environments or one.environment in environments)


@command
def minimum(  # noqa: PLR0913 - options of a command
    project: Annotated[str, typer.Argument(help='A project, or "*" for all.')],
    issued_at: Annotated[
        datetime | None, typer.Option(help="UTC, as 2026-11-30T12:00:00; default: now.", formats=["%Y-%m-%dT%H:%M:%S"])
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the minimum.")] = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Sign how old a Deployment may be that a cluster accepts without a floor for its cell: a new or reset agent."""
    options = Options(home, record, dry_run, None, output, passphrase_file, propose_to)
    moment = None if clear else (issued_at.replace(tzinfo=UTC) if issued_at is not None else now())
    minimum_signed(project, moment, options)
