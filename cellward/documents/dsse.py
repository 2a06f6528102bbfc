"""DSSE envelopes, keys and single signatures; who may sign what is decided in ``verify``.

An envelope travels as opaque bytes. What identifies a document is the digest of the payload bytes, never the envelope,
because signatures can be added.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cellward.documents import canonical
from cellward.documents.errors import (
    BAD_ENVELOPE,
    BAD_KEY,
    BAD_PASSPHRASE,
    TOO_LARGE,
    TOO_MANY_SIGNATURES,
    UNKNOWN_SCHEME,
)
from cellward.documents.fields import KEYID, Fields
from cellward.identity.points import weakness_of

#: Bound on the payload of one envelope, in bytes.
MAX_PAYLOAD = 512 * 1024
MAX_SIGNATURES = 16
MAX_SIGNATURE_BYTES = 8 * 1024
ED25519 = "ed25519"
ECDSA_P256 = "ecdsa-sha2-nistp256"
#: Schemes this version verifies.
SCHEMES = frozenset({ED25519, ECDSA_P256})


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; ``keyid`` is only a hint where to look for the key."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its type and signatures."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """Identity of the document: digest of the payload bytes."""
        return canonical.digest(self.payload)


class Signer(Protocol):
    """Something that holds a private key."""

    @property
    def keyid(self) -> str:
        """sha256 of the public key's SPKI, 64 hex digits."""
        ...

    @property
    def scheme(self) -> str:
        """Signature scheme, one of :data:`SCHEMES`."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``."""
        ...


class Ed25519Signer:
    """An Ed25519 private key in memory."""

    scheme = ED25519

    def __init__(self, private_key: ed25519.Ed25519PrivateKey) -> None:
        self._key = private_key

    @classmethod
    def generate(cls) -> Ed25519Signer:
        """Make a new key from the system's randomness."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | str | None = None) -> Ed25519Signer:
        """Read a PKCS8 PEM key; raises document/bad-key or document/bad-passphrase."""
        password = passphrase.encode() if isinstance(passphrase, str) else passphrase
        try:
            key = serialization.load_pem_private_key(pem, password)
        except TypeError as error:
            raise BAD_PASSPHRASE("the key is encrypted and no passphrase was given, or the other way round") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            if b"ENCRYPTED" in pem and password is not None:
                raise BAD_PASSPHRASE("the key cannot be opened with this passphrase") from error
            raise BAD_KEY("not a private key in PKCS8 PEM") from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise BAD_KEY("the private key is not an Ed25519 key")
        return cls(key)

    def to_pem(self, passphrase: bytes | str | None) -> bytes:
        """Return PKCS8 PEM, encrypted when a passphrase is given."""
        password = passphrase.encode() if isinstance(passphrase, str) else passphrase
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            if not password:
                raise BAD_PASSPHRASE("an empty passphrase encrypts nothing")
            encryption = serialization.BestAvailableEncryption(password)
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    @property
    def public_spki_der(self) -> bytes:
        """SubjectPublicKeyInfo of the public key, DER."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def keyid(self) -> str:
        """sha256 of the SPKI, 64 hex digits."""
        return keyid_of(self.public_spki_der)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``."""
        return self._key.sign(data)


def keyid_of(spki_der: bytes) -> str:
    """Return the key id: sha256 of the SPKI, 64 hex digits."""
    return hashlib.sha256(spki_der).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope strictly; raises document/bad-envelope, document/too-large, document/too-many-signatures.

    An envelope without signatures parses; that nobody signed it is for the verifier to say.
    """
    fields = Fields(
        canonical.parse(data), ("payload", "payloadType", "signatures"), "the envelope",
        error=BAD_ENVELOPE, unknown=BAD_ENVELOPE,
    )  # fmt: skip
    listed = fields.raw("signatures")
    if not isinstance(listed, list):
        raise BAD_ENVELOPE("signatures is not a list")
    if len(listed) > MAX_SIGNATURES:
        raise TOO_MANY_SIGNATURES(f"{len(listed)} signatures, at most {MAX_SIGNATURES} are allowed")
    return Envelope(
        payload_type=fields.text("payloadType"),
        payload=fields.base64("payload", MAX_PAYLOAD),
        signatures=tuple(_signature(item) for item in listed),
    )


def dump_envelope(envelope: Envelope) -> bytes:
    """Return the envelope's JSON bytes; raises document/too-large or document/too-many-signatures past the bounds."""
    if len(envelope.payload) > MAX_PAYLOAD:
        raise TOO_LARGE(f"the payload has {len(envelope.payload)} bytes, at most {MAX_PAYLOAD} are allowed")
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise TOO_MANY_SIGNATURES(f"{len(envelope.signatures)} signatures, at most {MAX_SIGNATURES} are allowed")
    return canonical.encode(
        {
            "payload": _b64(envelope.payload),
            "payloadType": envelope.payload_type,
            "signatures": [{"keyid": item.keyid, "sig": _b64(item.sig)} for item in envelope.signatures],
        }
    )


def sign_document(payload: bytes, payload_type: str, signers: Sequence[Signer]) -> Envelope:
    """Sign canonical payload bytes with every signer; raises document/not-canonical and its kin for other bytes."""
    canonical.decode(payload)
    if len(payload) > MAX_PAYLOAD:
        raise TOO_LARGE(f"the payload has {len(payload)} bytes, at most {MAX_PAYLOAD} are allowed")
    message = pae(payload_type, payload)
    return Envelope(payload_type, payload, tuple(Signature(signer.keyid, signer.sign(message)) for signer in signers))


def load_public_key(spki_der: bytes, scheme: str) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    """Read a public key and check that scheme, key type and encoding agree.

    One key must have one id, so an SPKI that is not the usual encoding of its key (a compressed point) is refused.
    Raises document/bad-key, document/unknown-scheme.
    """
    if scheme not in SCHEMES:
        raise UNKNOWN_SCHEME(f"scheme {scheme[:40]!r} is not one of {', '.join(sorted(SCHEMES))}")
    try:
        key = serialization.load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BAD_KEY("the public key is not a SubjectPublicKeyInfo") from error
    if scheme == ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
        found: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey = key
    elif scheme == ECDSA_P256 and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        found = key
    else:
        raise BAD_KEY(f"the public key is not one for scheme {scheme}")
    usual = found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if isinstance(found, ed25519.Ed25519PublicKey):
        weak = weakness_of(found.public_bytes_raw())
        if weak:
            raise BAD_KEY(f"the public key cannot be used: {weak}")
    if usual != spki_der:
        raise BAD_KEY("the public key is not in its usual encoding, so it would have two ids")
    return found


def verify_signature(spki_der: bytes, scheme: str, message: bytes, sig: bytes) -> bool:
    """Check one signature of one key; False when it does not hold.

    Raises document/bad-key or document/unknown-scheme when the key itself cannot be used.
    """
    key = load_public_key(spki_der, scheme)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(sig, message)
        else:
            key.verify(sig, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _signature(value: canonical.JSON) -> Signature:
    fields = Fields(value, ("keyid", "sig"), "a signature", error=BAD_ENVELOPE, unknown=BAD_ENVELOPE)
    return Signature(fields.text("keyid", KEYID), fields.base64("sig", MAX_SIGNATURE_BYTES))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
