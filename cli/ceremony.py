"""``cellward trust upgrade|sign|submit``: what several people sign, as a file that travels between them.

No machine needs to hold all keys. A proposal is made without any key, each owner looks at it and adds his signatures,
and whoever holds the publisher key hands it over once every threshold is reached.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
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
    instant,
    local,
)
from cli.home import read_file
from cli.output import Format, Shown, put, say, show_one, show_table
from cli.records import Base, RecordOption, base_of, read_record, record_path

if TYPE_CHECKING:
    from cellward.documents.keyring import KeyringEntry
    from cellward.documents.revocations import Revocations
    from cellward.policy.ceremony import Proposal
    from cellward.policy.publisher import Draft
    from cellward.policy.record import Record, RoleKeys

_KeyFiles = list[Path] | None
ProposalArgument = Annotated[Path, typer.Argument(help="The proposal, as a file.")]


class RoleStanding(Shown):
    """How far a role is signed."""

    role: str
    have: int
    need: int


class ProposalView(Shown):
    """What a proposal would bring, and how far it is signed."""

    dry_run: bool
    root_version: int
    roles: dict[str, str]
    expires: dict[str, str]
    bundles: list[str]
    bindings: list[str]
    authors: list[str]
    revocations: list[str]
    signatures: list[RoleStanding]
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
    renew: Annotated[bool, typer.Option("--renew", help="Give the root a new life, with the keys it has.")] = False,
    publisher: Annotated[_KeyFiles, typer.Option(help="Public key of the publisher role, repeatable.")] = None,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Propose other keys and thresholds for roles, up to m of n. No agent is installed anew for it."""
    from cellward.policy import publisher as publishing
    from cellward.policy.ceremony import Proposal

    changes = {
        "root": _role(root, root_threshold),
        "targets": _role(policy, policy_threshold),
        # One of them renews on a schedule, so its threshold stays 1.
        "snapshot": _role(publisher, 1),
    }
    role = _role(keyring, keyring_threshold)
    if role is None and not any(changes.values()) and not renew:
        raise errors.BAD_OPTION(
            "no role is given other keys", hint="Name keys with --root, --policy or --keyring, or say --renew."
        )
    base = base_of(local(home), record)
    following = publishing.next_root(
        base.record.roots, changes={name: keys for name, keys in changes.items() if keys is not None}, now=instant()
    )
    changed = base.record if role is None else replace(base.record, keyring_role=role)
    publishing.check_threshold("keyring", changed.keyring_role)
    draft = publishing.draft_again(changed, now=instant(), seen=base.seen)
    if not dry_run:
        propose(draft, out, following)
    _show(Proposal(draft, following), output, dry_run=dry_run, signed=())


@command
def sign(
    file: ProposalArgument,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Show a proposal and add the signatures that keys of this machine may give. --dry-run only shows it."""
    from cellward.runtime.files import write_atomic
    from cli.keys import load_all, local_keys

    place = local(home)
    proposal = _read(file, read_record(record_path(place, record), place.home.trust()))
    names = {name: proposal.roles_of(keyid) for keyid, name in local_keys(place.home).items()}
    mine = sorted(name for name, roles in names.items() if roles)
    if not dry_run and mine:
        for signer in load_all(place.home, passphrase_file, *mine):
            proposal = proposal.signed_by(signer)
        write_atomic(file, proposal.to_bytes(), 0o644)
    _show(proposal, output, dry_run=dry_run, signed=mine)
    if not mine:
        say("no key here may add a signature")


@command
def submit(
    file: ProposalArgument,
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Publish a proposal that enough owners signed; signs the snapshot with the publisher key."""
    from cellward.policy import publisher
    from cellward.policy.ceremony import complete
    from cli.keys import load_roles
    from cli.policy import hand_over, preview

    base: Base = base_of(local(home), record)
    proposal = _read(file, base.record)
    if dry_run:
        preview(base, proposal.draft, output)
        return
    draft = complete(proposal)
    keys = load_roles(base.place.home, passphrase_file, publisher=draft.record.keyids("snapshot"))
    publication = publisher.finish(draft, keys["publisher"][:1], now=instant(), seen=base.seen)
    hand_over(base, publication, output, wait=timeout if wait else None)


def _role(files: _KeyFiles, threshold: int) -> RoleKeys | None:
    from cellward.policy.record import RoleKeys
    from cli.keys import read_public

    if not files:
        return None
    return RoleKeys(tuple(read_public(file) for file in files), threshold)


def _read(file: Path, own: Record) -> Proposal:
    from cellward.policy.ceremony import MAX_PROPOSAL, Proposal

    return Proposal.from_bytes(read_file(file, MAX_PROPOSAL), own=own)


def _show(proposal: Proposal, output: Format, *, dry_run: bool, signed: tuple[str, ...] | list[str]) -> None:
    """Show what somebody is about to sign, all of it: what is not shown here, its proposer alone has chosen."""
    from tuf.api.metadata import Targets

    from cellward.policy.model import BINDINGS_TARGET
    from cellward.policy.trust import parse

    root, record = proposal.next_root, proposal.draft.record
    roles = {
        name: f"{role.threshold} of {len(role.keyids)}: {', '.join(sorted(key[:12] for key in role.keyids))}"
        for name, role in root.roles.items()
    }
    targets = parse(Targets, proposal.draft.targets).signed
    delegated = targets.delegations.roles if targets.delegations is not None else None
    for name, role in (delegated or {}).items():
        roles[name] = f"{role.threshold} of {len(role.keyids)}: {', '.join(sorted(key[:12] for key in role.keyids))}"
    ends = {"root": root, "targets": targets, "keyring": parse(Targets, proposal.draft.keyring).signed}
    shown = ProposalView(
        dry_run=dry_run,
        root_version=root.version,
        roles=roles,
        expires={name: f"{signed.expires:%Y-%m-%d %H:%M} UTC" for name, signed in ends.items()},
        bundles=sorted(
            f"{path} {info.hashes.get('sha256', '')[:12]}"
            for path, info in targets.targets.items()
            if path != BINDINGS_TARGET
        ),
        bindings=_bindings(proposal.draft.content.get(BINDINGS_TARGET)),
        authors=[_author(entry) for entry in record.keyring.entries],
        revocations=_revocations(record.revocations),
        signatures=[RoleStanding(role=one.role, have=one.have, need=one.need) for one in proposal.standing()],
        signed_here=list(signed),
    )
    show_one(shown, output, lambda: _table(shown), f"root/{shown.root_version}")


def _bindings(data: bytes | None) -> list[str]:
    """Lines about bindings and what is signed with them; none where they stay as they are."""
    import json

    from cellward.policy.bindings import parse_bindings

    if data is None:
        return []
    found = parse_bindings(data)
    lines = [
        f"{one.name}: {one.bundle} {one.bundle_digest[:19]}, {one.mode}, {one.on_stale} after {one.staleness_seconds} s"
        f", on {json.dumps(one.selector.to_json(), sort_keys=True)}, with {json.dumps(one.parameters, sort_keys=True)}"
        for one in found.bindings
    ]
    thresholds = ", ".join(f"{kind} {count}" for kind, count in sorted(found.thresholds.items()))
    return [
        *lines,
        f"signers needed: {thresholds or 'one of each kind'}",
        f"objects one change may delete: {found.prune_limit}",
        f"the hub's own key counts in: {', '.join(found.hub_attestation) or 'no environment'}",
    ]


def _author(entry: KeyringEntry) -> str:
    kinds, projects, environments = map(",".join, (entry.kinds, entry.projects, entry.environments))
    return (
        f"{entry.owner} {entry.keyid[:12]} {entry.state}: {kinds} of {projects} in {environments} "
        f"until {entry.not_after:%Y-%m-%d}"
    )


def _revocations(found: Revocations) -> list[str]:
    return [
        *(f"locks {one.kind}/{one.subject}" for one in found.locks),
        *(f"quarantines {one.project}/{one.cell} in {one.environment}" for one in found.quarantines),
        *(
            f"first contact in {project} takes nothing before {moment:%Y-%m-%d %H:%M:%S} UTC"
            for project, moment in found.minimum_issued_at.items()
        ),
    ]


def _table(shown: ProposalView) -> None:
    show_table(("role", "keys"), [[name, keys] for name, keys in shown.roles.items()])
    put()
    show_table(("signed", "until"), [[name, ends] for name, ends in shown.expires.items()])
    put()
    for heading, lines in (
        ("bundle", shown.bundles), ("binding", shown.bindings or ["as they are"]),
        ("author", shown.authors), ("revocation", shown.revocations or ["none"]),
    ):  # fmt: skip
        show_table((heading,), [[text] for text in lines])
        put()
    show_table(("signs", "have", "need"), [[one.role, str(one.have), str(one.need)] for one in shown.signatures])
