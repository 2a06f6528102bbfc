"""The hub's own leaf, shared by its listeners and exchanged in time without closing anything.

A leaf lives an hour and is replaced at half of it; it is replaced at once when the realm becomes known, because then
the leaf has a name it lacked. gRPC asks for the configuration at every handshake, from a thread of its own: what it
reads is one attribute that is only ever replaced whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from cellward.runtime.clock import Clock
from hub.authority.authority import Authority, RealmSource
from hub.authority.model import HubLeaf


class RotatingLeaf:
    """Current leaf of this process."""

    def __init__(
        self,
        authority: Authority,
        clock: Clock,
        realm: RealmSource,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._realm = realm
        self._dns = tuple(dns)
        self._ips = tuple(ips)
        self._current: tuple[HubLeaf, str | None] | None = None

    @property
    def leaf(self) -> HubLeaf:
        """The leaf; made on first use."""
        self.rotate_if_due()
        if self._current is None:
            raise RuntimeError("rotate_if_due always leaves a leaf")
        return self._current[0]

    def rotate_if_due(self, *, force: bool = False) -> bool:
        """Make a new leaf when there is none, half of its life is over, or the realm has changed; or by ``force``.

        Returns True when it did.
        """
        realm = self._realm()
        if self._current is not None:
            leaf, known = self._current
            half = leaf.not_before + (leaf.not_after - leaf.not_before) / 2
            if not force and known == realm and self._clock.now() < half:
                return False
        self._current = (self._authority.issue_hub(dns=self._dns, ips=self._ips), realm)
        return True

    def credentials(self, client_authorities: Callable[[], bytes] | None) -> grpc.ServerCredentials:
        """Server credentials that follow the leaf; with ``client_authorities`` a client certificate is required."""
        given: list[tuple[HubLeaf, bytes | None]] = []

        def configuration() -> grpc.ServerCertificateConfiguration:
            leaf = self.leaf
            authorities = client_authorities() if client_authorities else None
            given[:] = [(leaf, authorities)]
            return grpc.ssl_server_certificate_configuration([(leaf.key_pem, leaf.chain_pem)], authorities)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            now = (self.leaf, client_authorities() if client_authorities else None)
            return None if given and given[0] == now else configuration()

        # The stubs forget that None means "no change".
        return grpc.dynamic_ssl_server_credentials(configuration(), fetch, client_authorities is not None)  # type: ignore[arg-type]
