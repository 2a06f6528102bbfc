"""The hub's keys at rest: encrypted PKCS#8, one file each, created once and never replaced.

Rights that mounting a volume gave to a group are taken back. A directory that cannot be written, such as a mounted
Secret, must hold all keys with their manifest; files there may be read by a group.

A manifest names every key ever created with its key id. A key the manifest names but the directory lacks, or holds
with another id, is damage and is refused: silently making a new certificate authority would strand every agent.
Blocking; call it before the event loop matters, or in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cellward.errors import CellwardError
from cellward.identity import keys as keymod
from cellward.identity.errors import BAD_KEY
from cellward.identity.x509 import Issuer, load_certificates, make_ca
from cellward.runtime.files import narrow, write_atomic
from hub.authority.errors import KEY_STORE_DAMAGED, KEY_STORE_OPEN
from hub.authority.model import HubKeys

_MANIFEST = "keys.json"
#: Certificate that the hub's own certificates are from; public.
AUTHORITY_FILE = "hub-ca.crt.pem"
_CA_NAMES = {"agent-ca": "Cellward agent CA", "hub-ca": "Cellward hub CA"}
_SIGNING = ("timestamp", "tree-head", "attestation")
_MAX_FILE = 65536
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class KeyStore:
    """A directory of keys under one passphrase."""

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._writable = True

    def open(self, now: datetime) -> HubKeys:
        """Load all keys; create those never created before.

        Raises identity/bad-passphrase, authority/key-store-damaged, authority/key-store-open; OSError from the disk.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusive():
            self._check_rights()
            manifest = self._read_manifest()
            if not self._writable and not {*_CA_NAMES, *_SIGNING} <= set(manifest):
                raise KEY_STORE_DAMAGED(f"{_MANIFEST} does not name every key, and the directory is read-only")
            agent_ca, hub_ca = (self._issuer(name, manifest, now) for name in _CA_NAMES)
            timestamp, tree_head, attestation = (self._signing(name, manifest) for name in _SIGNING)
            self._write_manifest(manifest)
        return HubKeys(agent_ca, hub_ca, timestamp, tree_head, attestation)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Two processes starting at once must not both create keys; one that cannot write creates none."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._directory / ".lock", flags, 0o600)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            self._writable = False
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _check_rights(self) -> None:
        files = sorted(self._directory.glob("*.pem"))
        if not self._writable:
            # The directory of a mounted Secret is open and its files are the group's to read: only the kubelet writes.
            self._refuse(files, 0o037)
            return
        for path in (self._directory, *files):
            narrow(path)
        self._refuse((self._directory, *files), 0o077)

    @staticmethod
    def _refuse(paths: Iterable[Path], rights: int) -> None:
        for path in paths:
            if stat.S_IMODE(path.stat().st_mode) & rights:
                raise KEY_STORE_OPEN(f"{path.name} gives rights to group or others", path=path)

    def _read_manifest(self) -> dict[str, str]:
        try:
            manifest = json.loads((self._directory / _MANIFEST).read_bytes()[:_MAX_FILE])
        except FileNotFoundError:
            return {}
        except ValueError:
            raise KEY_STORE_DAMAGED(f"{_MANIFEST} cannot be read") from None
        if not isinstance(manifest, dict) or not all(isinstance(value, str) for value in manifest.values()):
            raise KEY_STORE_DAMAGED(f"{_MANIFEST} is not a table of key ids")
        return manifest

    def _write_manifest(self, manifest: dict[str, str]) -> None:
        if not self._writable:
            return
        data = json.dumps(manifest, sort_keys=True, indent=1).encode() + b"\n"
        path = self._directory / _MANIFEST
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)

    def _issuer(self, name: str, manifest: dict[str, str], now: datetime) -> Issuer:
        key = self._key(name, manifest)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KEY_STORE_DAMAGED(f"the key {name} is of another kind", key=name)
        path = self._directory / f"{name}.crt.pem"
        if not path.exists():
            if name in manifest:
                raise KEY_STORE_DAMAGED(f"{path.name} is missing", key=name)
            write_atomic(path, make_ca(_CA_NAMES[name], key, now).pem)
        found = load_certificates(path.read_bytes()[:_MAX_FILE])
        if len(found) != 1 or found[0].public_key() != key.public_key():
            raise KEY_STORE_DAMAGED(f"{path.name} is not the certificate of its key", key=name)
        manifest[name] = keymod.spki_digest(keymod.spki_of(key))
        return Issuer(found[0], key)

    def _signing(self, name: str, manifest: dict[str, str]) -> ed25519.Ed25519PrivateKey:
        key = self._key(name, manifest)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise KEY_STORE_DAMAGED(f"the key {name} is of another kind", key=name)
        manifest[name] = keymod.spki_digest(keymod.spki_of(key))
        return key

    def _key(self, name: str, manifest: dict[str, str]) -> keymod.PrivateKey:
        path = self._directory / f"{name}.key.pem"
        if not path.exists():
            if name in manifest:
                raise KEY_STORE_DAMAGED(f"{path.name} is missing", key=name)
            made = keymod.new_tls_key() if name in _CA_NAMES else keymod.new_signing_key()
            write_atomic(path, keymod.private_to_pem(made, self._passphrase))
        try:
            key = keymod.private_from_pem(path.read_bytes()[:_MAX_FILE], self._passphrase)
        except CellwardError as error:
            if error.code == BAD_KEY.code:
                raise KEY_STORE_DAMAGED(f"{path.name} cannot be read", key=name) from error
            raise
        if manifest.get(name, keyid := keymod.spki_digest(keymod.spki_of(key))) != keyid:
            raise KEY_STORE_DAMAGED(f"{path.name} is another key than the one this hub was created with", key=name)
        return key
