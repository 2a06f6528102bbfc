"""Issuing: certificates for agents and for the hub itself, each from its own authority.

Names, usages and lives come from here alone; from a requester only the public key is taken (V3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509

from cellward.identity import keys as keymod
from cellward.identity.names import HUB_DNS_NAME, SpiffeId, trust_domain_of
from cellward.identity.x509 import issue_leaf, to_pem
from cellward.runtime.clock import Clock
from hub.authority.errors import NO_REALM
from hub.authority.model import AgentCertificate, HubKeys, HubLeaf

#: Where the current realm is read: ``sha256:<hex>``, or None before the first root was published.
RealmSource = Callable[[], str | None]


class Authority:
    """The two issuing authorities of a hub."""

    def __init__(self, keys: HubKeys, clock: Clock, realm: RealmSource) -> None:
        self._keys = keys
        self._clock = clock
        self._realm = realm
        self._agent_authorities = (keys.agent_ca.certificate,)

    @property
    def agent_authorities(self) -> tuple[x509.Certificate, ...]:
        """Authorities whose leaves are agents. The very same tuple until they change: streams compare by identity."""
        return self._agent_authorities

    @property
    def agent_ca_pem(self) -> bytes:
        """Authorities for agents, PEM: what the link listener asks client certificates from."""
        return self._keys.agent_ca.pem

    @property
    def hub_ca_pem(self) -> bytes:
        """Authorities for hubs, PEM: what agents, the CLI and browsers trust."""
        return self._keys.hub_ca.pem

    def realm(self) -> str:
        """The realm served; raises authority/no-realm before there is a root."""
        realm = self._realm()
        if realm is None:
            raise NO_REALM("no trust root was published to this hub yet")
        return realm

    def trust_domain(self) -> str:
        """Trust domain of the realm; raises authority/no-realm before there is a root."""
        return trust_domain_of(self.realm())

    def issue_agent(self, name: str, spki_der: bytes, generation: int) -> AgentCertificate:
        """Certificate of generation ``generation`` for the cluster ``name``.

        Raises authority/no-realm, identity/bad-name, identity/bad-key.
        """
        identity = SpiffeId(self.trust_domain(), "agent", name)
        leaf = issue_leaf(
            self._keys.agent_ca,
            keymod.load_tls_spki(spki_der),
            kind="agent",
            uri=identity,
            now=self._clock.now(),
            generation=generation,
        )
        chain = to_pem(leaf) + self._keys.agent_ca.pem
        return AgentCertificate(chain, f"{leaf.serial_number:x}", generation, leaf.not_valid_after_utc)

    def issue_hub(self, name: str = "hub", *, dns: Sequence[str] = (), ips: Sequence[str] = ()) -> HubLeaf:
        """Make a key and leaf for this hub: its fixed name, the names given, and its URI once there is a realm."""
        realm = self._realm()
        key = keymod.new_tls_key()
        leaf = issue_leaf(
            self._keys.hub_ca,
            key.public_key(),
            kind="hub",
            uri=None if realm is None else SpiffeId(trust_domain_of(realm), "hub", name),
            now=self._clock.now(),
            dns=tuple(dict.fromkeys((HUB_DNS_NAME, *dns))),
            ips=tuple(dict.fromkeys(ips)),
        )
        return HubLeaf(
            key_pem=keymod.private_to_pem(key, None),
            chain_pem=to_pem(leaf) + self._keys.hub_ca.pem,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )
