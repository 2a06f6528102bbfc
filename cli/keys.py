"""Local signing keys: made once, encrypted with a passphrase unless explicitly not, and opened only when needed."""

from __future__ import annotations

import os
import sys
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
    from cellward.documents.dsse import Ed25519Signer

    path = home.file("keys") / f"{name}.pem"
    if not path.exists():
        raise errors.MISSING_KEY(f"{path} does not exist", key=name)
    pem = read_file(path)
    encrypted = b"ENCRYPTED" in pem.splitlines()[0] if pem else False
    return Ed25519Signer.from_pem(pem, given_passphrase(passphrase_file) if encrypted else None)


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


def save_key(home: Home, name: str, signer: Ed25519Signer, passphrase: bytes | None) -> None:
    """Write a new key; raises cli/exists rather than replacing one."""
    path = home.file("keys") / f"{name}.pem"
    if path.exists():
        raise errors.EXISTS(f"{path} exists already", key=name)
    home.write(f"keys/{name}.pem", signer.to_pem(passphrase))


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
