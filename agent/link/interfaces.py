"""What the link asks of the rest of the agent, and what both speak of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from agent.audit.interfaces import RefusalText
from agent.policy.position import PolicyPosition
from cellward.cells.conditions import CellCondition
from cellward.cells.proof import Evidence
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem


class CommandKind(Enum):
    """The closed list of commands (V2)."""

    RESYNC = "resync"
    PROBE = "probe"
    DIAGNOSE = "diagnose"
    RENEW = "renew"
    RECONNECT = "reconnect"


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command that passed the checks: known kind, this boot, not expired, not run before."""

    id: str
    kind: CommandKind
    subject: str = ""


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What became of a command; ``facts`` are short, fixed and redacted."""

    ok: bool
    refusal: RefusalText | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """Outcome of a desired item. ``statement`` is the signed DSSE envelope, see ``agent.audit.statement``."""

    revision: int
    project: str
    cell: str
    environment: str
    deployment_digest: str
    accepted: bool
    refusals: Sequence[RefusalText] = ()
    statement: bytes = b""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class CellReport:
    """State of a cell. ``phase`` is the name of a CellPhase without prefix, lower case, for example ``ready``."""

    project: str
    cell: str
    environment: str
    phase: str
    deployment_digest: str = ""
    release_digest: str = ""
    objects_ready: int = 0
    objects_total: int = 0
    isolation: str = "unknown"
    refusals: Sequence[RefusalText] = ()
    drift_repairs: int = 0
    version: str = ""
    conditions: Sequence[CellCondition] = ()
    proof: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """In which cluster the agent runs; empty for what could not be read just now.

    Attributes:
        uid: uid of the namespace kube-system, which lives as long as the cluster does.
        authority_sha256: digest of the authority that the API server is trusted by, hex.
    """

    uid: str = ""
    authority_sha256: str = ""


#: Reads in which cluster the agent runs, again at each Hello; never raises and never takes long.
ReadPlatform = Callable[[], Awaitable[Platform]]


class LinkPorts(Protocol):
    """What the link calls. None of these may raise for bad content; what does raise is logged and counted."""

    async def on_item(self, item: DesiredItem) -> None:
        """Take a desired item; it is already durable in ``StateDb.items`` and nothing of it is verified."""
        ...

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Sign and send the refusal of an item nobody could use; it is durable when this returns."""
        ...

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """Hear that a full listing no longer names an item; return True when it may be forgotten.

        False when anything of it was accepted and is not over: then it stays, because no item means no change (V14).
        """
        ...

    async def on_full(self) -> Sequence[CellKey]:
        """Hear that there is no room for another cell; forget those that ended and left nothing, and return them."""
        ...

    async def on_policy_notice(self, version: int) -> None:
        """Hear that a TUF timestamp of this version is there to be fetched."""
        ...

    async def on_command(self, command: CommandRequest) -> CommandOutcome:
        """Carry out resync, probe or diagnose; renew and reconnect never get here."""
        ...

    def policy(self) -> PolicyPosition:
        """Return the versions for Hello and AgentStatus."""
        ...

    def authority(self) -> str:
        """Return ``authors`` or ``authors+hub``."""
        ...

    def reports(self) -> Sequence[CellReport]:
        """Return the state of every cell, sent whole after each connect."""
        ...


@dataclass(frozen=True, slots=True)
class AgentDescription:
    """Fixed facts for Hello."""

    realm: str
    facts: ClusterFacts
    agent_version: str
    opa_version: str = ""
    capabilities_digest: str = ""
    schemas: Sequence[str] = ()
