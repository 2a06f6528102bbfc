"""Local signing keys: made once, encrypted with a passphrase unless explicitly not, and opened only when needed.

Beside each private key lies its public half (``NAME.pub``), so that nothing that only needs to know a key opens one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from cli import errors
from cli.home import Home, read_file

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer

#: Shortest passphrase taken for new keys, characters.
MIN_PASSPHRASE = 8
_MAX_PASSPHRASE_FILE = 4096


def load_key(home: Home, name: str, passphrase_file: Path | None) -> Ed25519Signer:
    """Open a key; raises cli/missing-key, cli/no-passphrase, document/bad-passphrase."""
    return load_all(home, passphrase_file, name)[0]


def load_all(home: Home, passphrase_file: Path | None, *names: str) -> tuple[Ed25519Signer, ...]:
    """Open several keys, asking for the passphrase once."""
    from cellward.documents.dsse import Ed25519Signer

    pems: dict[str, bytes] = {}
    for name in names:
        path = home.file("keys") / f"{name}.pem"
        if not path.exists():
            raise errors.MISSING_KEY(f"{path} does not exist", key=name)
        pems[name] = read_file(path)
    encrypted = {name for name, pem in pems.items() if b"ENCRYPTED" in pem[:64]}
    passphrase = given_passphrase(passphrase_file) if encrypted else None
    return tuple(Ed25519Signer.from_pem(pem, passphrase if name in encrypted else None) for name, pem in pems.items())


def load_roles(
    home: Home, passphrase_file: Path | None, **roles: Collection[str]
) -> dict[str, tuple[Ed25519Signer, ...]]:
    """Open the keys of this machine that belong to roles, given their key ids; the passphrase is asked for once.

    Raises cli/missing-key for a role none of whose keys is here.
    """
    here = local_keys(home)
    names = {role: [here[keyid] for keyid in sorted(keyids) if keyid in here] for role, keyids in roles.items()}
    for role, found in names.items():
        if not found:
            raise errors.MISSING_KEY(f"no {role} key is in {home.file('keys')}", key=role)
    wanted = tuple(dict.fromkeys(name for found in names.values() for name in found))
    signers = dict(zip(wanted, load_all(home, passphrase_file, *wanted), strict=True))
    return {role: tuple(signers[name] for name in found) for role, found in names.items()}


def save_key(home: Home, name: str, signer: Ed25519Signer, passphrase: bytes | None) -> None:
    """Write a new key; raises cli/exists rather than replacing one."""
    path = home.file("keys") / f"{name}.pem"
    if path.exists():
        raise errors.EXISTS(f"{path} exists already", key=name)
    home.write(f"keys/{name}.pub", public_pem(signer.public_spki_der), 0o644)
    home.write(f"keys/{name}.pem", signer.to_pem(passphrase))


def public_pem(spki_der: bytes) -> bytes:
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives import serialization

    return serialization.load_der_public_key(spki_der).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_public(path: Path) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of an Ed25519 public key in PEM; raises cli/bad-file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(read_file(path, _MAX_PASSPHRASE_FILE))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise errors.BAD_FILE(f"{path} is not a public key in PEM", file=path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise errors.BAD_FILE(f"{path} is not an Ed25519 key", file=path)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def local_keys(home: Home) -> dict[str, str]:
    """Names of the keys whose private half is here, by key id; read from their public halves."""
    from cellward.documents.dsse import keyid_of

    names = sorted(path.stem for path in home.file("keys").glob("*.pub") if path.with_suffix(".pem").exists())
    return {keyid_of(read_public(home.file("keys") / f"{name}.pub")): name for name in names}


def given_passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """Passphrase from a file, the environment, or a prompt; raises cli/no-passphrase, cli/bad-option."""
    named = os.environ.get("CELLWARD_PASSPHRASE_FILE", "")
    path = file or (Path(named) if named else None)
    if path is not None:
        found = read_file(path, _MAX_PASSPHRASE_FILE).rstrip(b"\r\n")
    elif os.environ.get("CELLWARD_PASSPHRASE"):
        found = os.environ["CELLWARD_PASSPHRASE"].encode()
    elif sys.stdin.isatty():
        import typer

        text = typer.prompt("Passphrase of the local keys", hide_input=True, confirmation_prompt=new, err=True)
        found = str(text).encode()
    else:
        raise errors.NO_PASSPHRASE("no passphrase was given, and there is no terminal to ask on")
    if new and len(found.decode(errors="replace")) < MIN_PASSPHRASE:
        raise errors.BAD_OPTION(f"the passphrase has fewer than {MIN_PASSPHRASE} characters")
    if not found:
        raise errors.NO_PASSPHRASE("the passphrase given is empty")
    return found
