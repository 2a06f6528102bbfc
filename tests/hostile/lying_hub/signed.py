"""What keys signed: a spy on the one method that every private key of the command line signs with.

Two signed payloads are *the same but for the clock* when they differ in nothing but ``sequence``, ``issuedAt`` and
``notAfter``, the digest of a release standing for the release's payload.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellward.documents.dsse import Ed25519Signer

_CLOCK = {"sequence", "issuedAt", "notAfter"}


@contextmanager
def spy() -> Iterator[list[bytes]]:
    """Collect every byte string that a private key signs."""
    signed: list[bytes] = []
    real = Ed25519Signer.sign

    def sign(self: Ed25519Signer, data: bytes) -> bytes:
        signed.append(data)
        return real(self, data)

    Ed25519Signer.sign = sign  # type: ignore[method-assign]
    try:
        yield signed
    finally:
        Ed25519Signer.sign = real  # type: ignore[method-assign]


def payload_of(data: bytes) -> bytes:
    """The payload of a DSSE pre-authentication encoding; anything else as it is."""
    if not data.startswith(b"DSSEv1 "):
        return data
    _, size, rest = data.split(b" ", 2)
    rest = rest[int(size) + 1 :]
    length, payload = rest.split(b" ", 1)
    assert len(payload) == int(length)
    return payload


def digest(payload: bytes) -> str:
    """What a payload is known by."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def kept(home: Path) -> dict[str, bytes]:
    """Whole payloads of the local memory of a home, by digest."""
    return {digest(file.read_bytes()): file.read_bytes() for file in (home / "state" / "blobs").glob("*")}


def but_for_the_clock(payload: bytes, known: Mapping[str, bytes]) -> str:
    """A text that is equal for payloads that are the same but for the clock; ``known`` are payloads by digest."""
    body: Any = json.loads(payload)
    if "schema" not in body:
        return payload.decode()
    plain = {name: value for name, value in body.items() if name not in _CLOCK}
    release = known.get(str(plain.get("releaseDigest")))
    if release is not None:
        plain["releaseDigest"] = json.loads(but_for_the_clock(release, known))
    return json.dumps(plain, sort_keys=True)
