"""``cellward trust hub``: the public keys of the hub logged in to, to be compared with what its machine has.

Invariant: a key that only a hub shows is trusted, or becomes part of what is signed, only when a person names it whole:
by its key id, read on the hub's own machine (``keys/keys.json`` of its data directory), or as a file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local
from cli.home import read_file
from cli.options import DEFAULT_HOME, HomeOption, OutputOption, RecordOption
from cli.output import Format, say, show_list
from cli.records import read_record, record_path
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.context import Local
    from cli.home import Trust

#: What a person compares, as ``keys.json`` of a hub names it.
_KEY_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")


class HubKeyView(Shown):
    """A public key of a hub; ``key_id`` is the SHA-256 of its SubjectPublicKeyInfo."""

    key: str
    key_id: str
    #: Whether this machine trusts it already, in words.
    here: str


@command
def hub(
    tree_head: Annotated[
        str, typer.Option(help="Key id of a new hub's tree head, read on its machine; trust.yaml names it from now on.")
    ] = "",
    record: RecordOption = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show the keys of the hub logged in to. Compare them with keys/keys.json in its data directory, on its machine."""
    from cellward.api import schemas

    place = local(home)
    trust = place.home.trust()
    served = place.trusted_client(trust).get("/trust", schemas.Trust)
    if tree_head:
        trust = _trust_tree_head(place, trust, served, tree_head)
    show_list(
        _keys(place, trust, served, record),
        output,
        (
            ("key", lambda item: item.key),
            ("key id", lambda item: item.key_id),
            ("here", lambda item: item.here),
        ),
        lambda item: f"key/{item.key_id}",
    )
    say("a hub may show any key: compare each with keys/keys.json in the data directory on the hub's own machine")


def timestamp_key(place: Local, trust: Trust, given: str) -> bytes:
    """Return a timestamp key (SubjectPublicKeyInfo, DER) that a person names by a file or by its key id.

    With a key id the hub logged in to is asked for the key, and only the one with that id is taken. Raises
    cli/bad-option, cli/bad-file.
    """
    from cellward.api import schemas
    from cli.keys import read_public

    wanted = _KEY_ID.match(given)
    if wanted is None:
        return read_public(Path(given))
    served = place.trusted_client(trust).get("/trust", schemas.Trust)
    return _named(served.timestamp_spki, wanted[1], "timestamp")


def _trust_tree_head(place: Local, trust: Trust, served: schemas.Trust, given: str) -> Trust:
    wanted = _KEY_ID.match(given)
    if wanted is None:
        raise errors.BAD_OPTION("--tree-head is not a key id of 64 hex digits")
    spki = _named(served.tree_head_spki, wanted[1], "tree-head")
    with place.home.state(trust).locked():
        changed = replace(place.home.trust(), tree_head_spki=spki)
        place.home.write_trust(changed)
    say("trust.yaml names this tree-head key from now on; keep the one before for exports of the hub before")
    return changed


def _named(spki: bytes, keyid: str, name: str) -> bytes:
    """Return a hub's key if it is the one that a person named."""
    from cellward.errors import CellwardError
    from cellward.identity.keys import load_signing_spki, spki_digest

    if spki_digest(spki) != keyid:
        raise errors.BAD_OPTION(
            f"the hub shows another {name} key: {spki_digest(spki)}",
            hint="Compare keys/keys.json on the hub's own machine; trust neither before you know why they differ.",
        )
    try:
        load_signing_spki(spki)
    except CellwardError as error:
        raise errors.BAD_ANSWER(f"the hub's {name} key cannot be used: {error.message}") from error
    return spki


def _keys(place: Local, trust: Trust, served: schemas.Trust, record: Path | None) -> list[HubKeyView]:
    from cellward.identity.keys import spki_digest

    file = record_path(place, record)
    named = read_record(file, trust).keyids("timestamp") if file.exists() else None
    timestamp = spki_digest(served.timestamp_spki)
    by_root = "no record here" if named is None else "the newest root names it" if timestamp in named else "NOT named"
    same = "trust.yaml names it" if served.tree_head_spki == trust.tree_head_spki else "NOT the one in trust.yaml"
    return [
        HubKeyView(key="timestamp", key_id=timestamp, here=by_root),
        HubKeyView(key="tree-head", key_id=spki_digest(served.tree_head_spki), here=same),
        *_authorities(served, place.home.file("hub-ca.pem")),
    ]


def _authorities(served: schemas.Trust, kept: Path) -> list[HubKeyView]:
    """The authorities of hubs that invitations would name, compared with the file given at login."""
    from cellward.errors import CellwardError
    from cellward.identity.x509 import authority_keyids

    known = authority_keyids(read_file(kept))
    try:
        shown = authority_keyids(served.hub_ca_pem.encode())
    except (CellwardError, UnicodeError) as error:
        raise errors.BAD_ANSWER("the hub's authority is not PEM of certificates") from error
    return [
        HubKeyView(key="hub-ca", key_id=one, here="given at login" if one in known else "NOT given at login")
        for one in shown
    ]
