"""The agent's TLS identity on disk: key, certificate, hub authorities, address, all in one file replaced at once.

Invariants: the private key never leaves this directory (V5); key and certificate always match, because they are one
file; a key that a request was made for is on disk before the request is sent, so that a crash between the hub's answer
and our write can ask again with the same key (V6, V7).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from agent.link.errors import BAD_IDENTITY, IDENTITY_UNREADABLE
from cellward.errors import CellwardError
from cellward.identity import keys, x509
from cellward.runtime.files import narrow, write_atomic

FILE_NAME = "identity.json"
PENDING_NAME = "pending-tls-key.pem"


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """What opens the link.

    Attributes:
        key_pem: private key, PKCS#8.
        chain_pem: leaf first, then its issuer.
        hub_ca_pem: authorities for hubs.
        trust_domain: of every SPIFFE ID here.
        link_address: host:port.
        name: cluster name, from the certificate.
        generation: from the certificate's serial number (V7).
        received_unix: when this agent got the certificate, its own clock.
        not_after_unix: expiry of the leaf.
        authorities: key ids of the hub authorities this agent was installed with when it last started with this, space
            between them; empty in a file of an earlier version.
    """

    key_pem: str
    chain_pem: str
    hub_ca_pem: str
    trust_domain: str
    link_address: str
    name: str
    generation: int
    received_unix: int
    not_after_unix: int
    authorities: str = ""

    @property
    def not_after(self) -> datetime:
        """Expiry of the leaf, UTC."""
        return datetime.fromtimestamp(self.not_after_unix, UTC)

    @property
    def lifetime(self) -> float:
        """Seconds between receipt and expiry."""
        return float(self.not_after_unix - self.received_unix)

    @property
    def spiffe_id(self) -> str:
        """SPIFFE ID of this agent."""
        return f"spiffe://{self.trust_domain}/agent/{self.name}"


def accept_identity(
    key: ec.EllipticCurvePrivateKey,
    chain_pem: str,
    hub_ca_pem: str,
    *,
    trust_domain: str,
    link_address: str,
    now: datetime,
    name: str | None = None,
) -> LinkIdentity:
    """Check what the hub issued before it replaces anything.

    Args:
        key: the key the request was made for.
        chain_pem: leaf and issuer.
        hub_ca_pem: authorities for hubs.
        trust_domain: computed from the realm, never taken from the answer.
        link_address: where the link is.
        now: the agent's clock.
        name: the name held so far; a renewal may not change it.

    Raises:
        CellwardError: ``link/bad-identity``.
    """
    try:
        certificates = x509.load_certificates(chain_pem.encode())
        if len(certificates) < 2:
            raise BAD_IDENTITY("the chain has no issuer")
        peer = x509.verify_peer(x509.to_pem(certificates[0]), certificates[1:], now, trust_domain, "agent")
        x509.load_certificates(hub_ca_pem.encode())
    except CellwardError as error:
        raise BAD_IDENTITY(error.message, cause=error.code) from error
    if peer.spki_sha256 != keys.spki_digest(keys.spki_of(key)):
        raise BAD_IDENTITY("the certificate is for another key")
    if name is not None and peer.name != name:
        raise BAD_IDENTITY(f"the certificate names {peer.name!r}, this agent is {name!r}")
    return LinkIdentity(
        key_pem=keys.private_to_pem(key, None).decode(),
        chain_pem=chain_pem,
        hub_ca_pem=hub_ca_pem,
        trust_domain=trust_domain,
        link_address=link_address,
        name=peer.name,
        generation=peer.generation,
        received_unix=int(now.timestamp()),
        not_after_unix=int(peer.not_after.timestamp()),
    )


class IdentityStore:
    """The files of the identity in a directory of the agent's own, made on the first write."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._pending = directory / PENDING_NAME

    def load(self) -> LinkIdentity | None:
        """Return the identity, or None when this agent never joined; raises ``link/identity-unreadable``."""
        try:
            narrow(self._path)
            values = json.loads(self._path.read_bytes())
            identity = LinkIdentity(**values)
            keys.private_from_pem(identity.key_pem.encode(), None)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, CellwardError) as error:
            raise IDENTITY_UNREADABLE(f"{self._path} cannot be read: {error}", file=self._path) from error
        return identity

    def save(self, identity: LinkIdentity) -> None:
        """Replace the identity, then forget the pending key."""
        self.rewrite(identity)
        self._pending.unlink(missing_ok=True)

    def rewrite(self, identity: LinkIdentity) -> None:
        """Replace the identity by one with the same key; a request in flight keeps its own key."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path, json.dumps(asdict(identity)).encode(), 0o600)

    def pending_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the key of the request in flight, made and stored if there is none."""
        try:
            narrow(self._pending)
            key = keys.private_from_pem(self._pending.read_bytes(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
        except (FileNotFoundError, CellwardError):
            # Damaged is as good as absent: at worst a join token has to be asked for again.
            pass
        fresh = keys.new_tls_key()
        self._pending.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._pending, keys.private_to_pem(fresh, None), 0o600)
        return fresh
