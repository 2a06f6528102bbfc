"""``cellward init`` and ``cellward login``: whom this machine talks to, and what it trusts."""

from __future__ import annotations

import getpass
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.author import BEFORE, KINDS, check_owner
from cli.context import command, local, now
from cli.home import KEY_NAMES, Home, Trust, read_file
from cli.options import DEFAULT_HOME, HomeOption, OutputOption, PassphraseOption
from cli.output import Format, put, say, show_one, show_table
from cli.records import DEFAULT_RECORD
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.api import schemas
    from cellward.documents.dsse import Ed25519Signer
    from cellward.documents.keyring import Keyring
    from cellward.policy.record import RoleKeys

#: How long the author's first key may sign.
AUTHOR_LIFE = timedelta(days=365)


class LoggedIn(Shown):
    """Whom this machine is for the hub."""

    server: str
    subject: str
    role: str


class Initialised(Shown):
    """The installation, and where its keys are."""

    realm: str
    owner: str
    evaluation: bool
    home: str


@command
def login(
    server: Annotated[str, typer.Option(help="https://HOST:PORT of the hub's API.")],
    ca_file: Annotated[Path, typer.Option(help="PEM of the CA that the hub's certificate is from.")],
    token_file: Annotated[Path, typer.Option(help='File with the API token; "-" reads standard input.')],
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Remember a hub, after proving that it answers and knows the token."""
    from cellward.api import schemas
    from cli.door.client import MAX_TOKEN, Client, Profile, check_token, parse_server

    parse_server(server)
    stdin = str(token_file) == "-"
    data = sys.stdin.buffer.read(MAX_TOKEN + 2) if stdin else read_file(token_file, MAX_TOKEN + 2)
    token = check_token(data, "standard input" if stdin else token_file, errors.BAD_FILE)
    ca_pem = read_file(ca_file)
    who = Client(Profile(server, ca_file, token)).get("/whoami", schemas.WhoAmI)
    place = Home(home)
    place.create()
    place.write("hub-ca.pem", ca_pem, 0o644)
    place.write("token", token.encode() + b"\n")
    place.write("config.yaml", f"server: {server}\n".encode())
    done = LoggedIn(server=server, subject=who.subject, role=who.role)
    rows = [[done.server, done.subject, done.role]]
    show_one(done, output, lambda: show_table(("server", "subject", "role"), rows), f"hub/{server}")
    say("logged in")


@command
def init(
    home: HomeOption = DEFAULT_HOME,
    passphrase_file: PassphraseOption = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Keep the keys unencrypted; marks the installation as evaluation.")
    ] = False,
    owner: Annotated[str, typer.Option(help="Whose keys these are, as in the keyring: a name or e-mail address.")] = "",
    output: OutputOption = Format.table,
) -> None:
    """Make the keys of this installation here, and give the hub its root of trust. No key leaves this machine."""
    from cellward.api import schemas

    place = local(home)
    client = place.client()
    if not place.home.file("root.json").exists():
        hub = client.get("/trust", schemas.Trust)
        if hub.realm:
            raise errors.FOREIGN_HUB(f"this hub already serves realm {hub.realm}, and its root is not in {home}")
        owner = owner or _user()
        check_owner(owner)
        _make(place.home, hub, _passphrase(passphrase_file, none=no_passphrase), owner)
    trust = place.home.trust()
    root = read_file(trust.root_file)
    adopted = client.post("/trust/root", schemas.RootAdoption(root=root), schemas.Trust)
    if adopted.realm != trust.realm:
        raise errors.FOREIGN_HUB(f"the hub serves realm {adopted.realm}, trust.yaml names {trust.realm}")
    done = Initialised(realm=trust.realm, owner=trust.owner, evaluation=trust.evaluation, home=str(place.home.path))
    show_one(done, output, lambda: put(done.realm), f"realm/{done.realm}")
    say(f"keys and trust.yaml are in {home}; keep a copy where the hub's administrators cannot change it")
    if trust.evaluation:
        say("evaluation: the keys are not encrypted, and one person holds all of them")
    say("next: cellward policy publish DIR")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise errors.BAD_OPTION("this machine has no name for its user", hint="Give --owner.") from error


def _passphrase(file: Path | None, *, none: bool) -> bytes | None:
    from cli.keys import given_passphrase

    if none and file is not None:
        raise errors.BAD_OPTION("--no-passphrase and --passphrase-file exclude each other")
    return None if none else given_passphrase(file, new=True)


def _make(home: Home, hub: schemas.Trust, passphrase: bytes | None, owner: str) -> None:
    """Make keys, root, record and trust.yaml; root.json comes last, so that a half-made home is not taken for one."""
    from cellward.documents.dsse import Ed25519Signer
    from cellward.documents.revocations import Revocations
    from cellward.errors import CellwardError
    from cellward.identity.keys import load_signing_spki
    from cellward.policy import publisher
    from cellward.policy.record import Record, RoleKeys
    from cellward.policy.trust import digest_of, realm_of
    from cli.keys import save_key
    from cli.state.policy import with_policy, with_record

    # Kept in trust.yaml: what is no key would be found out by the first auditor, or make the file unreadable.
    try:
        load_signing_spki(hub.tree_head_spki)
    except CellwardError as error:
        raise errors.BAD_ANSWER(f"the hub's audit key cannot be used: {error.message}") from error
    home.create()
    if any(home.file("keys").iterdir()):
        raise errors.EXISTS(f"{home.file('keys')} has keys, but there is no root.json beside them")
    keys = {name: Ed25519Signer.generate() for name in KEY_NAMES}
    root = publisher.create_root(
        root=_role(keys["root"]),
        policy=_role(keys["policy"]),
        publisher=_role(keys["publisher"]),
        timestamp=RoleKeys((hub.timestamp_spki,)),
        signers=(keys["root"],),
        now=now(),
    )
    realm = realm_of(root)
    for name, signer in keys.items():
        save_key(home, name, signer, passphrase)
    record = Record((root,), first_keyring(realm, owner, keys["author"]), Revocations(realm), _role(keys["keyring"]))
    home.write(DEFAULT_RECORD, record.to_bytes(), 0o644)
    trust = Trust(
        realm=realm,
        root_file=home.file("root.json"),
        root_digest=digest_of(root),
        owner=owner,
        evaluation=passphrase is None,
        tree_head_spki=hub.tree_head_spki,
    )
    home.write_trust(trust)
    with home.state(trust).change() as change:
        # Whoever made the root knows what its first policy is made from: here it is published without further ado.
        change.state = with_record(with_policy(change.state, record.floors()), record)
    home.write("root.json", root, 0o644)


def _role(signer: Ed25519Signer) -> RoleKeys:
    from cellward.policy.record import RoleKeys

    return RoleKeys((signer.public_spki_der,))


def first_keyring(realm: str, owner: str, author: Ed25519Signer) -> Keyring:
    """Return a keyring with one author, who may sign everything for a year."""
    from cellward.documents.keyring import Keyring, KeyringEntry

    start = now() - BEFORE
    entry = KeyringEntry(
        keyid=author.keyid,
        scheme=author.scheme,
        spki_der=author.public_spki_der,
        owner=owner,
        kinds=KINDS,
        projects=("*",),
        environments=("*",),
        not_before=start,
        not_after=start + AUTHOR_LIFE,
    )
    return Keyring(realm, 1, (entry,))
