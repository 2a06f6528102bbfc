"""Anchors: what an auditor brings that the hub cannot have made up, and how far it reaches into a log.

A hub that holds its tree-head key can sign any history. What it cannot do is change what others kept:

- a statement key that the auditor knows to be a cluster's own anchors the records it signed, and every earlier record
  of the log, because its records hold the tree heads that the agent saw;
- a checkpoint that the auditor kept anchors the records below its size;
- with witness keys (C2SP ``tlog-cosignature``), a checkpoint counts only if one of these witnesses has co-signed it, so
  it may come from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from auditverify.signatures import EM_DASH, Malformed, TreeHead, read_note, unbase64

_COSIGNATURE = b"\x04"
#: Lines of one witness that are tried in a note.
MAX_TRIED = 64


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness known to the auditor: its name, and its raw Ed25519 key."""

    name: str
    key: bytes

    @property
    def hint(self) -> bytes:
        """The four bytes that name its key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.key).digest()[:4]


def parse_witness(text: str) -> Witness:
    """Read ``name+hash+base64 of 0x04 and the key``; raises Malformed."""
    name, _, rest = text.strip().partition("+")
    digest, _, encoded = rest.partition("+")
    blob = unbase64(encoded)
    witness = Witness(name, blob[1:])
    if not name or blob[:1] != _COSIGNATURE or len(blob) != 33 or digest != witness.hint.hex():
        raise Malformed(f"{text[:80]!r} is not the verifier key of a witness")
    return witness


def read_anchor(note: bytes, hub_key: Ed25519PublicKey, witnesses: Sequence[Witness]) -> TreeHead:
    """Tree head of a checkpoint signed by the hub and, if witnesses are known, by one of them; raises Malformed."""
    head = read_note(note, hub_key)
    if witnesses and not any(_cosigned(note, witness) for witness in witnesses):
        raise Malformed("no witness that you name has co-signed the checkpoint, or no cosignature holds")
    return head


def _cosigned(note: bytes, witness: Witness) -> bool:
    """Whether a note carries a valid cosignature/v1 of a witness, among the first MAX_TRIED lines that look like one.

    Anybody can put a line with a witness's name and hint into a note, so one that does not hold says nothing of those
    behind it, nor of other witnesses.
    """
    text, _, block = note.rpartition(b"\n\n")
    tried = 0
    for line in block.decode("utf-8", "replace").split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != EM_DASH or parts[1] != witness.name:
            continue
        blob = _decoded(parts[2])
        if blob[:4] != witness.hint:
            continue
        if tried == MAX_TRIED:
            break
        tried += 1
        signed = b"cosignature/v1\ntime %d\n%s\n" % (int.from_bytes(blob[4:12], "big"), text)
        try:
            Ed25519PublicKey.from_public_bytes(witness.key).verify(blob[12:], signed)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


def _decoded(text: str) -> bytes:
    try:
        return unbase64(text)
    except Malformed:
        return b""


@dataclass(slots=True)
class Placed:
    """Where each record of the log stands in its writer's chain, by index."""

    records: list[tuple[str, int, int]]

    def uncovered(self, size: int, signed: dict[tuple[str, int], int]) -> Iterable[int]:
        """Indexes that neither lie below ``size`` nor within what a known key signed of their epoch."""
        return (
            index
            for index, (origin, epoch, seq) in enumerate(self.records)
            if index >= size and seq > signed.get((origin, epoch), 0)
        )
