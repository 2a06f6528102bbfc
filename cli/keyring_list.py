"""``cellward keys``: keys of this machine, and every key of the installation with how long it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import command, instant, local
from cli.options import DEFAULT_HOME, HomeOption, OutputOption, PassphraseOption, RecordOption
from cli.output import Format, cut, put, say, show_list, show_one
from cli.records import read_record, record_path
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.policy.record import Record

app = typer.Typer(no_args_is_help=True, help="Signing keys: which there are, and how long they last.")


class KeyView(Shown):
    """One key of the installation."""

    role: str
    owner: str
    keyid: str
    state: str
    expires: datetime | None
    local_name: str


class CreatedKey(Shown):
    """A key that was made here."""

    name: str
    keyid: str
    public: str


@app.command("list")
@command
def list_keys(
    record: RecordOption = None, home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table
) -> None:
    """Show every key by role, when it or what it signs expires, and which are on this machine. Works offline."""
    from cellward.documents.keyring import is_owner
    from cli.keys import local_keys

    place = local(home)
    found = read_record(record_path(place, record), place.home.trust())
    here = local_keys(place.home)
    show_list(
        list(_keys(found, here)),
        output,
        (
            # First what cannot be chosen to look like something else.
            ("key", lambda key: key.keyid),
            ("role", lambda key: key.role),
            ("owner", lambda key: key.owner if not key.owner or is_owner(key.owner) else cut(key.owner)),
            ("state", lambda key: key.state),
            ("expires", lambda key: "" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M} UTC"),
            ("here", lambda key: key.local_name),
        ),
        lambda key: f"key/{key.keyid}",
    )


@app.command()
@command
def create(
    name: Annotated[str, typer.Argument(help="Name of its files in the keys directory.")],
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Keep the key unencrypted.")] = False,
) -> None:
    """Make a key here; give its public half (NAME.pub) to whoever proposes or adds it."""
    from cellward.documents.dsse import Ed25519Signer
    from cellward.documents.names import is_label
    from cli import errors
    from cli.keys import given_passphrase, save_key

    if not is_label(name):
        raise errors.BAD_OPTION(f"{name[:40]!r} is not a name of lower-case letters, digits and hyphens")
    place = local(home)
    place.home.create()
    signer = Ed25519Signer.generate()
    save_key(place.home, name, signer, None if no_passphrase else given_passphrase(passphrase_file, new=True))
    public: Path = place.home.file("keys") / f"{name}.pub"
    made = CreatedKey(name=name, keyid=signer.keyid, public=str(public))
    show_one(made, output, lambda: put(made.public), f"key/{made.keyid}")
    say(f"key {made.keyid}; its private half never leaves this machine")


def _keys(record: Record, here: dict[str, str]) -> Iterator[KeyView]:
    root = record.root
    names = {"root": "root", "targets": "policy", "snapshot": "publisher", "timestamp": "hub"}
    for role, shown in names.items():
        for keyid in root.roles[role].keyids:
            owner = "hub" if role == "timestamp" else ""
            yield _view(shown, owner, keyid, "active", root.expires, here)
    targets = record.signed_targets()
    delegations = None if targets is None else targets.delegations
    roles = {} if delegations is None or delegations.roles is None else delegations.roles
    for role_name, delegated in roles.items():
        for keyid in delegated.keyids:
            yield _view(role_name, "", keyid, "active", None if targets is None else targets.expires, here)
    for entry in record.keyring.entries:
        state = "expired" if entry.state == "active" and entry.not_after < instant() else entry.state
        yield _view("author", entry.owner, entry.keyid, state, entry.not_after, here)


def _view(role: str, owner: str, keyid: str, state: str, expires: datetime | None, here: dict[str, str]) -> KeyView:
    return KeyView(role=role, owner=owner, keyid=keyid, state=state, expires=expires, local_name=here.get(keyid, ""))
