"""The two kinds of signatures in an export: the hub's signed note, and DSSE statements of writers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

STATEMENT_TYPE = "application/vnd.cellward.audit-checkpoint.v1+json"
STATEMENT_SCHEMA = "cellward.audit-checkpoint/v1"
_P = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
#: The y coordinates of the Ed25519 points of small order, in every encoding: one signature by such a key holds for many
#: messages.
_NOBODYS = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8, _P - _ORDER_8})
EM_DASH = "\u2014"


class Malformed(Exception):
    """What was read is not what it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A checkpoint whose signature held."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """What a writer signed about its chain."""

    realm: str
    uid: str
    epoch: int
    seq: int
    head: str


def unbase64(value: object) -> bytes:
    """Bytes of standard base64; raises Malformed."""
    if not isinstance(value, str):
        raise Malformed("base64 text is expected")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("not base64") from error


def load_key(data: bytes) -> Ed25519PublicKey:
    """Ed25519 public key from DER or PEM; raises Malformed."""
    try:
        key = load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("not a public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Malformed("not an Ed25519 key")
    if int.from_bytes(key.public_bytes_raw(), "little") & ((1 << 255) - 1) in _NOBODYS:
        raise Malformed("a key of small order, by which anybody signs")
    return key


def spki(key: Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_note(note: bytes, key: Ed25519PublicKey) -> TreeHead:
    """Tree head of a C2SP signed note that carries a valid signature of ``key``; raises Malformed."""
    text, found, block = note.rpartition(b"\n\n")
    if not found:
        raise Malformed("the checkpoint has no signature")
    text += b"\n"
    fields = text.split(b"\n")
    if len(fields) < 4 or not fields[1].isdigit() or str(int(fields[1])).encode() != fields[1]:
        raise Malformed("the checkpoint has not the form origin, size, root")
    root = unbase64(fields[2].decode("ascii", "replace"))
    if len(root) != 32:
        raise Malformed("the root in the checkpoint has the wrong length")
    origin = fields[0].decode("utf-8", "replace")
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    hint = hashlib.sha256(fields[0] + b"\n\x01" + raw).digest()[:4]
    for line in block.decode("utf-8", "replace").split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != EM_DASH or parts[1] != origin:
            continue
        blob = unbase64(parts[2])
        if blob[:4] == hint:
            try:
                key.verify(blob[4:], text)
            except InvalidSignature as error:
                raise Malformed("the signature of the checkpoint does not hold") from error
            return TreeHead(origin, int(fields[1]), root)
    raise Malformed("the checkpoint is not signed by the hub key")


def read_statement(envelope: bytes, keys: list[Ed25519PublicKey]) -> tuple[Statement, Ed25519PublicKey]:
    """Statement of a DSSE envelope signed by one of ``keys``, and that key; raises Malformed."""
    try:
        body = json.loads(envelope)
        kind, payload, signatures = body["payloadType"], unbase64(body["payload"]), body["signatures"]
        blobs = [unbase64(item["sig"]) for item in signatures]
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed("the statement is not a DSSE envelope") from error
    if kind != STATEMENT_TYPE:
        raise Malformed("the statement is about something else")
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    for key in keys:
        if any(_holds(key, blob, signed) for blob in blobs):
            return _statement(payload), key
    raise Malformed("the statement is not signed by a key of this writer")


def _holds(key: Ed25519PublicKey, blob: bytes, signed: bytes) -> bool:
    try:
        key.verify(blob, signed)
    except InvalidSignature:
        return False
    return True


def _statement(payload: bytes) -> Statement:
    try:
        body: dict[str, Any] = json.loads(payload)
        statement = Statement(body["realm"], body["uid"], body["epoch"], body["seq"], body["head"])
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed("the statement has not the fields it must have") from error
    numbers, texts = (statement.epoch, statement.seq), (statement.realm, statement.uid, statement.head)
    whole = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
    if body.get("schema") != STATEMENT_SCHEMA or not whole:
        raise Malformed("the statement has not the form it must have")
    return statement
