"""Keys: EC P-256 for TLS, Ed25519 for statements and logs; their PEM and DER forms.

A key of another kind or curve is refused before anything is computed with it, so that a large RSA modulus or an odd
curve costs the reader nothing.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cellward.identity.errors import BAD_KEY, BAD_PASSPHRASE
from cellward.identity.points import weakness_of

#: Longest SubjectPublicKeyInfo taken, in bytes: P-256 has 91, Ed25519 has 44.
MAX_SPKI = 128

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """Make an EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_signing_key() -> ed25519.Ed25519PrivateKey:
    """Make an Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def spki_of(key: PrivateKey | PublicKey) -> bytes:
    """SubjectPublicKeyInfo of a key, DER."""
    public = key if isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) else key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_digest(spki_der: bytes) -> str:
    """Key id: 64 hex digits of SHA-256 over the SubjectPublicKeyInfo."""
    return hashlib.sha256(spki_der).hexdigest()


def check_tls_public_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return ``key`` when it is EC P-256; raises identity/bad-key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BAD_KEY("a TLS key must be EC P-256")
    return key


def load_tls_spki(spki_der: bytes) -> ec.EllipticCurvePublicKey:
    """Read an EC P-256 SubjectPublicKeyInfo in its one DER form; raises identity/bad-key."""
    key = check_tls_public_key(_load_spki(spki_der))
    if spki_of(key) != spki_der:
        raise BAD_KEY("the public key is not in its canonical DER form")
    return key


def load_signing_spki(spki_der: bytes) -> ed25519.Ed25519PublicKey:
    """Read an Ed25519 SubjectPublicKeyInfo in its one DER form; raises identity/bad-key."""
    key = _load_spki(spki_der)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise BAD_KEY("a statement key must be Ed25519")
    if weak := weakness_of(key.public_bytes_raw()):
        raise BAD_KEY(f"the public key cannot be used: {weak}")
    if spki_of(key) != spki_der:
        raise BAD_KEY("the public key is not in its canonical DER form")
    return key


def _load_spki(spki_der: bytes) -> object:
    if len(spki_der) > MAX_SPKI:
        raise BAD_KEY(f"the public key has {len(spki_der)} bytes, at most {MAX_SPKI} are taken")
    try:
        return serialization.load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm):
        raise BAD_KEY("the public key cannot be read") from None


def private_to_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 PEM, encrypted when a passphrase is given."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def private_from_pem(pem: bytes, passphrase: bytes | None) -> PrivateKey:
    """Read a private key; raises identity/bad-passphrase or identity/bad-key."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError:
        # cryptography says by TypeError that a passphrase is missing, or was given for a key without one.
        raise BAD_PASSPHRASE("the key is encrypted and no passphrase was given, or the other way round") from None
    except ValueError as error:
        if passphrase is not None and b"ENCRYPTED" in pem:
            raise BAD_PASSPHRASE("the key does not open with this passphrase, or its file is damaged") from error
        raise BAD_KEY("the private key cannot be read") from error
    except UnsupportedAlgorithm:
        raise BAD_KEY("the private key is of a kind that is not supported") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise BAD_KEY("a private key must be EC P-256 or Ed25519")
