"""Certificates, keys and kubeconfig files of one throw-away control plane."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=7)
_SKEW = timedelta(minutes=5)

#: file stem -> (common name, organisation) of each client certificate
_CLIENTS = {
    "admin": ("cellward-stack-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "etcd-client": ("kube-apiserver", ""),
}
#: The same of a control plane with real nodes.
_NODE_CLIENTS = {
    "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "kube-proxy": ("system:kube-proxy", ""),
    "policy-engine": ("cellward-stack-policy-engine", "system:masters"),
}
#: Names by which pods know the API server.
_SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the files are; ``pair(stem)`` gives certificate and key."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The certificate that signed all others."""
        return self.directory / "ca.crt"

    @property
    def service_account_key(self) -> Path:
        """The private key that signs service account tokens."""
        return self.directory / "service-account.key"

    def pair(self, stem: str) -> tuple[Path, Path]:
        """Return certificate and key files of ``stem`` (``serving``, ``admin``, …)."""
        return self.directory / f"{stem}.crt", self.directory / f"{stem}.key"


def make_credentials(
    directory: Path, addresses: Sequence[str] = (), nodes: Mapping[str, str] = MappingProxyType({})
) -> Credentials:
    """Write a CA, one serving certificate for loopback, the client certificates and the service account key.

    Args:
        directory: where they go.
        addresses: of the API server besides loopback.
        nodes: address of each real node by its name; each gets ``kubelet-NAME`` and ``kubelet-NAME-serving``.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Credentials(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("cellward-stack-ca", "")
    ca = _builder(ca_name, ca_name, ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(_key_usage(authority=True), critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    _write(made.ca, ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in ("localhost", *_SERVICE_NAMES)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", *addresses)]
    _leaf(made, "serving", _name("kube-apiserver", ""), ca_name, ca_key, names)
    for stem, (common_name, organisation) in {**_CLIENTS, **(_NODE_CLIENTS if nodes else {})}.items():
        _leaf(made, stem, _name(common_name, organisation), ca_name, ca_key, None)
    for node, address in nodes.items():
        subject = _name(f"system:node:{node}", "system:nodes")
        own: list[x509.GeneralName] = [x509.DNSName(node), x509.IPAddress(ipaddress.ip_address(address))]
        _leaf(made, f"kubelet-{node}", subject, ca_name, ca_key, None)
        _leaf(made, f"kubelet-{node}-serving", subject, ca_name, ca_key, own)
    _write(made.service_account_key, _pem(ec.generate_private_key(ec.SECP256R1())))
    return made


def write_kubeconfig(path: Path, server: str, ca: Path, *, pair: tuple[Path, Path] | None, token: str = "") -> Path:
    """Write a kubeconfig for a client certificate or a token; everything inline, so that the file can be moved."""
    user: dict[str, str] = {"token": token}
    if pair is not None:
        user = {"client-certificate-data": _b64(pair[0]), "client-key-data": _b64(pair[1])}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stack", "cluster": {"server": server, "certificate-authority-data": _b64(ca)}}],
        "users": [{"name": "stack", "user": user}],
        "contexts": [{"name": "stack", "context": {"cluster": "stack", "user": "stack"}}],
        "current-context": "stack",
    }
    _write(path, yaml.safe_dump(document, sort_keys=False).encode())
    return path


def _b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _name(common_name: str, organisation: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    # The wall clock on purpose: these certificates are checked by programs that have no other one.
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFE)
    )


def _leaf(
    made: Credentials,
    stem: str,
    subject: x509.Name,
    issuer: x509.Name,
    ca_key: ec.EllipticCurvePrivateKey,
    server_names: list[x509.GeneralName] | None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(subject, issuer, key.public_key())
    if server_names is not None:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(server_names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate, key_file = made.pair(stem)
    _write(certificate, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write(key_file, _pem(key))


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """RFC 5280 §4.2.1.3; Python 3.13 and later refuse an authority without it."""
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


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC1 ("EC PRIVATE KEY"): what kube-apiserver reads for certificates and service account keys alike.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
