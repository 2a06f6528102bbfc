"""Envelopes, keys, single signatures."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import dsse as reference

from cellward.documents import canonical, dsse
from cellward.errors import CellwardError, TooNew
from tests.fakes.refusals import refused
from tests.vectors.generate import signer

KIND = "application/vnd.cellward.release.v1+json"
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def code_of(data: bytes) -> str:
    """Return the code that parsing an envelope raises."""
    with pytest.raises(CellwardError) as caught:
        dsse.parse_envelope(data)
    return caught.value.code


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), st.binary(max_size=200))
def test_what_is_signed_agrees_with_another_implementation(kind: str, payload: bytes) -> None:
    """The pre-authentication encoding is securesystemslib's, byte for byte."""
    assert dsse.pae(kind, payload) == reference.Envelope(payload, kind, {}).pae()


@given(st.binary(max_size=100), st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=16))
def test_envelope_round_trip(payload: bytes, listed: list[tuple[int, bytes]]) -> None:
    """An envelope survives its bytes, with every signature."""
    signatures = tuple(dsse.Signature(f"{number:064x}", sig) for number, sig in listed)
    envelope = dsse.Envelope(KIND, payload, signatures)
    assert dsse.parse_envelope(dsse.dump_envelope(envelope)) == envelope
    assert envelope.digest == canonical.digest(payload)


def test_envelope_may_be_spelled_freely_but_not_ambiguously() -> None:
    """White space and order are free, because identity is the payload's; a duplicate or unknown key is refused."""
    data = dsse.dump_envelope(dsse.sign_document(b"{}", KIND, [signer(1)]))
    assert dsse.parse_envelope(json.dumps(json.loads(data), indent=2).encode()) == dsse.parse_envelope(data)
    assert code_of(data.replace(b'"payload":', b'"payload":"e30=","payload":')) == "document/duplicate-key"
    assert code_of(data.replace(b'{"payload"', b'{"note":1,"payload"')) == "document/bad-envelope"
    assert code_of(data.replace(b'{"keyid"', b'{"cert":"","keyid"')) == "document/bad-envelope"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"payload": "e30"}, "document/bad-envelope"),
        ({"payload": "e30=\n"}, "document/bad-envelope"),
        ({"payload": "e31="}, "document/bad-envelope"),
        ({"payload": 5}, "document/bad-envelope"),
        ({"payloadType": 5}, "document/bad-envelope"),
        ({"payloadType": "x" * 300}, "document/bad-envelope"),
        ({"signatures": {}}, "document/bad-envelope"),
        ({"signatures": ["x"]}, "document/bad-envelope"),
        ({"signatures": [{"keyid": "ab", "sig": ""}]}, "document/bad-envelope"),
        ({"signatures": [{"keyid": "0" * 64, "sig": ""}] * 17}, "document/too-many-signatures"),
        ({"payload": base64.b64encode(b"a" * (dsse.MAX_PAYLOAD + 1)).decode()}, "document/bad-envelope"),
    ],
)
def test_malformed_envelopes(change: dict[str, object], code: str) -> None:
    """V16: each malformed part has a stable code; base64 has one spelling only."""
    whole = {"payload": "e30=", "payloadType": KIND, "signatures": []} | change
    assert code_of(json.dumps(whole).encode()) == code


def test_an_unsigned_envelope_parses() -> None:
    """That nobody signed is the verifier's to say, with a better reason than bad form."""
    assert dsse.parse_envelope(dsse.dump_envelope(dsse.Envelope(KIND, b"{}", ()))).signatures == ()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{ }", "document/not-canonical"),
        (b'{"a":1.0}', "document/unsupported-value"),
        (b"not json", "document/not-json"),
    ],
)
def test_only_canonical_payloads_are_signed(payload: bytes, code: str) -> None:
    """What could be read in two ways is never signed."""
    with refused(code):
        dsse.sign_document(payload, KIND, [signer(1)])


def test_too_large_payload_is_not_signed() -> None:
    """The payload bound holds on the authoring side already."""
    payload = canonical.encode("a" * dsse.MAX_PAYLOAD)
    with pytest.raises(CellwardError) as caught:
        dsse.sign_document(payload, KIND, [signer(1)])
    assert caught.value.code == "document/too-large"


def test_ed25519_signature() -> None:
    """A signature holds for its key and message only."""
    one, two = signer(1), signer(2)
    sig = one.sign(b"message")
    assert dsse.verify_signature(one.public_spki_der, dsse.ED25519, b"message", sig)
    assert not dsse.verify_signature(one.public_spki_der, dsse.ED25519, b"massage", sig)
    assert not dsse.verify_signature(two.public_spki_der, dsse.ED25519, b"message", sig)
    assert not dsse.verify_signature(one.public_spki_der, dsse.ED25519, b"message", sig[:-1])
    assert not dsse.verify_signature(one.public_spki_der, dsse.ED25519, b"message", b"")


def test_ecdsa_signature() -> None:
    """The second scheme verifies too, and not under the first one's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, SPKI)
    sig = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    assert dsse.verify_signature(spki, dsse.ECDSA_P256, b"message", sig)
    assert not dsse.verify_signature(spki, dsse.ECDSA_P256, b"other", sig)
    assert not dsse.verify_signature(spki, dsse.ECDSA_P256, b"message", b"junk")
    with pytest.raises(CellwardError) as caught:
        dsse.verify_signature(spki, dsse.ED25519, b"message", sig)
    assert caught.value.code == "document/bad-key"


def compressed(spki: bytes) -> bytes:
    """Return the same P-256 key with a compressed point."""
    point = spki[-65:]
    short = bytes([2 + (point[-1] & 1)]) + point[1:33]
    inner = spki[2:23] + b"\x03" + bytes([len(short) + 1]) + b"\x00" + short
    return b"\x30" + bytes([len(inner)]) + inner


def test_one_key_has_one_encoding() -> None:
    """A compressed point would give one key a second id, so it is refused although it is the same key."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = compressed(key.public_bytes(serialization.Encoding.DER, SPKI))
    loaded = serialization.load_der_public_key(other)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    assert loaded.public_numbers() == key.public_numbers()
    with pytest.raises(CellwardError) as caught:
        dsse.load_public_key(other, dsse.ECDSA_P256)
    assert caught.value.code == "document/bad-key"


def test_unknown_scheme_is_too_new() -> None:
    """A scheme of a later version is refused as too new, not as broken."""
    with pytest.raises(TooNew):
        dsse.load_public_key(signer(1).public_spki_der, "ml-dsa-65")


@pytest.mark.parametrize("passphrase", [None, "correct horse", b"bytes"])
def test_pem_round_trip(passphrase: str | bytes | None) -> None:
    """A key survives its PEM, encrypted when a passphrase is given."""
    pem = signer(1).to_pem(passphrase)
    assert dsse.Ed25519Signer.from_pem(pem, passphrase).keyid == signer(1).keyid
    assert (b"ENCRYPTED" in pem) is (passphrase is not None)


@pytest.mark.parametrize(
    ("made", "given_", "code"),
    [
        ("right", "wrong", "document/bad-passphrase"),
        ("right", None, "document/bad-passphrase"),
        (None, "needless", "document/bad-passphrase"),
    ],
)
def test_wrong_passphrase(made: str | None, given_: str | None, code: str) -> None:
    """A wrong, missing or needless passphrase says so."""
    with pytest.raises(CellwardError) as caught:
        dsse.Ed25519Signer.from_pem(signer(1).to_pem(made), given_)
    assert caught.value.code == code


def test_other_keys_are_refused() -> None:
    """Only Ed25519 keys sign; an empty passphrase encrypts nothing and is refused."""
    foreign = ed448.Ed448PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (foreign, b"junk"):
        with pytest.raises(CellwardError) as caught:
            dsse.Ed25519Signer.from_pem(pem)
        assert caught.value.code == "document/bad-key"
    with refused("document/bad-passphrase"):
        signer(1).to_pem("")


@pytest.mark.parametrize("name", ["\\ud800", "\\u001b[2J", "\\n"])
def test_v16_a_field_named_by_a_stranger_is_quoted_in_the_refusal(name: str) -> None:
    """V16: the refusal of one malformed envelope travels to the hub; nothing in it may keep it from being sent."""
    data = f'{{"payload":"","payloadType":"x","signatures":[],"{name}":1}}'.encode()
    with pytest.raises(CellwardError) as caught:
        dsse.parse_envelope(data)
    for text in (caught.value.message, *caught.value.details.values()):
        text.encode()
        assert text.isprintable()
