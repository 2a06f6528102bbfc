"""What an agent whose certificate has expired signs to get another one, the same on both sides. Pure.

The hub's nonce, the realm, the uid and the new key are signed by the key that is bound: who holds that key, and nobody
else, says which key comes next. Every part has one length, and the text in front is signed for nothing else.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cellward.identity.errors import BAD_NONCE
from cellward.identity.keys import load_tls_spki

#: Bytes of a nonce, not more and not less: an agent signs nothing else that a hub chose.
NONCE_BYTES: Final = 48
#: Longest signature taken, bytes: ECDSA over P-256 in DER has at most 72.
MAX_SIGNATURE: Final = 80
_CONTEXT: Final = b"cellward.recover/v1\0"


def sign_recovery(bound: ec.EllipticCurvePrivateKey, nonce: bytes, realm: str, uid: str, new_spki: bytes) -> bytes:
    """Sign with the bound key; raises identity/bad-nonce for a nonce of another length."""
    return bound.sign(_message(nonce, realm, uid, new_spki), ec.ECDSA(hashes.SHA256()))


def is_recovery_signed(
    bound_spki: bytes, signature: bytes, nonce: bytes, realm: str, uid: str, new_spki: bytes
) -> bool:
    """Whether the holder of ``bound_spki`` signed; raises identity/bad-key for what is no TLS key."""
    key = load_tls_spki(bound_spki)
    if not 0 < len(signature) <= MAX_SIGNATURE or len(nonce) != NONCE_BYTES:
        return False
    try:
        key.verify(signature, _message(nonce, realm, uid, new_spki), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _message(nonce: bytes, realm: str, uid: str, new_spki: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise BAD_NONCE(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return b"".join((_CONTEXT, nonce, realm.encode(), uid.encode(), new_spki))
