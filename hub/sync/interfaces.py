"""Ports of the link: what the listeners need from the fleet, the content, the audit log and the metrics.

``cluster`` is always the name from the peer certificate (V3), never from a message. Messages are passed on as they
came, after their size was bounded; whoever implements a port checks what they mean. A port refuses by raising a
CellwardError: the stream is then closed with that code, and nothing of the frame was acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cellward.identity.locks import LockSet
from cellward.wire.codec import DesiredItem
from cellward.wire.v1 import link_pb2, telemetry_pb2
from hub.store.interfaces import ClusterRow
from hub.sync.changes import ChangesPort
from hub.sync.links import Links


@dataclass(frozen=True, slots=True)
class Standing:
    """Who may not speak.

    Attributes:
        locks: everything that is locked, by whoever may lock.
        uids: of clusters whose installation is locked by its uid, that uid.
        removed: names that were decommissioned.
        floors: the least generation that counts, where it is not 0.
    """

    locks: LockSet = field(default_factory=LockSet)
    uids: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    floors: Mapping[str, int] = field(default_factory=dict)


class DirectoryPort(Protocol):
    """Who is known, and who may not speak."""

    async def binding(self, cluster: str) -> ClusterRow | None:
        """Binding of a cluster, or None when nobody joined under this name."""
        ...

    async def used(self, cluster: str, spki_sha256: str) -> None:
        """The newest certificate of a cluster was used for the first time: the one before renews no more (V7)."""
        ...

    async def moved(self, cluster: str, platform_uid: str, platform_ca: str) -> None:
        """Note where the cluster's installation runs."""
        ...

    async def standing(self) -> Standing:
        """Who may not speak, of all clusters together (V4)."""
        ...


class FleetPort(Protocol):
    """Desired items down, receipts and state up."""

    async def hello(self, cluster: str, hello: link_pb2.Hello) -> None:
        """An agent introduced itself; its identity, realm, uid and protocol have been checked."""
        ...

    async def connected(self, cluster: str, stream_id: str) -> None:
        """Its stream is open and welcomed."""
        ...

    async def disconnected(self, cluster: str, stream_id: str) -> None:
        """The stream has ended, for whatever reason."""
        ...

    async def revision(self, cluster: str) -> int:
        """Current revision of this cluster's items, 0 for none."""
        ...

    async def items(self, cluster: str, since: int) -> Sequence[DesiredItem]:
        """Items that changed after revision ``since`` (all with 0), in order of revision."""
        ...

    async def receipt(self, cluster: str, receipt: link_pb2.Receipt) -> None:
        """Outcome of an item; durable when the call returns."""
        ...

    async def cell_status(self, cluster: str, status: link_pb2.CellStatus) -> None:
        """State of a cell."""
        ...

    async def agent_status(self, cluster: str, status: link_pb2.AgentStatus) -> None:
        """State of the agent."""
        ...


class PolicyPort(Protocol):
    """Where policy metadata stands."""

    async def timestamp_version(self) -> int:
        """Version of the newest TUF timestamp, 0 for none."""
        ...


class ContentPort(Protocol):
    """Opaque bytes that the agent verifies itself."""

    async def by_digest(self, cluster: str, digest: str) -> bytes | None:
        """Document envelope or TUF target by ``sha256:<hex>``; None also for a document that is not this cluster's."""
        ...

    async def carried(self, item: DesiredItem) -> Sequence[tuple[str, bytes]]:
        """Digest and envelope of each document that is small enough to travel with an item of the caller's cluster."""
        ...

    async def tuf(self, role: str, version: int | None) -> bytes | None:
        """TUF metadata; None as version is the newest. None when there is none."""
        ...

    async def policy_set(self, root_version: int, snapshot_version: int) -> bytes | None:
        """Serialised ``PolicyFiles`` for an agent that holds these versions; None when nothing was published."""
        ...


class AuditPort(Protocol):
    """Takes audit records of agents."""

    async def hello(self, cluster: str, hub_epoch: str, last_checkpoint: bytes) -> None:
        """An agent that knows this history has accepted this tree head; the hub may have a new history after it."""
        ...

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Make a batch durable and prove it is in the log; a gap or fork is answered in the ack, not raised."""
        ...


class MetricsPort(Protocol):
    """Takes metrics of agents."""

    async def push(self, cluster: str, batch: telemetry_pb2.MetricsBatch) -> int:
        """Take a snapshot; returns how many samples were refused."""
        ...


@dataclass(frozen=True, slots=True)
class SyncPorts:
    """All ports of the link listener."""

    directory: DirectoryPort
    fleet: FleetPort
    changes: ChangesPort
    policy: PolicyPort
    content: ContentPort
    audit: AuditPort
    metrics: MetricsPort
    links: Links
