"""What the admin API needs from other rooms; `hub.app` connects them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cellward.api.schemas import CommandKind
    from cellward.runtime.clock import Clock
    from cellward.runtime.health import HealthRegistry
    from hub.audit.segments import Segments
    from hub.audit.service import AuditLog
    from hub.authority.tokens import JoinTokens
    from hub.clusters.locks import LockBook
    from hub.clusters.service import ClusterService
    from hub.documents.realm import RealmService
    from hub.documents.service import DocumentService
    from hub.front.front import Front
    from hub.keeping import Keeping
    from hub.metrics.own import HubMetrics
    from hub.metrics.service import FleetMetrics
    from hub.policy.service import TufRepository
    from hub.store.interfaces import Store
    from hub.store.links import CommandRow, LinkStore
    from hub.store.tokens import ApiTokenStore


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the hub tells about itself; public keys are SubjectPublicKeyInfo, DER."""

    version: str
    timestamp_spki: bytes
    tree_head_spki: bytes
    log_origin: str
    hub_ca_pem: str
    enrolment_address: str


class SendCommand(Protocol):
    """Gives commands to agents."""

    async def __call__(
        self, cluster: str, kind: CommandKind, subject: str = "", *, by: str, store: LinkStore, command_id: str
    ) -> CommandRow:
        """Give a command in the transaction of ``store``; raises link/not-connected."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the handlers use. ``facts`` is asked on each request: the log origin is known only with the realm."""

    clock: Clock
    tokens: ApiTokenStore
    store: Store
    audit: AuditLog
    clusters: ClusterService
    documents: DocumentService
    locks: LockBook
    realm: RealmService
    policy: TufRepository
    enrolment: JoinTokens
    health: HealthRegistry
    facts: Callable[[], HubFacts]
    keeping: Keeping
    segments: Segments
    send_command: SendCommand
    metrics: HubMetrics | None = None
    fleet: FleetMetrics | None = None
    #: Hear which peer has shown whose token; there is one once the API listens.
    doors: Sequence[Front] = ()
    max_body: int = 32 * 1024**2
    join_token_life: timedelta = timedelta(minutes=30)
