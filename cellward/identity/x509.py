"""Certificates: requests, issuing, and ``verify_peer``, the one check of who is at the other end (V3, V4).

State shapes: a leaf lives one hour, is backdated at most five minutes, has exactly one URI name (agents: nothing
else; hubs: also DNS and IP names), one extended key usage, and is never an authority. Its serial number carries the
generation of the identity (V7) in the bits above 96 and 96 random bits below, so that a peer's generation is read
from its certificate and from nothing it says. Chains have exactly two links: the leaf and the authority that issued
it.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cellward.errors import CellwardError
from cellward.identity.errors import (
    BAD_CERTIFICATE,
    BAD_KEY,
    BAD_REQUEST,
    EXPIRED,
    UNTRUSTED,
    WRONG_IDENTITY,
    WRONG_SHAPE,
)
from cellward.identity.keys import check_tls_public_key, spki_digest, spki_of
from cellward.identity.names import Kind, SpiffeId

#: Life of a leaf (V5).
LEAF_LIFETIME = timedelta(hours=1)
#: How far a leaf is backdated, for clocks that are a little behind.
BACKDATE = timedelta(minutes=5)
#: Life of an issuing authority.
CA_LIFETIME = timedelta(days=3650)
#: Longest request taken, in bytes.
MAX_CSR = 4096
#: Longest PEM of one peer certificate taken, in bytes.
MAX_CERTIFICATE_PEM = 16384
_RANDOM_BITS = 96
_USAGE = {"agent": ExtendedKeyUsageOID.CLIENT_AUTH, "hub": ExtendedKeyUsageOID.SERVER_AUTH}
#: What cryptography raises for bytes it cannot understand; its own classes are not ValueErrors.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
_REQUEST_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate authority with its key. Agents and hubs have separate ones."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a peer's certificate proves: ``generation`` is from its serial number, ``spki_sha256`` is hex."""

    id: SpiffeId
    not_after: datetime
    serial: int
    generation: int
    spki_sha256: str

    @property
    def name(self) -> str:
        """Last part of the SPIFFE ID: a cluster's name for agents."""
        return self.id.name


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when one certificate of a chain is valid, both inclusive; ``what`` names it in a refusal."""

    what: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ProvenPeer:
    """Outcome of a whole check of ``certificate_pem``. From then on only time can end it; ``check_times`` says."""

    identity: PeerIdentity
    times: tuple[Validity, ...]
    certificate_pem: bytes = field(repr=False)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER request with an empty subject; the issuer takes nothing from it but the key."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def public_key_of_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """Public key of a request whose proof of possession holds; names and extensions in it are not even read.

    Raises identity/bad-request, identity/bad-key.
    """
    if not csr_der or len(csr_der) > MAX_CSR:
        raise BAD_REQUEST(f"the request has {len(csr_der)} bytes, between 1 and {MAX_CSR} are taken")
    try:
        request = x509.load_der_x509_csr(csr_der)
        # The kind of key is checked before any signature is: an RSA key of 16 Kibit must cost nothing.
        key = check_tls_public_key(request.public_key())
        algorithm = request.signature_hash_algorithm
        if not isinstance(algorithm, _REQUEST_HASHES):
            raise BAD_REQUEST("the request is not signed with ECDSA over SHA-256 or better")
        proven = request.is_signature_valid
    except CellwardError:
        raise
    except _UNREADABLE:
        raise BAD_REQUEST("the request cannot be read") from None
    if not proven:
        raise BAD_REQUEST("the request is not signed by the key it asks a certificate for")
    return key


def make_ca(
    common_name: str, key: ec.EllipticCurvePrivateKey, now: datetime, *, lifetime: timedelta = CA_LIFETIME
) -> Issuer:
    """Self-signed issuing authority that may issue leaves only (path length 0)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(secrets.randbits(127) | (1 << 126))
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def issue_leaf(  # noqa: PLR0913  what a leaf says, each part by name
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    *,
    kind: Kind,
    uri: SpiffeId | None,
    now: datetime,
    generation: int = 1,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    lifetime: timedelta = LEAF_LIFETIME,
    backdate: timedelta = BACKDATE,
) -> x509.Certificate:
    """Issue a leaf. An agent has its URI and nothing else; a hub may still lack one (before its realm is known).

    Raises identity/bad-key for another kind of key; ValueError for a programming mistake.
    """
    check_tls_public_key(public_key)
    if lifetime > LEAF_LIFETIME or backdate > BACKDATE or not 0 < generation < 1 << 32:
        raise ValueError("a leaf lives at most an hour, is backdated at most five minutes, and has a 32-bit generation")
    if kind == "agent" and (uri is None or dns or ips):
        raise ValueError("an agent's leaf has one URI name and no other")
    if uri is not None and uri.kind != kind:
        raise ValueError("the URI names another kind")
    names: list[x509.GeneralName] = [] if uri is None else [x509.UniformResourceIdentifier(str(uri))]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number((generation << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS))
        .not_valid_before(now - backdate)
        .not_valid_after(min(now + lifetime, issuer.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[kind]]), critical=False)
        # Critical because the subject is empty (RFC 5280 §4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def load_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read one or more PEM certificates; raises identity/bad-certificate."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE:
        raise BAD_CERTIFICATE("the PEM holds no readable certificate") from None


def authority_keyids(pem: bytes) -> tuple[str, ...]:
    """Return the key ids of authorities in PEM, in order; raises identity/bad-certificate, identity/bad-key."""
    try:
        return tuple(spki_digest(spki_of(check_tls_public_key(one.public_key()))) for one in load_certificates(pem))
    except _UNREADABLE:
        raise BAD_CERTIFICATE("a certificate has a key that cannot be read") from None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return False


def to_pem(certificate: x509.Certificate) -> bytes:
    """PEM of one certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def verify_peer(
    certificate_pem: bytes, authorities: Sequence[x509.Certificate], now: datetime, trust_domain: str, kind: Kind
) -> PeerIdentity:
    """Say who holds this certificate, or refuse (V3, V4). Pure: the same arguments give the same answer.

    Raises identity/bad-certificate, identity/untrusted, identity/expired, identity/wrong-shape or
    identity/wrong-identity.
    """
    return prove_peer(certificate_pem, authorities, now, trust_domain, kind).identity


def prove_peer(
    certificate_pem: bytes, authorities: Sequence[x509.Certificate], now: datetime, trust_domain: str, kind: Kind
) -> ProvenPeer:
    """``verify_peer`` with what is needed to ask again at another time, which only ``check_times`` depends on.

    For the same certificate, authorities, domain and kind it gives the same identity whenever ``check_times`` passes,
    and raises what that raises otherwise.
    """
    if len(certificate_pem) > MAX_CERTIFICATE_PEM:
        raise WRONG_SHAPE("the peer's certificate is too large")
    found = load_certificates(certificate_pem)
    if len(found) != 1:
        raise WRONG_SHAPE("the peer's own certificate is one, not several")
    leaf = found[0]
    try:
        times = _times(leaf, _issuer_of(leaf, authorities))
        check_times(times, now)
        peer = _check_shape(leaf, kind)
    except _UNREADABLE:
        raise WRONG_SHAPE("the peer's certificate cannot be understood") from None
    if peer.id.trust_domain != trust_domain or peer.id.kind != kind:
        raise WRONG_IDENTITY(f"{peer.id} is not {kind} of trust domain {trust_domain}", peer=peer.id)
    return ProvenPeer(peer, times, certificate_pem)


def check_times(times: Sequence[Validity], now: datetime) -> None:
    """Refuse a chain of which a part is not valid now (V4); raises identity/expired."""
    for part in times:
        if not part.begins <= now <= part.ends:
            ends = part.ends.isoformat()
            raise EXPIRED(f"the peer's {part.what} is valid until {ends} and it is {now.isoformat()}", not_after=ends)


def _issuer_of(leaf: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate:
    issuer = next((ca for ca in authorities if _issued_by(leaf, ca)), None)
    if issuer is None:
        raise UNTRUSTED("no authority trusted here issued the peer's certificate")
    return issuer


def _times(leaf: x509.Certificate, issuer: x509.Certificate) -> tuple[Validity, ...]:
    return tuple(
        Validity(what, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        for what, certificate in (("certificate", leaf), ("authority", issuer))
    )


def _issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
        return authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def _check_shape(leaf: x509.Certificate, kind: Kind) -> PeerIdentity:
    extensions = leaf.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extended = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        raise WRONG_SHAPE("the peer's certificate lacks an extension that identities have") from None
    if constraints.ca or usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise WRONG_SHAPE("the peer's certificate may sign certificates, or may not sign at all")
    if extended != [_USAGE[kind]]:
        raise WRONG_SHAPE(f"the peer's certificate is not for the part of {kind} alone")
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1 or (kind == "agent" and len(names) != 1):
        raise WRONG_SHAPE(f"the peer's certificate has {len(uris)} URI names among {len(names)}, not exactly one")
    try:
        key = check_tls_public_key(leaf.public_key())
        identity = SpiffeId.parse(uris[0])
    except CellwardError as error:
        raise (WRONG_IDENTITY if error.code != BAD_KEY.code else WRONG_SHAPE)(error.message) from None
    return PeerIdentity(
        id=identity,
        not_after=leaf.not_valid_after_utc,
        serial=leaf.serial_number,
        generation=leaf.serial_number >> _RANDOM_BITS,
        spki_sha256=spki_digest(spki_of(key)),
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
