"""``cellward trust upgrade|sign|submit``: what several people sign, as a file that travels between them.

No machine needs to hold all keys. A proposal is made without any key, each owner looks at it and adds his signatures,
and whoever holds the publisher key hands it over once every threshold is reached.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, instant, local
from cli.home import read_file
from cli.options import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposalArgument,
    RecordOption,
    TimeoutOption,
    WaitOption,
)
from cli.output import Format, put, put_folded, say, show_one, show_table, tell
from cli.records import Base, base_of, look, read_record, record_path
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.policy.ceremony import Proposal
    from cellward.policy.publisher import Draft
    from cellward.policy.record import Record, RoleKeys

_KeyFiles = list[Path] | None
_NOTHING = "none; what is in force is signed again with a new expiry"


class RoleSignatures(Shown):
    """How far a role is signed."""

    role: str
    have: int
    need: int


class ProposalView(Shown):
    """What a proposal would bring, and how far it is signed."""

    dry_run: bool
    #: What differs from what is in force: ``+`` comes, ``-`` goes, ``~`` changes.
    changes: list[str]
    #: The same of every field of everything that is signed.
    fields: list[str]
    root_version: int
    roles: dict[str, str]
    expires: dict[str, str]
    bundles: list[str]
    bindings: list[str]
    authors: list[str]
    revocations: list[str]
    signatures: list[RoleSignatures]
    signed_here: list[str]


def propose(draft: Draft, file: Path, root: bytes | None = None) -> None:
    """Write a proposal, which nobody signed yet."""
    from cellward.policy.ceremony import Proposal
    from cellward.runtime.files import write_atomic

    if file.exists():
        raise errors.EXISTS(f"{file} exists already")
    write_atomic(file, Proposal(draft, root).to_bytes(), 0o644)
    say(f"nothing is signed yet; each owner runs: cellward trust sign {file}")


@command
def upgrade(  # noqa: PLR0913 - options of a command
    out: Annotated[Path, typer.Option(help="Where to write the proposal.")],
    root: Annotated[
        _KeyFiles, typer.Option(help="Public key of the root role, repeatable; default: unchanged.")
    ] = None,
    root_threshold: Annotated[int, typer.Option(min=1, help="How many root keys must sign.")] = 1,
    policy: Annotated[_KeyFiles, typer.Option(help="Public key of the policy role, repeatable.")] = None,
    policy_threshold: Annotated[int, typer.Option(min=1, help="How many policy keys must sign.")] = 1,
    keyring: Annotated[_KeyFiles, typer.Option(help="Public key of the keyring role, repeatable.")] = None,
    keyring_threshold: Annotated[int, typer.Option(min=1, help="How many keyring keys must sign.")] = 1,
    renew: Annotated[bool, typer.Option("--renew", help="Renew the root with its present keys.")] = False,
    publisher: Annotated[_KeyFiles, typer.Option(help="Public key of the publisher role, repeatable.")] = None,
    timestamp: Annotated[
        list[str] | None,
        typer.Option(help="Timestamp key of a new hub, repeatable: its key id, read on its machine, or a file."),
    ] = None,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Propose other keys and thresholds for roles, up to m of n. Agents need no reinstallation."""
    from cellward.policy import publisher as publishing
    from cellward.policy.ceremony import Proposal
    from cellward.policy.record import RoleKeys
    from cli.hubkeys import timestamp_key

    place = local(home)
    hubs = tuple(timestamp_key(place, place.home.trust(), given) for given in timestamp or ())
    changes = {
        "root": _role(root, root_threshold),
        "targets": _role(policy, policy_threshold),
        # One of them renews on a schedule, so its threshold stays 1.
        "snapshot": _role(publisher, 1),
        # The hub before is named no more, so what its key signs counts for nothing with whoever has the new root.
        "timestamp": RoleKeys(hubs) if hubs else None,
    }
    role = _role(keyring, keyring_threshold)
    if role is None and not any(changes.values()) and not renew:
        raise errors.BAD_OPTION(
            "no role is given other keys",
            hint="Name keys with --root, --policy, --keyring, --publisher or --timestamp, or say --renew.",
        )
    base = base_of(place, record)
    following = publishing.next_root(
        base.record.roots, changes={name: keys for name, keys in changes.items() if keys is not None}, now=instant()
    )
    changed = base.record if role is None else replace(base.record, keyring_role=role)
    publishing.check_threshold("keyring", changed.keyring_role)
    draft = publishing.draft_again(changed, now=instant(), seen=base.seen)
    if not dry_run:
        propose(draft, out, following)
    _show(Proposal(draft, following), base.record, output, dry_run=dry_run, signed=())


@command
def sign(
    file: ProposalArgument,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Show what a proposal changes, then add the signatures that keys of this machine may give.

    In a terminal it asks before it signs. --dry-run only shows it, whole.
    """
    from cellward.runtime.files import write_atomic
    from cli.keys import load_all, local_keys
    from cli.state.policy import policy_floors

    place = local(home)
    trust = place.home.trust()
    own = read_record(record_path(place, record), trust)
    proposal = _read(file, own)
    own.check_newest(policy_floors(place.home.state(trust).read()), proposal.root)
    names = {name: proposal.roles_of(keyid) for keyid, name in local_keys(place.home).items()}
    mine = sorted(name for name, roles in names.items() if roles)
    if not dry_run and mine:
        show_signed(own, proposal)
        _confirm(mine)
        for signer in load_all(place.home, passphrase_file, *mine):
            proposal = proposal.signed_by(signer)
        write_atomic(file, proposal.to_bytes(), 0o644)
    _show(proposal, own, output, dry_run=dry_run, signed=mine)
    if not mine:
        say("no key here may add a signature")


def show_signed(own: Record, proposal: Proposal) -> None:
    """Show a person all that would be signed, as differences to what is in force; before keys are opened."""
    from cli import proposals

    fields = proposals.fields(own, proposal)
    if fields:
        say("differences to what is in force:")
        tell(f"  {line}" for line in proposals.changes(own, proposal) or [_NOTHING])
        say("expiry:")
        tell(f"  {role}: {end}" for role, end in proposals.life_lines(proposal).items())
        say("every field of it that differs from what is in force:")
        tell(f"  {line}" for line in fields)


def _confirm(names: Sequence[str]) -> None:
    """Ask before a key is opened; raises cli/not-signed for a no."""
    if sys.stdin.isatty() and not typer.confirm(f"Sign it with {', '.join(names)}?", err=True):
        raise errors.NOT_SIGNED("nothing was signed")


@command
def submit(  # noqa: PLR0913 - options of a command
    file: ProposalArgument,
    bundles: Annotated[
        Path | None,
        typer.Option(help="For a new hub: the directory that was published from, a bundle or a directory of bundles."),
    ] = None,
    bindings: Annotated[
        Path | None, typer.Option(help="With --bundles: YAML with the bindings; default: as `cellward policy publish`.")
    ] = None,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Publish a proposal that enough owners signed; signs the snapshot with the publisher key.

    A hub that has no policy yet is given bundles and bindings as well, built from --bundles. What was signed stays as
    it is: a directory that builds anything else is refused.
    """
    from cellward.policy.ceremony import Proposal, complete
    from cli.first_policy import check_memory
    from cli.keys import load_roles
    from cli.policy import finish, hand_over, preview, with_content

    base: Base = look(local(home), record)
    draft = _read_again(file, base)
    proposal = _read(file, base.record) if draft is None else Proposal(draft)
    base.record.check_newest(base.seen, proposal.root)
    if bundles is not None:
        proposal = replace(proposal, draft=with_content(proposal.draft, bundles, bindings))
    elif bindings is not None:
        raise errors.BAD_OPTION("--bindings is of use with --bundles alone")
    if dry_run:
        preview(base, proposal, output)
        return
    draft = complete(proposal)
    if not base.served and draft.missing():
        raise errors.BAD_OPTION(
            f"this hub has no policy yet, and the proposal does not have {draft.missing()[0]}",
            hint="Give --bundles the directory in security's repository that was published from.",
        )
    show_signed(base.record, proposal)
    check_memory(base, draft)
    keys = load_roles(base.place.home, passphrase_file, publisher=draft.record.keyids("snapshot"))
    publication = finish(base, draft, keys["publisher"][:1])
    hand_over(base, publication, output, wait=timeout if wait else None)


def _role(files: _KeyFiles, threshold: int) -> RoleKeys | None:
    from cellward.policy.record import RoleKeys
    from cli.keys import read_public

    if not files:
        return None
    return RoleKeys(tuple(read_public(file) for file in files), threshold)


def _read(file: Path, own: Record) -> Proposal:
    from cellward.policy.ceremony import MAX_PROPOSAL, Proposal

    proposal = Proposal.from_bytes(read_file(file, MAX_PROPOSAL), own=own)
    proposal.check_times(own, instant())
    return proposal


def _read_again(file: Path, base: Base) -> Draft | None:
    """Return what a proposal became that is in the record already, which is handed over once more; None for another.

    The record is written before a hub is asked: whatever a hub answers, or whether it answers, agents may have the set.
    """
    from cellward.policy import publisher
    from cellward.policy.ceremony import MAX_PROPOSAL, Proposal

    proposal = Proposal.read(read_file(file, MAX_PROPOSAL), own=base.record)
    if not proposal.is_in(base.record):
        return None
    say("the record has it already: it is submitted again")
    return replace(publisher.draft_refresh(base.record, seen=base.seen), content=proposal.draft.content)


def _show(proposal: Proposal, own: Record, output: Format, *, dry_run: bool, signed: Sequence[str]) -> None:
    """Show what somebody signs, all of it: what is not shown here, its proposer alone has chosen."""
    from cellward.policy.model import BINDINGS_TARGET
    from cli import proposals

    root, record, draft = proposal.next_root, proposal.draft.record, proposal.draft
    shown = ProposalView(
        dry_run=dry_run,
        changes=proposals.changes(own, proposal),
        fields=proposals.fields(own, proposal),
        root_version=root.version,
        roles=proposals.role_lines(proposal),
        expires=proposals.life_lines(proposal),
        bundles=proposals.bundle_lines(proposal),
        bindings=proposals.binding_lines(draft.content.get(BINDINGS_TARGET)),
        authors=[proposals.author_line(entry) for entry in record.keyring.entries],
        revocations=proposals.revocation_lines(record.revocations),
        signatures=[RoleSignatures(role=one.role, have=one.have, need=one.need) for one in proposal.standing()],
        signed_here=list(signed),
    )
    show_one(shown, output, lambda: _table(shown), f"root/{shown.root_version}")


def _table(shown: ProposalView) -> None:
    _lines("differs from what is in force", shown.changes or ["nothing but the lives"])
    _lines("every field that differs", shown.fields or ["none"])
    show_table(("role", "keys"), [[name, keys] for name, keys in shown.roles.items()])
    put()
    show_table(("signed", "until"), [[name, ends] for name, ends in shown.expires.items()])
    put()
    for heading, lines in (
        ("bundle", shown.bundles), ("binding", shown.bindings or ["as they are"]),
        ("author", shown.authors), ("revocation", shown.revocations or ["none"]),
    ):  # fmt: skip
        _lines(heading, lines)
    show_table(("signs", "have", "need"), [[one.role, str(one.have), str(one.need)] for one in shown.signatures])


def _lines(heading: str, lines: Sequence[str]) -> None:
    put(heading.upper())
    put_folded(lines)
    put()
