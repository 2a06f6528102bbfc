"""Small certificate hierarchies as API servers have them: some that strict verification refuses, and bad ones."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.stack.credentials import make_credentials


@dataclass(frozen=True)
class Pki:
    """Files of one hierarchy: what a client is given as authority, and what the server shows.

    Attributes:
        ca: the root.
        intermediate: what issued the server's certificate; the root itself where there is nothing between.
        certificate: the server's certificate alone.
        key: its key.
    """

    ca: Path
    intermediate: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path, *, shape: str) -> Pki:
        """Make one of: strict, plain, intermediate, expired, other-name, foreign."""
        if shape == "strict":
            made = make_credentials(directory)
            certificate, key = made.pair("serving")
            return cls(made.ca, made.ca, certificate, key)
        directory.mkdir(parents=True)
        root = ec.generate_private_key(ec.SECP256R1())
        root_name = _name("field-root")
        files = cls(directory / "ca.pem", directory / "issuer.pem", directory / "leaf.pem", directory / "leaf.key")
        _save(files.ca, _certificate(root_name, root_name, root, root, authority=True))
        issuer, issuer_name = root, root_name
        if shape == "intermediate":
            issuer, issuer_name = ec.generate_private_key(ec.SECP256R1()), _name("field-issuer")
            _save(files.intermediate, _certificate(issuer_name, root_name, issuer, root, authority=True))
        elif shape == "foreign":
            issuer = ec.generate_private_key(ec.SECP256R1())
        leaf = ec.generate_private_key(ec.SECP256R1())
        address = "127.9.9.9" if shape == "other-name" else "127.0.0.1"
        ended = datetime.now(UTC) - timedelta(hours=1) if shape == "expired" else None
        _save(files.certificate, _certificate(_name("api"), issuer_name, leaf, issuer, address=address, ended=ended))
        files.key.write_bytes(
            leaf.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
    address: str = "",
    ended: datetime | None = None,
) -> x509.Certificate:
    """Make a certificate without key identifiers and key usages."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(ended or now + timedelta(days=2))
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _save(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def demand_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every Python behave as 3.13 does, so that the oldest shows what the newest would."""
    made = ssl.create_default_context

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = made(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
