"""``cellward author``: who may sign what. Needs the keyring and publisher keys; no root, no policy key, no ceremony.

The keyring is changed as the publishers' record has it, never as a hub shows it. A key that was retired or compromised
stays it: somebody who comes back gets a new key.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, instant, local, now
from cli.options import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposeOption,
    RecordOption,
    TimeoutOption,
    WaitOption,
)
from cli.output import Format, say
from cli.records import Base, Options, base_of

if TYPE_CHECKING:
    from cellward.documents.keyring import Keyring, KeyringEntry, State
    from cellward.documents.revocations import Revocations

app = typer.Typer(no_args_is_help=True, help="Who may sign what: the keyring.")

KeyFileOption = Annotated[Path, typer.Option("--key", help="Public key of the author, Ed25519 in PEM.")]
DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="Days until the key expires.")]
#: Kinds an author signs by default.
KINDS = ("release", "deployment", "approval", "tombstone", "cluster")
#: How far back a new key is valid, for clocks that are behind.
BEFORE = timedelta(minutes=5)


@app.command()
@command
def add(  # noqa: PLR0913 - options of a command
    owner: Annotated[
        str, typer.Argument(help="Whose key it is, a name or e-mail address in ASCII; thresholds count owners.")
    ],
    key: KeyFileOption,
    project: Annotated[
        list[str] | None, typer.Option(help="Project it may sign for, repeatable; default: all.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--environment", "-e", help="Environment, repeatable; default: all.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"Kind of document, repeatable; default: {', '.join(KINDS)}.")
    ] = None,
    days: DaysOption = 365,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Give a key to the keyring."""
    from cli.keys import read_public

    entry = _entry(owner, read_public(key), kind or KINDS, project or ["*"], environment or ["*"], days)
    options = Options(home, record, dry_run, timeout if wait else None, output, passphrase_file, propose_to)
    base = base_of(local(home), record)
    check_owner(owner, base.record.keyring)
    grown = _grown(base.record.keyring, entry)
    say(f"adds key {entry.keyid} of {owner!a}")
    amend(base, options, keyring=grown)


@app.command()
@command
def revoke(  # noqa: PLR0913 - options of a command
    who: Annotated[str, typer.Argument(metavar="OWNER|KEYID", help="All keys of an owner, or one by its id.")],
    compromised: Annotated[
        bool,
        typer.Option(
            "--compromised",
            help="The key was compromised: everything it ever signed becomes invalid. Default: it is retired.",
        ),
    ] = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Take keys out of use. A retired key signs nothing new; what was accepted stays."""
    options = Options(home, record, dry_run, timeout if wait else None, output, passphrase_file, propose_to)
    base = base_of(local(home), record)
    chosen = {entry.keyid for entry in _named(base.record.keyring, who)}
    how = "compromised" if compromised else "retired"
    say(f"makes {how}: {', '.join(sorted(chosen))}")
    amend(base, options, keyring=_marked(base.record.keyring, chosen, compromised=compromised))


@app.command()
@command
def rotate(  # noqa: PLR0913 - options of a command
    who: Annotated[str, typer.Argument(metavar="OWNER|KEYID", help="Owner of one active key, or its id.")],
    key: KeyFileOption,
    days: DaysOption = 365,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Give an owner a new key with the same scope, and retire the one before."""
    from cli.keys import read_public

    options = Options(home, record, dry_run, timeout if wait else None, output, passphrase_file, propose_to)
    base = base_of(local(home), record)
    active = [entry for entry in _named(base.record.keyring, who) if entry.state == "active"]
    if len(active) != 1:
        raise errors.BAD_OPTION(f"{who!r} has {len(active)} active keys", hint="Name one by its id.")
    old = active[0]
    new = _entry(old.owner, read_public(key), old.kinds, old.projects, old.environments, days)
    grown = _grown(base.record.keyring, new)
    say(f"key {new.keyid} of {old.owner!a} follows {old.keyid}, which retires")
    amend(base, options, keyring=_marked(grown, {old.keyid}, compromised=False))


def amend(
    base: Base, options: Options, *, keyring: Keyring | None = None, revocations: Revocations | None = None
) -> None:
    """Sign and publish another keyring, numbered here, or other revocations; a dry run opens no key."""
    from cellward.documents.keyring import following_version
    from cellward.policy import publisher
    from cli.policy import carry_out

    if keyring is not None:
        keyring = replace(keyring, version=following_version(base.record.keyring, now()))
    draft = publisher.draft_keyring(
        base.record, keyring=keyring, revocations=revocations, now=instant(), seen=base.seen
    )
    carry_out(base, draft, options)


def _entry(
    owner: str, spki: bytes, kinds: list[str] | tuple[str, ...], projects: list[str] | tuple[str, ...],
    environments: list[str] | tuple[str, ...], days: int,
) -> KeyringEntry:  # fmt: skip
    from cellward.documents.dsse import keyid_of
    from cellward.documents.keyring import KeyringEntry
    from cellward.documents.model import KINDS as EVERY_KIND

    unknown = sorted(set(kinds) - set(EVERY_KIND))
    if unknown:
        raise errors.BAD_OPTION(f"there are no documents of kind {', '.join(unknown)}")
    start = now() - BEFORE
    return KeyringEntry(
        keyid=keyid_of(spki),
        scheme="ed25519",
        spki_der=spki,
        owner=owner,
        kinds=tuple(dict.fromkeys(kinds)),
        projects=tuple(dict.fromkeys(projects)),
        environments=tuple(dict.fromkeys(environments)),
        not_before=start,
        not_after=start + timedelta(days=days),
    )


def check_owner(owner: str, keyring: Keyring | None = None) -> None:
    """Refuse a name for an owner that people could take for something else; one that the keyring has may stay."""
    from cellward.documents.keyring import is_owner

    known = keyring is not None and any(entry.owner == owner for entry in keyring.entries)
    if not known and not is_owner(owner):
        raise errors.BAD_OPTION(
            f"{owner[:80]!r} cannot be the name of an owner",
            hint="Give up to 64 ASCII letters, digits and ._@+'- with single spaces, such as ada@example.org.",
        )


def _named(keyring: Keyring, who: str) -> tuple[KeyringEntry, ...]:
    """Entries of an owner, or the one with a key id of which at least twelve digits are given."""
    # Ids first: an owner may be called like the beginning of somebody else's.
    found = tuple(entry for entry in keyring.entries if len(who) >= 12 and entry.keyid.startswith(who))
    if not found:
        found = tuple(entry for entry in keyring.entries if entry.owner == who)
    if not found:
        raise errors.BAD_OPTION(f"the keyring has no owner and no key {who!r}", hint="See `cellward keys list`.")
    return found


def _grown(keyring: Keyring, entry: KeyringEntry) -> Keyring:
    """Return the keyring with one key more; raises cli/exists when it has the key already."""
    from cellward.documents.keyring import Keyring

    if keyring.find(entry.keyid) is not None:
        raise errors.EXISTS(f"the keyring has key {entry.keyid} already")
    grown = replace(keyring, entries=(*keyring.entries, entry))
    # Read back strictly: what an agent could not read must not be signed.
    return Keyring.from_json(grown.to_json())


def _marked(keyring: Keyring, keyids: set[str], *, compromised: bool) -> Keyring:
    """Return the keyring with keys retired, or compromised; a compromised one stays it."""
    state: State = "compromised" if compromised else "retired"
    entries = tuple(
        replace(entry, state=state) if entry.keyid in keyids and entry.state != "compromised" else entry
        for entry in keyring.entries
    )
    return replace(keyring, entries=entries)
