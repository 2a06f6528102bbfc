"""A corpus of forged certificate requests: only the key is taken, or the request is refused (V3, V16)."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.x509 import load_certificates, make_csr, public_key_of_csr, verify_peer
from hub.authority.model import Attempt
from tests.fakes.authority import REALM, FakeHub
from tests.fakes.clock import ManualClock

KEY = keys.new_tls_key()
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DOMAIN = "ab" * 16 + ".cellward"
US = f"spiffe://{DOMAIN}/agent/us-1"


def request(
    *,
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = (),
    names: tuple[x509.GeneralName, ...] = (),
    ca: bool = False,
    key: object = KEY,
    algorithm: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008
) -> bytes:
    """A request that claims whatever it is told to."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, algorithm)  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.DER)


CLAIMS = {
    "prefix-name": request(subject=((NameOID.COMMON_NAME, "eu-1xyz"),)),
    "other-name": request(names=(x509.UniformResourceIdentifier(US),)),
    "extra-organisation": request(
        subject=((NameOID.ORGANIZATION_NAME, "cellward:agents"), (NameOID.ORGANIZATION_NAME, "system:masters"))
    ),
    "two-uris": request(
        names=(x509.UniformResourceIdentifier(US), x509.UniformResourceIdentifier(US.replace("us-1", "eu-1")))
    ),
    "dns-of-the-hub": request(names=(x509.DNSName("hub.cellward.internal"),)),
    "authority": request(ca=True),
    "unicode": request(subject=((NameOID.COMMON_NAME, "\u0435u-1"),)),
    "null-in-name": request(subject=((NameOID.COMMON_NAME, "eu-1\0.example"),)),
    "long-name": request(names=(x509.DNSName("a" * 2000),)),
}


def hub() -> FakeHub:
    """A hub with one cluster that nobody joined as."""
    made = FakeHub(ManualClock(NOW))
    made.clusters.create("eu-1")
    return made


def attempt(token: str, csr: bytes) -> Attempt:
    """A join that is good apart from its request."""
    statement = keys.spki_of(ed25519.Ed25519PrivateKey.generate())
    return Attempt(token, csr, REALM, "6f9619ff-8b86-4011-b42d-00c04fc964ff", statement, "127.0.0.1")


@pytest.mark.parametrize("csr", CLAIMS.values(), ids=CLAIMS.keys())
async def test_v3_claims_in_a_request_change_nothing(csr: bytes) -> None:
    """V3: the certificate names the cluster of the token, and nothing the request says."""
    here = hub()
    joined = await here.identity.join(attempt(await here.join_tokens.mint("eu-1"), csr))
    leaf = load_certificates(joined.certificate.chain_pem)[0]
    peer = verify_peer(
        leaf.public_bytes(serialization.Encoding.PEM), here.authority.agent_authorities, NOW, DOMAIN, "agent"
    )
    assert str(peer.id) == f"spiffe://{DOMAIN}/agent/eu-1"
    assert not list(leaf.subject)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _signed_by_another() -> bytes:
    """A good request, whole and well-formed, that another key signed: the key inside was never proven."""
    thief = keys.new_tls_key()
    while True:
        mine = request()
        parsed = x509.load_der_x509_csr(mine)
        foreign = thief.sign(parsed.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
        # Signatures vary in length by a byte or two, and lengths are part of the encoding around them.
        if len(foreign) == len(parsed.signature):
            break
    forged = mine.replace(parsed.signature, foreign)
    assert x509.load_der_x509_csr(forged).tbs_certrequest_bytes == parsed.tbs_certrequest_bytes
    assert not x509.load_der_x509_csr(forged).is_signature_valid
    return forged


def _other_key_inside() -> bytes:
    """A request in which the key was exchanged after it was signed: proof of possession of the wrong key."""
    stolen = keys.new_tls_key().public_key()
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    other = stolen.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return request().replace(point, other)


REFUSED = {
    "rsa-2048": request(key=rsa.generate_private_key(65537, 2048)),
    "p384": request(key=ec.generate_private_key(ec.SECP384R1())),
    "k1": request(key=ec.generate_private_key(ec.SECP256K1())),
    "ed25519": request(key=ed25519.Ed25519PrivateKey.generate(), algorithm=None),
    "signature-of-another": _signed_by_another(),
    "key-exchanged": _other_key_inside(),
    "trailing-bytes": request() + b"\0",
    "truncated": request()[:-1],
    "pem": x509.load_der_x509_csr(request()).public_bytes(serialization.Encoding.PEM),
    "certificate-not-request": FakeHub(ManualClock(NOW)).keys.agent_ca.certificate.public_bytes(
        serialization.Encoding.DER
    ),
    "oversized": request(names=(x509.DNSName("a" * 8000),)),
    "empty": b"",
}


@pytest.mark.parametrize("csr", REFUSED.values(), ids=REFUSED.keys())
async def test_v3_a_request_without_proof_or_with_another_key_is_refused(csr: bytes) -> None:
    """V3, V6: nothing is issued, nothing is bound, and the token is not spent."""
    here = hub()
    token = await here.join_tokens.mint("eu-1")
    with pytest.raises(CellwardError) as refusal:
        await here.identity.join(attempt(token, csr))
    assert refusal.value.code in {"identity/bad-request", "identity/bad-key", "authority/bad-join"}
    assert here.clusters.rows["eu-1"].uid == ""
    assert {spent for _, _, spent in here.tokens.rows.values()} == {""}


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_v16_mutated_requests_are_refused_with_one_of_two_codes() -> None:
    """V16: a thousand mutations of a good request: each is refused cleanly, or still proves the very same key."""
    rng = random.Random(20261123)
    good = make_csr(KEY)
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            code, key = "", public_key_of_csr(bytes(data))
        except CellwardError as error:
            code = error.code
        assert code in {"", "identity/bad-request", "identity/bad-key"}
        assert code or keys.spki_of(key) == keys.spki_of(KEY)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_v16_mutated_certificates_are_refused_or_prove_the_same_peer() -> None:
    """V3, V16: of a thousand mutations of a good certificate none proves another identity."""
    here = FakeHub(ManualClock(NOW))
    chain = here.authority.issue_agent("eu-1", keys.spki_of(KEY), 1).chain_pem
    good = load_certificates(chain)[0].public_bytes(serialization.Encoding.DER)
    rng = random.Random(20261124)
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(data)) + b"-----END CERTIFICATE-----\n"
        try:
            verify_peer(pem, here.authority.agent_authorities, NOW, DOMAIN, "agent")
        except CellwardError as error:
            code = error.code
        else:
            code = ""
        assert code.startswith("identity/") or bytes(data) == good
