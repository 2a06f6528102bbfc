"""What the admin API needs from other rooms, as narrow ports; `hub.app` connects them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from cellward.runtime.health import Condition

if TYPE_CHECKING:
    from cellward.policy.publisher import Publication
    from cellward.runtime.clock import Clock
    from hub.audit.model import IndexedRecord, SignedHead
    from hub.clusters.locks import LockBook
    from hub.clusters.service import ClusterService
    from hub.documents.realm import RealmService
    from hub.documents.service import DocumentService
    from hub.keeping import Keeping
    from hub.policy.service import PublishResult
    from hub.store.interfaces import Commit, Store
    from hub.store.tokens import ApiTokenStore, TokenStore


class AuditPort(Protocol):
    """Reading the audit log."""

    async def tail(self, cursor: int, limit: int) -> Sequence[IndexedRecord]:
        """Records from index ``cursor`` on, at most ``limit``."""
        ...

    async def export(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write the whole export, NDJSON, in pieces; it ends with a checkpoint that covers it."""
        ...

    async def head(self) -> SignedHead:
        """Newest signed tree head."""
        ...


class PolicyPort(Protocol):
    """The TUF repository."""

    async def publish(self, upload: Publication, *, commit: Commit[PublishResult] | None = None) -> PublishResult:
        """Verify, store, and sign a timestamp; raises policy/*."""
        ...

    async def fetch(self, role: str, version: int | None) -> bytes | None:
        """Metadata, the newest when ``version`` is None."""
        ...

    async def fetch_target(self, digest: str) -> bytes | None:
        """A target by digest."""
        ...

    async def status(self) -> PublishResult | None:
        """What is served now, None before the first publication."""
        ...


class EnrolmentPort(Protocol):
    """Minting of join tokens."""

    async def mint(
        self, cluster: str, *, lifetime: timedelta, replace: bool = False, tokens: TokenStore | None = None
    ) -> str:
        """Make a token bound to one cluster name (V6), kept in ``tokens`` where given.

        With ``replace`` a new installation may take the name.
        """
        ...


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the hub tells about itself; public keys are SubjectPublicKeyInfo, DER."""

    version: str
    timestamp_spki: bytes
    tree_head_spki: bytes
    log_origin: str
    hub_ca_pem: str
    enrolment_address: str


class HealthPort(Protocol):
    """Conditions of the hub's own parts."""

    def get(self) -> tuple[Condition, ...]:
        """All conditions now."""
        ...


class RequestObserver(Protocol):
    """Counts requests."""

    def observe_unrecorded(self, code: str) -> None:
        """A refused mutation was counted instead of recorded: its token had many of the kind before."""
        ...

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request ended."""
        ...


class Door(Protocol):
    """The listener in front, which keeps places for connections (``hub.front``); peers are named as gRPC would."""

    def known(self, peer: str, owner: str, *, kept: bool = False) -> None:
        """A request showed a token of ``owner`` in force; admins are ``kept`` places."""
        ...

    def refused(self, peer: str) -> None:
        """A request showed no token in force."""
        ...

    def forget(self, owner: str, but: str = "") -> None:
        """Cut every connection of an owner except that of the peer ``but``."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the handlers use. ``facts`` is asked on each request: the log origin is known only with the realm."""

    clock: Clock
    tokens: ApiTokenStore
    store: Store
    audit: AuditPort
    clusters: ClusterService
    documents: DocumentService
    locks: LockBook
    realm: RealmService
    policy: PolicyPort
    enrolment: EnrolmentPort
    health: HealthPort
    facts: Callable[[], HubFacts]
    keeping: Keeping
    metrics: RequestObserver | None = None
    #: Hear which peer has shown whose token; there is one once the API listens.
    doors: Sequence[Door] = ()
    max_body: int = 32 * 1024**2
    join_token_life: timedelta = timedelta(minutes=30)
