"""In-memory ports of the link, and a hub of two real listeners on loopback over them; for link tests of both sides."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from cellward.errors import CellwardError
from cellward.identity.locks import LockSet
from cellward.runtime.clock import Clock
from cellward.runtime.supervise import supervise
from cellward.wire.codec import DesiredItem
from cellward.wire.v1 import link_pb2, telemetry_pb2
from hub.front.limits import ENROLMENT, LINK, FrontLimits
from hub.store.interfaces import ClusterRow
from hub.store.links import LinkStore
from hub.sync.interfaces import Standing, SyncPorts
from hub.sync.limits import SyncLimits
from hub.sync.links import Links
from hub.sync.servers import EnrolmentServer, LinkServer, build_enrolment_server, build_link_server
from hub.sync.session import HubFacts
from hub.sync.tls import RotatingLeaf
from tests.fakes.authority import FakeClusters, FakeHub
from tests.fakes.links import MemoryLinks
from tools.stack.ports import free_ports


@dataclass
class FakeDirectory:
    """Bindings and locks, read from the fake clusters of the authority."""

    clusters: FakeClusters

    async def binding(self, cluster: str) -> ClusterRow | None:
        """Binding of a cluster."""
        return self.clusters.rows.get(cluster)

    async def used(self, cluster: str, spki_sha256: str) -> None:
        """The newest certificate was used."""
        await self.clusters.used(cluster, spki_sha256)

    async def moved(self, cluster: str, platform_uid: str, platform_ca: str) -> None:
        """Note where it runs."""
        await self.clusters.moved(cluster, platform_uid, platform_ca)

    async def standing(self) -> Standing:
        """Who may not speak."""
        rows = self.clusters.rows.values()
        return Standing(
            LockSet(self.clusters.locks),
            {row.name: row.uid for row in rows if row.uid},
            frozenset(row.name for row in rows if row.removed_at is not None),
            {row.name: row.generation_floor for row in rows if row.generation_floor},
        )


@dataclass(eq=False)
class FakeSubscription:
    """Coalesces topics until they are waited for."""

    topics: frozenset[str]
    changed: set[str] = field(default_factory=set)
    event: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> frozenset[str]:
        """Topics that changed since the last wait."""
        await self.event.wait()
        self.event.clear()
        changed, self.changed = frozenset(self.changed), set()
        return changed


@dataclass
class FakeChanges:
    """Change bus in this process."""

    subscriptions: set[FakeSubscription] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def subscribe(self, *topics: str) -> AsyncIterator[FakeSubscription]:
        """Subscribe until the context ends."""
        subscription = FakeSubscription(frozenset(topics))
        self.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self.subscriptions.discard(subscription)

    def stamp(self, *topics: str) -> tuple[int, ...]:
        """How often each topic changed."""
        return tuple(self.counts[topic] for topic in topics)

    def notify(self, topic: str) -> None:
        """Wake who subscribed to the topic."""
        self.counts[topic] += 1
        for subscription in self.subscriptions:
            if topic in subscription.topics:
                subscription.changed.add(topic)
                subscription.event.set()


@dataclass
class FakeFleet:
    """Items per cluster, and everything agents reported. ``refuse_with`` makes the next receipt fail."""

    changes: FakeChanges
    rows: dict[str, dict[tuple[str, str, str], DesiredItem]] = field(default_factory=dict)
    hellos: list[tuple[str, link_pb2.Hello]] = field(default_factory=list)
    receipts: list[tuple[str, link_pb2.Receipt]] = field(default_factory=list)
    cell_statuses: list[tuple[str, link_pb2.CellStatus]] = field(default_factory=list)
    agent_statuses: list[tuple[str, link_pb2.AgentStatus]] = field(default_factory=list)
    open: dict[str, list[str]] = field(default_factory=dict)
    refuse_with: CellwardError | None = None

    def put(self, cluster: str, item: DesiredItem) -> int:
        """Want an item; numbers it, wakes the stream, returns the revision."""
        rows = self.rows.setdefault(cluster, {})
        revision = max((row.revision for row in rows.values()), default=0) + 1
        rows[item.key] = replace(item, revision=revision)
        self.changes.notify(f"desired:{cluster}")
        return revision

    async def hello(self, cluster: str, hello: link_pb2.Hello) -> None:
        """Keep it."""
        self.hellos.append((cluster, hello))

    async def connected(self, cluster: str, stream_id: str) -> None:
        """Keep it."""
        self.open.setdefault(cluster, []).append(stream_id)

    async def disconnected(self, cluster: str, stream_id: str) -> None:
        """Forget it."""
        self.open[cluster].remove(stream_id)

    async def revision(self, cluster: str) -> int:
        """Highest revision."""
        return max((row.revision for row in self.rows.get(cluster, {}).values()), default=0)

    async def items(self, cluster: str, since: int) -> Sequence[DesiredItem]:
        """Items after a revision."""
        rows = self.rows.get(cluster, {}).values()
        return sorted((row for row in rows if row.revision > since), key=lambda row: row.revision)

    async def receipt(self, cluster: str, receipt: link_pb2.Receipt) -> None:
        """Keep it, or fail as told."""
        if self.refuse_with is not None:
            error, self.refuse_with = self.refuse_with, None
            raise error
        self.receipts.append((cluster, receipt))

    async def cell_status(self, cluster: str, status: link_pb2.CellStatus) -> None:
        """Keep it."""
        self.cell_statuses.append((cluster, status))

    async def agent_status(self, cluster: str, status: link_pb2.AgentStatus) -> None:
        """Keep it."""
        self.agent_statuses.append((cluster, status))


@dataclass
class FakePolicy:
    """A version number."""

    version: int = 0

    async def timestamp_version(self) -> int:
        """The number."""
        return self.version


@dataclass
class FakeContent:
    """Bytes by digest and metadata by role and version."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        """Keep bytes; returns their digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def by_digest(self, cluster: str, digest: str) -> bytes | None:
        """Bytes or None."""
        return self.blobs.get(digest)

    async def carried(self, item: DesiredItem) -> Sequence[tuple[str, bytes]]:
        """Whatever is there of what the item names."""
        digests = (item.deployment_digest, *item.evidence)
        return [(digest, self.blobs[digest]) for digest in digests if digest in self.blobs]

    async def policy_set(self, root_version: int, snapshot_version: int) -> bytes | None:
        """What a test put under ``set``, or None."""
        return self.blobs.get("set")

    async def tuf(self, role: str, version: int | None) -> bytes | None:
        """Metadata or None; the newest without a version."""
        versions = [known for name, known in self.metadata if name == role]
        wanted = max(versions, default=0) if version is None else version
        return self.metadata.get((role, wanted))


@dataclass
class FakeAuditPort:
    """Keeps records by cluster and acknowledges them; a gap is answered with what is expected."""

    records: dict[str, list[bytes]] = field(default_factory=dict)

    async def hello(self, cluster: str, hub_epoch: str, last_checkpoint: bytes) -> None:
        """Take no notice."""

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Take a batch in order."""
        kept = self.records.setdefault(cluster, [])
        if batch.first_seq != len(kept) + 1:
            return telemetry_pb2.AuditAck(epoch=batch.epoch, refused_code="audit/gap", expected_seq=len(kept) + 1)
        kept.extend(batch.records)
        return telemetry_pb2.AuditAck(epoch=batch.epoch, seq=len(kept))


@dataclass
class FakeMetrics:
    """Keeps the newest snapshot per cluster."""

    snapshots: dict[str, telemetry_pb2.MetricsBatch] = field(default_factory=dict)

    async def push(self, cluster: str, batch: telemetry_pb2.MetricsBatch) -> int:
        """Take it whole."""
        self.snapshots[cluster] = batch
        return 0


@dataclass
class FakeLinkHub:
    """A hub for link tests: real listeners, real TLS and certificates, everything behind them in memory.

    ``running()`` opens both listeners on loopback; ``await invite(name)`` lets an agent join.
    """

    clock: Clock
    limits: SyncLimits = field(default_factory=SyncLimits)
    hub_epoch: str = "hub-epoch-1"
    log_origin: str = "cellward.test/log"
    #: Of another process of the same hub: what both share, and where its streams and commands are.
    shared: FakeHub | None = None
    links_at: LinkStore | None = None
    replica: str = "replica-1"

    def __post_init__(self) -> None:
        self.hub = self.shared or FakeHub(self.clock)
        self.changes = FakeChanges()
        self.hub.clusters.on_change.append(lambda: self.changes.notify("clusters"))
        self.fleet = FakeFleet(self.changes)
        self.policy = FakePolicy()
        self.content = FakeContent()
        self.audit = FakeAuditPort()
        self.metrics = FakeMetrics()
        self.links = MemoryLinks(self.changes.notify)
        self.ports = SyncPorts(
            directory=FakeDirectory(self.hub.clusters),
            fleet=self.fleet,
            changes=self.changes,
            policy=self.policy,
            content=self.content,
            audit=self.audit,
            metrics=self.metrics,
            links=Links(self.links_at or self.links, self.changes, self.replica, self.clock),
        )
        self.leaf = RotatingLeaf(self.hub.authority, self.clock, lambda: self.hub.realm, ips=("127.0.0.1",))
        self.link: LinkServer
        self.enrolment: EnrolmentServer

    async def new_epoch(self) -> str:
        """Begin a new history, as the store of a real hub does."""
        self.hub_epoch = f"{self.hub_epoch}'"
        return self.hub_epoch

    async def invite(self, cluster: str, *, replace_installation: bool = False) -> str:
        """A join token for a cluster, which is created when it is not there yet."""
        if cluster not in self.hub.clusters.rows:
            self.hub.clusters.create(cluster)
        return await self.hub.join_tokens.mint(cluster, replace=replace_installation)

    @asynccontextmanager
    async def running(
        self,
        *,
        link_port: int = 0,
        enrolment_port: int = 0,
        link_front: FrontLimits = LINK,
        enrolment_front: FrontLimits = ENROLMENT,
    ) -> AsyncIterator[FakeLinkHub]:
        """Serve on 127.0.0.1 until the context ends; given ports let a test stop and start a hub at one address."""
        if not link_port and not enrolment_port:
            link_port, enrolment_port = free_ports(2)
        facts = HubFacts(self.hub.authority.realm, lambda: self.hub_epoch, lambda: self.log_origin)
        self.link = build_link_server(
            ports=self.ports,
            identity=self.hub.identity,
            leaf=self.leaf,
            facts=facts,
            audit=self.hub.audit,
            clock=self.clock,
            host="127.0.0.1",
            port=link_port,
            limits=self.limits,
            front=link_front,
        )
        self.enrolment = build_enrolment_server(
            identity=self.hub.identity,
            leaf=self.leaf,
            link_address=lambda: self.link.address,
            host="127.0.0.1",
            port=enrolment_port,
            clock=self.clock,
            limits=self.limits,
            front=enrolment_front,
        )
        stop = asyncio.Event()
        # Supervised as in a hub: what going down cuts off there is cut off here.
        tasks = [self.enrolment.task(stop), self.link.task(stop, grace=2.0)]
        served = asyncio.create_task(supervise(tasks, stop, grace=7.0))
        try:
            yield self
        finally:
            stop.set()
            await served
