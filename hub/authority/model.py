"""What the authority holds and gives out. Private keys never leave this process (V5) and never show in a repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ed25519

from cellward.identity.x509 import Issuer


@dataclass(frozen=True, slots=True)
class HubKeys:
    """The keys of one hub: two issuing authorities for TLS, and three signing keys for three different statements."""

    agent_ca: Issuer
    hub_ca: Issuer
    timestamp: ed25519.Ed25519PrivateKey = field(repr=False)
    tree_head: ed25519.Ed25519PrivateKey = field(repr=False)
    attestation: ed25519.Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class AgentCertificate:
    """A certificate for an agent. ``chain_pem`` is leaf and issuer, leaf first; ``serial`` is lower-case hex."""

    chain_pem: bytes
    serial: str
    generation: int
    not_after: datetime


@dataclass(frozen=True, slots=True)
class HubLeaf:
    """The hub's own TLS identity, made by every process and never written down."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """A join request after its transport: what was sent, and from where. All of it unproven."""

    token: str
    csr_der: bytes
    realm: str
    cluster_uid: str
    statement_spki_der: bytes
    address: str


@dataclass(frozen=True, slots=True)
class RecoveryAttempt:
    """A request to recover after its transport; without a nonce it asks for one. All of it unproven."""

    cluster_uid: str
    csr_der: bytes
    address: str
    nonce: bytes = b""
    signature: bytes = b""
    bound_spki_der: bytes = b""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a successful join or recovery gives."""

    cluster: str
    trust_domain: str
    certificate: AgentCertificate
