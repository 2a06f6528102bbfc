"""Keys: only the two kinds used are ever read."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cellward.errors import CellwardError
from cellward.identity import keys
from tests.fakes.refusals import refused


def test_a_private_key_survives_encryption() -> None:
    """PKCS#8 under a passphrase opens with it and holds the same key."""
    key = keys.new_tls_key()
    pem = keys.private_to_pem(key, b"secret")
    assert b"ENCRYPTED" in pem
    assert keys.spki_of(keys.private_from_pem(pem, b"secret")) == keys.spki_of(key)


@pytest.mark.parametrize("passphrase", [b"wrong", None])
def test_a_wrong_passphrase_is_said_clearly(passphrase: bytes | None) -> None:
    """The error names the passphrase, not a parser."""
    pem = keys.private_to_pem(keys.new_signing_key(), b"secret")
    with pytest.raises(CellwardError) as refusal:
        keys.private_from_pem(pem, passphrase)
    assert refusal.value.code == "identity/bad-passphrase"


def test_keys_of_other_kinds_are_refused() -> None:
    """Neither RSA nor another curve is a TLS key here."""
    for private in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(CellwardError) as refusal:
            keys.load_tls_spki(spki)
        assert refusal.value.code == "identity/bad-key"


def test_a_statement_key_is_ed25519_and_nothing_else() -> None:
    """A TLS key is not a statement key, nor the other way round."""
    signing, tls = keys.spki_of(keys.new_signing_key()), keys.spki_of(keys.new_tls_key())
    assert keys.spki_of(keys.load_signing_spki(signing)) == signing
    for spki, load in (
        (tls, keys.load_signing_spki),
        (signing, keys.load_tls_spki),
        (signing + b"\0", keys.load_signing_spki),
    ):
        with refused("identity/bad-key"):
            load(spki)
