"""Verifier keys of logs in the C2SP signed-note form: ``<origin>+<key hash in hex>+<base64 of 0x01 and the key>``.

Welcome carries one in ``log_origin``, so that an agent can pin the log's key at first contact. Nothing is trusted
because of it: the key hash only guards against a slip of the pen.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cellward.audit.checkpoint import key_hash
from cellward.audit.errors import BAD_CHECKPOINT
from cellward.identity.points import weakness_of

_ED25519 = b"\x01"


def format_vkey(origin: str, spki_der: bytes) -> str:
    """Return the verifier key of a log; raises audit/bad-checkpoint for a key that is not Ed25519."""
    key = load_der_public_key(spki_der)
    if not isinstance(key, Ed25519PublicKey):
        raise BAD_CHECKPOINT("the tree-head key is not an Ed25519 key")
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"{origin}+{key_hash(origin, raw).hex()}+{base64.b64encode(_ED25519 + raw).decode('ascii')}"


def parse_vkey(text: str) -> tuple[str, bytes]:
    """Return origin and SubjectPublicKeyInfo (DER) of a verifier key; raises audit/bad-checkpoint."""
    origin, _, rest = text.partition("+")
    digest, _, encoded = rest.partition("+")
    try:
        blob = base64.b64decode(encoded, validate=True)
        raw = blob[1:]
        if not origin or blob[:1] != _ED25519 or digest != key_hash(origin, raw).hex():
            raise BAD_CHECKPOINT("the verifier key of the log is malformed")
        if weak := weakness_of(raw):
            raise BAD_CHECKPOINT(f"the verifier key of the log cannot be used: {weak}")
        key = Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError) as error:
        raise BAD_CHECKPOINT("the verifier key of the log is malformed") from error
    return origin, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
