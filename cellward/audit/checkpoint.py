"""Signed heads of the log: C2SP checkpoints by the tree-head key.

Sources: C2SP ``signed-note`` and ``tlog-checkpoint`` (key hash = SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)[:4] for
Ed25519). Invariant: a note is judged by the key given out of band, never by a name
or key id found inside it; lines of other signers (witnesses) are skipped, as the specification asks.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cellward.audit.errors import BAD_CHECKPOINT
from cellward.audit.record import MAX_INT
from cellward.audit.tree import HASH_SIZE
from cellward.identity.points import weakness_of

#: Longest note taken, bytes.
MAX_NOTE: Final = 16 * 1024

_ED25519: Final = b"\x01"
_SIZE = re.compile(rb"(?:0|[1-9][0-9]{0,15})\Z")
_NAME = re.compile(r"[^\s+]{1,256}\Z")
_SIGNATURE = re.compile(r"\u2014 (?P<name>\S+) (?P<blob>[A-Za-z0-9+/=]+)\Z")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: ``origin`` names the log, ``root`` is the 32-byte root over ``size`` leaves."""

    origin: str
    size: int
    root: bytes


def log_origin(realm: str) -> str:
    """Return the origin line of an installation's log; one realm, one log."""
    return f"cellward.dev/audit/{realm.removeprefix('sha256:')}"


def key_hash(name: str, public_key: bytes) -> bytes:
    """Return the four bytes that name an Ed25519 key in a signature line; ``public_key`` is the raw 32 bytes."""
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def checkpoint_text(checkpoint: Checkpoint) -> bytes:
    """Return the text that is signed; it ends in a newline."""
    if not _NAME.match(checkpoint.origin):
        raise BAD_CHECKPOINT(f"{checkpoint.origin!r} cannot be the origin of a log")
    root = base64.b64encode(checkpoint.root).decode()
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n".encode()


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """Return the signed note of a checkpoint; the key's name is the origin."""
    text = checkpoint_text(checkpoint)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return _signed(text, checkpoint.origin, key_hash(checkpoint.origin, public) + key.sign(text))


def parse_checkpoint(note: bytes) -> tuple[Checkpoint, bytes, tuple[tuple[str, bytes], ...]]:
    """Split a note into checkpoint, signed text and signatures (name, key hash ‖ signature). Nothing is verified.

    Raises audit/bad-checkpoint.
    """
    if len(note) > MAX_NOTE:
        raise BAD_CHECKPOINT(f"the note has {len(note)} bytes, at most {MAX_NOTE} are taken")
    head, separator, tail = note.rpartition(b"\n\n")
    if not separator or not tail.endswith(b"\n"):
        raise BAD_CHECKPOINT("the note has no signature block")
    text = head + b"\n"
    lines = text.split(b"\n")
    # Extension lines after the third are allowed by tlog-checkpoint, empty ones are not.
    if len(lines) < 4 or not all(lines[:-1]) or not _SIZE.match(lines[1]) or int(lines[1]) > MAX_INT:
        raise BAD_CHECKPOINT("the note is not a checkpoint: origin, size and root are expected")
    try:
        root = base64.b64decode(lines[2], validate=True)
        origin = lines[0].decode("utf-8")
        signatures = tuple(_signature(line) for line in tail.decode("utf-8")[:-1].split("\n"))
    except (binascii.Error, ValueError) as error:
        raise BAD_CHECKPOINT("the note is not well formed") from error
    if len(root) != HASH_SIZE or not _NAME.match(origin) or not signatures:
        raise BAD_CHECKPOINT("the note is not well formed")
    return Checkpoint(origin, int(lines[1]), root), text, signatures


def verify_checkpoint(note: bytes, origin: str, public_key_spki: bytes) -> Checkpoint:
    """Return the checkpoint of a note signed by the Ed25519 key ``public_key_spki`` (DER) under ``origin``.

    Raises audit/bad-checkpoint: malformed, of another log, not signed by this key, or a signature of this key is wrong.
    """
    checkpoint, text, signatures = parse_checkpoint(note)
    if checkpoint.origin != origin:
        raise BAD_CHECKPOINT(f"the checkpoint is of log {checkpoint.origin!r}, not {origin!r}")
    try:
        key = load_der_public_key(public_key_spki)
    except ValueError as error:
        raise BAD_CHECKPOINT("the tree-head key is not a public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BAD_CHECKPOINT("the tree-head key is not an Ed25519 key")
    if weak := weakness_of(key.public_bytes_raw()):
        raise BAD_CHECKPOINT(f"the tree-head key cannot be used: {weak}")
    hash_ = key_hash(origin, key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    ours = [blob for name, blob in signatures if name == origin and blob[:4] == hash_]
    if not ours:
        raise BAD_CHECKPOINT("the checkpoint is not signed by the key of this log")
    try:
        for blob in ours:
            key.verify(blob[4:], text)
    except InvalidSignature as error:
        raise BAD_CHECKPOINT("the signature of the checkpoint does not hold") from error
    return checkpoint


def log_signature(note: bytes, public_key: bytes) -> bytes:
    """Return the log's own signature of a note (key hash ‖ signature); ``public_key`` is the raw 32 bytes.

    Raises audit/bad-checkpoint where no line of that key holds.
    """
    checkpoint, text, signatures = parse_checkpoint(note)
    hash_ = key_hash(checkpoint.origin, public_key)
    for name, blob in signatures:
        if name == checkpoint.origin and blob[:4] == hash_ and _holds(public_key, blob[4:], text):
            return blob
    raise BAD_CHECKPOINT("the checkpoint is not signed by the key of this log")


def only_of(note: bytes, public_key_spki: bytes) -> bytes:
    """Return a note with the signature of one key (Ed25519, DER) and of no other.

    Raises audit/bad-checkpoint where no line of that key holds.
    """
    key = load_der_public_key(public_key_spki)
    if not isinstance(key, Ed25519PublicKey):
        raise BAD_CHECKPOINT("the tree-head key is not an Ed25519 key")
    blob = log_signature(note, key.public_bytes_raw())
    checkpoint, text, _ = parse_checkpoint(note)
    return _signed(text, checkpoint.origin, blob)


def _signed(text: bytes, name: str, blob: bytes) -> bytes:
    """Return a note with one signature; ``blob`` is key hash ‖ signature."""
    return text + f"\n\u2014 {name} {base64.b64encode(blob).decode()}\n".encode()


def _holds(public_key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signature(line: str) -> tuple[str, bytes]:
    match = _SIGNATURE.match(line)
    if match is None:
        raise ValueError("malformed signature line")
    blob = base64.b64decode(match["blob"], validate=True)
    if len(blob) < 5:
        raise ValueError("short signature")
    return match["name"], blob
