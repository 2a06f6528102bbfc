"""What the fleet knows, as values; times are aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellward.documents.names import CellKey

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.documents.facts import ClusterFacts, Selector
    from cellward.identity.locks import Lock
    from hub.fleet.delivery import Invited


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the hub reads out of a document to find it again, and what its signatures come to.

    Attributes:
        digest: identity of the document, over its payload.
        kind: ``release``, ``deployment``, ``approval``, ``tombstone`` or ``cluster``.
        subject: digest the document is about: of the release for a Deployment, of the Deployment for an Approval.
        fallback: digest of the release a Deployment falls back to, empty for none.
        selector: of a Deployment; None otherwise.
        standing: verified, pending or unverified; only what is verified is placed (``hub.fleet.judge``).
        owners: who signed, as far as it counts; ``needed`` is how many must have.
        once: whether it was verified before, and is not any more.
        not_after: when it runs out; None for never, and for what an older hub kept.
        size: of the envelope as kept, bytes.
    """

    digest: str
    kind: str
    realm: str
    project: str = ""
    cell: str = ""
    environments: tuple[str, ...] = ()
    sequence: int = 0
    subject: str = ""
    fallback: str = ""
    version: str = ""
    selector: Selector | None = None
    standing: str = "unverified"
    owners: tuple[str, ...] = ()
    needed: int = 1
    once: bool = False
    not_after: datetime | None = None
    size: int = 0

    @property
    def verified(self) -> bool:
        """Whether as many owners signed as must."""
        return self.standing == "verified"

    @property
    def keys(self) -> tuple[CellKey, ...]:
        """What it places, per environment."""
        return tuple(CellKey(self.project, self.cell, environment) for environment in self.environments)


@dataclass(frozen=True, slots=True)
class Placement:
    """What one cluster should have for one cell in one environment."""

    key: CellKey
    deployment_digest: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Outcome of an upload: index entries, newly kept or known before, and clusters with a changed item.

    ``dropped`` made way for it: documents that do not verify (``hub.fleet.bounds``).
    """

    entries: tuple[IndexEntry, ...]
    clusters: tuple[str, ...]
    dropped: tuple[IndexEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class LockView:
    """A lock, who set it, and the clusters it holds now; ``signed`` ones no hub lifts."""

    lock: Lock
    clusters: tuple[str, ...] = ()
    created_at: datetime | None = None
    created_by: str = ""
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of the fleet: clusters known, streams open to this process, desired items of all clusters."""

    clusters: int
    connected: int
    items: int


@dataclass(frozen=True, slots=True)
class AgentReport:
    """Last words of an agent about itself; empty before it first connected."""

    agent_version: str = ""
    opa_version: str = ""
    boot_id: str = ""
    statement_keyid: str = ""
    policy: Mapping[str, object] = field(default_factory=dict)
    conditions: tuple[Mapping[str, object], ...] = ()
    authority: str = "authors"
    certificate_expires_unix: int = 0
    spool_depth: int = 0


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster with everything that is known of it."""

    name: str
    created_at: datetime
    created_by: str
    uid: str
    generation: int
    locked: bool
    connected: bool
    last_seen: datetime | None
    facts: ClusterFacts | None
    report: AgentReport
    revision: int
    invited: Invited | None = None
    lock: str = ""
    platform_uid: str = ""
    platform_ca: str = ""
    statement_spki: bytes = b""

    @property
    def joined(self) -> bool:
        """Whether an agent was ever bound to the name."""
        return bool(self.uid)
