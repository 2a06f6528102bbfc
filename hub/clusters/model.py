"""What the fleet knows, as values; times are aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.documents.facts import ClusterFacts
    from cellward.identity.locks import Lock
    from hub.placement.delivery import Invited


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
    """The part of it that only the agent says; empty before it first connected."""

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
    """A cluster with everything that is known of it: its row (``hub.store.interfaces.ClusterRow``) read by the rooms.

    The API's shape (``cellward.api.schemas.Cluster``) stays apart from it: the API is a promise to other versions of
    the command line, has names of its own, and leaves out what the asker may not see.
    """

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
