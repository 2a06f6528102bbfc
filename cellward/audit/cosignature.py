"""Cosignatures: a witness says that it saw a checkpoint, and that it follows from all it saw before.

Source: C2SP ``tlog-cosignature``: the signed message is ``cosignature/v1``, ``time`` and the checkpoint's text; the
key hash is SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key)[:4]; the signature is 8 bytes of time and 64 of Ed25519.
Pure: whether a checkpoint may be co-signed is for the witness to decide before (``cli.witness``).
"""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.checkpoint import parse_checkpoint
from cellward.audit.errors import BAD_CHECKPOINT

_COSIGNATURE: Final = b"\x04"
_NAME = re.compile(r"[!-*,-~]{1,128}\Z")


def check_witness_name(name: str) -> str:
    """Return a name that can stand in a signature line; raises audit/bad-checkpoint."""
    if not _NAME.match(name):
        raise BAD_CHECKPOINT(f"{name!r} cannot be the name of a witness: one word of ASCII without +")
    return name


def witness_vkey(name: str, key: Ed25519PublicKey) -> str:
    """Return the verifier key of a witness: ``name+hash+base64 of 0x04 and the key``."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    blob = base64.b64encode(_COSIGNATURE + raw).decode("ascii")
    return f"{check_witness_name(name)}+{_hint(name, raw).hex()}+{blob}"


def cosign(note: bytes, name: str, key: Ed25519PrivateKey, at: int) -> bytes:
    """Return a note with the cosignature of a witness added, made at ``at`` (seconds of POSIX time).

    Raises audit/bad-checkpoint. Nothing of the note is verified here.
    """
    _, text, _ = parse_checkpoint(note)
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signed = b"cosignature/v1\ntime %d\n%s" % (at, text)
    blob = _hint(check_witness_name(name), raw) + at.to_bytes(8, "big") + key.sign(signed)
    return note + f"\u2014 {name} {base64.b64encode(blob).decode('ascii')}\n".encode()


def _hint(name: str, raw: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _COSIGNATURE + raw).digest()[:4]
