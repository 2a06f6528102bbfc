"""Issuing and checking certificates: the peer certificate is the identity, all of it is checked (V3, V4)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.names import SpiffeId
from cellward.identity.x509 import (
    Issuer,
    check_times,
    issue_leaf,
    make_ca,
    make_csr,
    prove_peer,
    public_key_of_csr,
    to_pem,
    verify_peer,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DOMAIN = "ab" * 16 + ".cellward"
EU = SpiffeId(DOMAIN, "agent", "eu-1")
CA = make_ca("agents", keys.new_tls_key(), NOW)
KEY = keys.new_tls_key()


def leaf(issuer: Issuer = CA, **more: object) -> x509.Certificate:
    """A good agent leaf unless told otherwise."""
    options: dict[str, object] = {"kind": "agent", "uri": EU, "now": NOW, "generation": 7, **more}
    return issue_leaf(issuer, KEY.public_key(), **options)  # type: ignore[arg-type]


def refused(certificate: x509.Certificate, *, now: datetime = NOW, domain: str = DOMAIN, issuer: Issuer = CA) -> str:
    """Code with which ``verify_peer`` refuses."""
    with pytest.raises(CellwardError) as refusal:
        verify_peer(to_pem(certificate), (issuer.certificate,), now, domain, "agent")
    return refusal.value.code


def test_a_good_leaf_proves_its_name_and_generation() -> None:
    """The identity is read from the certificate, the generation from its serial number."""
    peer = verify_peer(to_pem(leaf()), (CA.certificate,), NOW, DOMAIN, "agent")
    assert (peer.id, peer.name, peer.generation) == (EU, "eu-1", 7)
    assert peer.spki_sha256 == keys.spki_digest(keys.spki_of(KEY))


def test_v5_a_leaf_lives_one_hour_and_cannot_live_longer() -> None:
    """V5: one hour, backdated five minutes at most, never past its issuer."""
    made = leaf()
    assert made.not_valid_after_utc - NOW == timedelta(hours=1)
    assert NOW - made.not_valid_before_utc == timedelta(minutes=5)
    with pytest.raises(ValueError, match="at most an hour"):
        leaf(lifetime=timedelta(hours=2))
    short = make_ca("short", keys.new_tls_key(), NOW, lifetime=timedelta(minutes=10))
    assert leaf(short).not_valid_after_utc == short.certificate.not_valid_after_utc


def test_v4_expired_and_not_yet_valid_are_refused_to_the_second() -> None:
    """V4: valid until its end, inclusive, and not a second longer."""
    made = leaf()
    verify_peer(to_pem(made), (CA.certificate,), made.not_valid_after_utc, DOMAIN, "agent")
    assert refused(made, now=made.not_valid_after_utc + timedelta(seconds=1)) == "identity/expired"
    assert refused(made, now=made.not_valid_before_utc - timedelta(seconds=1)) == "identity/expired"


def test_v4_an_expired_authority_ends_its_leaves() -> None:
    """V4: the chain is checked at the time asked for, not only the leaf."""
    old = make_ca("old", keys.new_tls_key(), NOW - timedelta(days=2), lifetime=timedelta(days=1))
    good = _custom(old)
    assert refused(good, issuer=old) == "identity/expired"


@given(
    seconds=st.integers(-7200, 7200) | st.sampled_from([-601, -600, -599, -301, -300, -299, 599, 600, 601, 3600, 3601]),
    life=st.sampled_from([600, 86400]),
)
def test_v4_what_was_proven_once_ends_exactly_when_a_whole_check_would_refuse(seconds: int, life: int) -> None:
    """V4: at every moment the times alone say what ``verify_peer`` says, of the leaf as of its authority."""
    pem, authorities = to_pem(_LEAVES[life]), (_AUTHORITIES[life].certificate,)
    at = NOW + timedelta(seconds=seconds)
    whole = _outcome(lambda: verify_peer(pem, authorities, at, DOMAIN, "agent"))
    proven = prove_peer(pem, authorities, NOW, DOMAIN, "agent")

    def again() -> object:
        check_times(proven.times, at)
        return proven.identity

    assert _outcome(again) == whole


def test_v3_a_foreign_authority_of_the_same_name_is_refused() -> None:
    """V3: the signature counts, not what the authority calls itself."""
    foreign = make_ca("agents", keys.new_tls_key(), NOW)
    assert refused(leaf(foreign)) == "identity/untrusted"


def test_v3_another_trust_domain_is_refused() -> None:
    """V3: whole trust domains are compared."""
    assert refused(leaf(), domain="cd" * 16 + ".cellward") == "identity/wrong-identity"
    assert refused(leaf(), domain=DOMAIN + ".x") == "identity/wrong-identity"


def test_v3_a_hub_is_not_an_agent() -> None:
    """V3: a leaf for the other part is refused, even from the agents' own authority."""
    hub = leaf(kind="hub", uri=SpiffeId(DOMAIN, "hub", "hub"), dns=("hub.cellward.internal",))
    assert refused(hub) == "identity/wrong-shape"


def _usage(cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _custom(
    issuer: Issuer,
    *,
    names: tuple[x509.GeneralName, ...] = (x509.UniformResourceIdentifier(str(EU)),),
    ca: bool = False,
    signs: tuple[bool, bool] | None = None,
    usages: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    public: object = None,
) -> x509.Certificate:
    """A certificate the trusted authority signed although it never should have."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public or KEY.public_key())  # type: ignore[arg-type]
        .serial_number(1 << 96)
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(*(signs or (ca, ca))), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def _outcome(ask: Callable[[], object]) -> object:
    """What was answered, or the words of the refusal."""
    try:
        return ask()
    except CellwardError as error:
        return (error.code, error.message)


#: Authorities and leaves of which now the one, now the other ends first.
_AUTHORITIES = {life: make_ca("a", keys.new_tls_key(), NOW, lifetime=timedelta(seconds=life)) for life in (600, 86400)}
_LEAVES = {life: _custom(issuer) for life, issuer in _AUTHORITIES.items()}


def _uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize(
    ("certificate", "code"),
    [
        (_custom(CA, names=(_uri(str(EU)), _uri(f"spiffe://{DOMAIN}/agent/us-1"))), "identity/wrong-shape"),
        (_custom(CA, names=(_uri(str(EU)), _uri(str(EU)))), "identity/wrong-shape"),
        (_custom(CA, names=(_uri(str(EU)), x509.DNSName("us-1"))), "identity/wrong-shape"),
        (_custom(CA, names=(x509.DNSName("eu-1"),)), "identity/wrong-shape"),
        (_custom(CA, names=(_uri(f"{EU}/x"),)), "identity/wrong-identity"),
        (_custom(CA, names=(_uri(f"spiffe://{DOMAIN}/hub/eu-1"),)), "identity/wrong-identity"),
        (_custom(CA, ca=True), "identity/wrong-shape"),
        (_custom(CA, ca=True, signs=(False, False)), "identity/wrong-shape"),
        (_custom(CA, signs=(True, False)), "identity/wrong-shape"),
        (_custom(CA, signs=(False, True)), "identity/wrong-shape"),
        (_custom(CA, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)), "identity/wrong-shape"),
        (
            _custom(CA, usages=(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)),
            "identity/wrong-shape",
        ),
        (_custom(CA, usages=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)), "identity/wrong-shape"),
        (_custom(CA, public=ec.generate_private_key(ec.SECP384R1()).public_key()), "identity/wrong-shape"),
    ],
    ids=[
        "two-uris",
        "one-uri-twice",
        "uri-and-dns",
        "no-uri",
        "suffix",
        "hub",
        "ca",
        "ca-alone",
        "cert-sign",
        "crl-sign",
        "server",
        "both",
        "any",
        "p384",
    ],
)
def test_v3_a_leaf_of_another_shape_is_refused_even_from_the_right_authority(
    certificate: x509.Certificate, code: str
) -> None:
    """V3: exactly one URI name, the right usage, not an authority, the right kind of key."""
    assert refused(certificate) == code


def test_v3_a_leaf_cannot_issue() -> None:
    """V3: a certificate signed by an agent's own key is not one link longer, it is nothing."""
    agent = Issuer(leaf(), KEY)
    child = _custom(agent)
    assert refused(child) == "identity/untrusted"
    with pytest.raises(CellwardError) as refusal:
        verify_peer(to_pem(child), (CA.certificate, agent.certificate), NOW, DOMAIN, "agent")
    assert refusal.value.code == "identity/untrusted"


@pytest.mark.parametrize("pem", [b"", b"garbage", to_pem(leaf()) * 2, b"x" * 20000])
def test_v16_unreadable_certificates_are_refused(pem: bytes) -> None:
    """V16: what cannot be read is refused with a code of its own."""
    with pytest.raises(CellwardError) as refusal:
        verify_peer(pem, (CA.certificate,), NOW, DOMAIN, "agent")
    assert refusal.value.code in {"identity/bad-certificate", "identity/wrong-shape"}


def test_a_request_gives_its_key_and_nothing_else() -> None:
    """V3: the public key is all that is taken."""
    assert keys.spki_of(public_key_of_csr(make_csr(KEY))) == keys.spki_of(KEY)
    named = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    key = public_key_of_csr(named.public_bytes(Encoding.DER))
    issued = issue_leaf(CA, key, kind="agent", uri=EU, now=NOW)
    assert not list(issued.subject)
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
