"""Cosignatures: a witness says that it saw a checkpoint, and that it follows from all it saw before.

Source: C2SP ``tlog-cosignature``: the signed message is ``cosignature/v1``, ``time`` and the checkpoint's text; the
key hash is SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key)[:4]; the signature is 8 bytes of time and 64 of Ed25519.
Pure: whether a checkpoint may be co-signed is for the witness to decide before (``cli.witness``); here only the log's
own signature is looked at, because nothing else of the note is handed on.
"""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.checkpoint import log_signature, parse_checkpoint
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


def cosign(note: bytes, log_key: bytes, name: str, key: Ed25519PrivateKey, at: int) -> bytes:
    """Return a checkpoint with its log's signature and the cosignature of a witness, made at ``at`` (POSIX seconds).

    ``log_key`` is the raw Ed25519 key of the log. The note is written again: whatever else its hub put beside its own
    signature is left out, so that a line which only looks like the witness's never stands before the witness's.
    Raises audit/bad-checkpoint where the log did not sign it.
    """
    checkpoint, text, _ = parse_checkpoint(note)
    signature = log_signature(note, log_key)
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signed = b"cosignature/v1\ntime %d\n%s" % (at, text)
    blob = _hint(check_witness_name(name), raw) + at.to_bytes(8, "big") + key.sign(signed)
    return text + b"\n" + _line(checkpoint.origin, signature) + _line(name, blob)


def _line(name: str, blob: bytes) -> bytes:
    return f"\u2014 {name} {base64.b64encode(blob).decode('ascii')}\n".encode()


def _hint(name: str, raw: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _COSIGNATURE + raw).digest()[:4]
