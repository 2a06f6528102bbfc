"""Signing TUF metadata with our own keys: the form of a key, of a signature."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import Key, Signature, Signer, SSlibKey
from tuf.api.metadata import Metadata, T

from cellward.documents.dsse import keyid_of
from cellward.identity.points import weakness_of
from cellward.policy.errors import BAD_ROOT

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer


class TufSigner(Signer):
    """Lets a :class:`cellward.documents.dsse.Ed25519Signer` sign TUF metadata; the key id is ours, sha256 of SPKI."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self._signer = signer
        self._public = tuf_key(signer.public_spki_der)

    @property
    def public_key(self) -> SSlibKey:
        """The key as TUF writes it."""
        return self._public

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None) -> TufSigner:
        """Not offered: keys come from :class:`Ed25519Signer` alone."""
        raise NotImplementedError(priv_key_uri)

    def sign(self, payload: bytes) -> Signature:
        """Sign bytes."""
        return Signature(self._public.keyid, self._signer.sign(payload).hex())


def tuf_key(spki_der: bytes) -> SSlibKey:
    """Return the TUF form of a public key; raises policy/bad-root for a kind that is not known here."""
    try:
        public = load_der_public_key(spki_der)
    except ValueError as error:
        raise BAD_ROOT("a public key does not parse") from error
    if not isinstance(public, Ed25519PublicKey | EllipticCurvePublicKey):
        raise BAD_ROOT("a public key is neither Ed25519 nor ECDSA P-256")
    if isinstance(public, Ed25519PublicKey) and (weak := weakness_of(public.public_bytes_raw())):
        raise BAD_ROOT(f"a public key cannot be used: {weak}")
    return SSlibKey.from_crypto(public, keyid=keyid_of(spki_der))


def expiry(now: datetime, life: timedelta) -> datetime:
    """Return an expiry in whole seconds, as TUF writes it."""
    return (now + life).replace(microsecond=0)


def sign_metadata(metadata: Metadata[T], signers: Sequence[Ed25519Signer]) -> bytes:
    """Add the signature of every signer and return the metadata's bytes."""
    for signer in signers:
        metadata.sign(TufSigner(signer), append=True)
    return metadata.to_bytes()
