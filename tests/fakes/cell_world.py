"""The agent's cells with everything around it real except the policy engine, the hub, and perhaps the API server.

Documents are signed for real, state and audit chain are the real SQLite ones; the hub is a dictionary of envelopes.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.audit.recorder import Recorder
from agent.cells.compose import engine_of
from agent.cells.engine import CellEngine
from agent.isolation.driver import NetworkPolicyDriver
from agent.isolation.interfaces import Evidence, IsolationState, MeasuredEdge
from agent.kube.interfaces import JSONObject, KubeApi
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.metrics.registry import AgentMetrics
from agent.objects.fence import load_guards
from agent.spool.state import AnchorKeeper, SqliteStateDb, open_state
from agent.stamps.keeper import StampKeeper
from agent.verify.intake import Intake
from cellward.audit.record import parse_record
from cellward.cells.gate import StartGate
from cellward.cells.load import load_cells
from cellward.cells.network import NetworkIntent
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from cellward.documents.dsse import Ed25519Signer, dump_envelope, parse_envelope, sign_document
from cellward.documents.facts import ClusterFacts, Selector
from cellward.documents.keyring import Keyring, KeyringEntry
from cellward.documents.model import Approval, Deployment, Document, Tombstone, build_document
from cellward.errors import CellwardError
from cellward.policy.errors import NO_VERIFIED_SET
from cellward.policy.model import BindingSet, Staleness, VerifiedSet
from cellward.runtime.clock import SystemClock, Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem, HubState
from tests.fakes.anchor import FakeAnchor
from tests.fakes.evaluator import FakeEvaluator
from tests.fakes.kube import FakeKube
from tools.stack.chart import CHART_FILES

REALM = "sha256:" + "a" * 64
KINDS = ("release", "deployment", "approval", "tombstone")


@functools.cache
def _read_guards() -> Sequence[JSONObject]:
    return load_guards(CHART_FILES)


def chart_guards() -> Sequence[JSONObject]:
    """Return the chart's policies and bindings, read once in a test process: a copy for each agent."""
    return copy.deepcopy(_read_guards())


async def fenced() -> FakeKube:
    """Return a cluster in memory with the agent's namespace and the chart's fence."""
    fake = FakeKube()
    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cellward-system"}}
    await fake.apply(place, manager="chart")
    for guard in chart_guards():
        await fake.apply(guard, manager="chart")
    return fake


def digest(envelope: bytes) -> str:
    """Identity of the document in an envelope."""
    return parse_envelope(envelope).digest


def cell_yaml(name: str, version: str = "1.0.0", components: str = "") -> str:
    """Return the YAML of a small cell: one service that wants no pods, unless told otherwise."""
    return (
        f"apiVersion: cellward.dev/v1alpha1\nkind: Cell\nmetadata: {{name: {name}, project: shop}}\n"
        f"spec:\n  version: {version}\n  owner: team-{name}\n  components:\n{components or service_yaml()}"
    )


def service_yaml(name: str = "web", image: str = "registry.example/web:1", replicas: int = 0, extra: str = "") -> str:
    """Return one service component."""
    return (
        f"    {name}:\n      type: service\n      image: {image}\n      replicas: {replicas}\n"
        f"      ports:\n        http: {{port: 8080}}\n      env: {{GREETING: hello}}\n{extra}"
    )


@dataclass
class Policy:
    """Satisfies PolicyView."""

    current: VerifiedSet | None
    evaluator: FakeEvaluator
    stale: Staleness = field(default_factory=lambda: Staleness(0, 0, "fresh"))
    missing: CellwardError = field(default_factory=lambda: NO_VERIFIED_SET("no policy set was ever verified"))

    def staleness(self, now: datetime) -> Staleness | None:
        """Return what the test set."""
        del now
        return self.stale


@dataclass
class Hub:
    """Satisfies DocumentSource over a dictionary."""

    documents: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    async def fetch_digest(self, digest: str, limit: int) -> bytes | None:
        """Return an envelope, and note which one."""
        del limit
        self.fetched.append(digest)
        return self.documents.get(digest)

    def put(self, envelope: bytes) -> str:
        """Store an envelope under the digest of its payload."""
        self.documents[digest(envelope)] = envelope
        return digest(envelope)


@dataclass
class FixedProber:
    """Says of every namespace what the test wants to be true."""

    state: IsolationState = "unknown"
    asked: list[str] = field(default_factory=list)
    edges: tuple[MeasuredEdge, ...] = ()
    lag: float | None = None
    #: How old what is measured is, as it is measured.
    age: timedelta = timedelta(0)
    #: Namespaces that are to be measured again.
    wanted: set[str] = field(default_factory=set)

    def due(self, network: NetworkIntent) -> bool:
        """Tests measure when a release does, or when they say so."""
        return network.namespace in self.wanted

    def forget(self, _: str) -> bool:
        """Nothing is remembered."""
        return False

    def discard(self, namespace: str) -> None:
        """Have it measured again."""
        self.wanted.add(namespace)

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Return the fixed state."""
        self.asked.append(network.namespace)
        self.wanted.discard(network.namespace)
        at = datetime.now(UTC) - self.age
        return Evidence(self.state, at, "test", "as the test says", self.edges, self.lag)


class World:
    """Everything one agent has, over a directory that survives restarts."""

    def __init__(
        self, directory: Path, kube: KubeApi, guards: Sequence[JSONObject], timer: Timer | None = None
    ) -> None:
        self.directory, self.kube, self.guards = directory, kube, guards
        self.timer: Timer = timer or SystemClock()
        self.facts = ClusterFacts(name="eu-1", uid="u-1", environments=("dev",), production=False, projects=("shop",))
        self.author = Ed25519Signer.generate()
        self.stranger = Ed25519Signer.generate()
        self.policy = Policy(self._verified(), FakeEvaluator())
        self.hub = Hub()
        self.anchor = FakeAnchor()
        self.prober = FixedProber()
        self.receipts: list[ReceiptFacts] = []
        self.reports: list[CellReport] = []
        self.health = HealthRegistry()
        self.start_gate: StartGate | None = None
        self.settle_seconds = 0.05
        self.absent_seconds = 0.5
        #: Cells by name that released ones may name in their connections.
        self.peers: dict[str, str] = {}
        self.sequence = 0
        self.revision = 0
        self.engine: CellEngine
        self.state: SqliteStateDb
        self.recorder: Recorder
        self._task: asyncio.Task[None] | None = None
        self._opened: SqliteStateDb | None = None

    def _verified(self) -> VerifiedSet:
        now = datetime.now(UTC)
        entry = KeyringEntry(
            self.author.keyid, "ed25519", self.author.public_spki_der, "ada", KINDS, ("shop",), ("*",),
            now - timedelta(days=1), now + timedelta(days=1),
        )  # fmt: skip
        return VerifiedSet(
            realm=REALM, root_version=1, timestamp_version=1, snapshot_version=1, targets_version=1, keyring_version=1,
            snapshot_expires=now + timedelta(days=7), keyring=Keyring(REALM, 1, (entry,)),
            binding_set=BindingSet(REALM, ()), bundles={}, digests={},
        )  # fmt: skip

    # -- documents ----------------------------------------------------------------------------------------------------

    def sign(self, document: Document, signer: Ed25519Signer | None = None) -> str:
        """Sign a document, put it on the hub, return its digest."""
        payload_type, payload = build_document(document)
        return self.hub.put(dump_envelope(sign_document(payload, payload_type, (signer or self.author,))))

    def release(self, text: str, *, replace: bool = False, signer: Ed25519Signer | None = None) -> str:
        """Sign the release of a cell given as YAML."""
        (manifest,) = load_cells(text, "test")
        peers = [one for peer in self.peers.values() if peer != text for one in load_cells(peer, "peer")]
        resolved = resolve_cells([*peers, manifest], {})[manifest.cell.key]
        release = build_release(manifest.cell, resolved, realm=REALM, issued_at=self._now(), replace=replace)
        return self.sign(release, signer)

    def deployment(self, cell: str, release: str, *, signer: Ed25519Signer | None = None, **changes: Any) -> str:
        """Sign the placement of a release; the sequence grows unless given."""
        self.sequence += 1
        fields: dict[str, Any] = {
            "environments": ("dev",), "sequence": self.sequence, "cluster_selector": Selector(all=True),
            "issued_at": self._now(), **changes,
        }  # fmt: skip
        document = Deployment(
            realm=REALM, project="shop", cell=cell, release_digest=release,
            not_after=self._now() + timedelta(hours=1), **fields,
        )  # fmt: skip
        return self.sign(document, signer)

    def tombstone(self, cell: str, *, delete_data: bool = False) -> str:
        """Sign the end of a cell."""
        self.sequence += 1
        return self.sign(
            Tombstone(
                realm=REALM, project="shop", cell=cell, environments=("dev",), sequence=self.sequence,
                delete_data=delete_data, issued_at=self._now(), not_after=self._now() + timedelta(hours=1),
            )
        )  # fmt: skip

    def approval(self, deployment: str, environment: str = "dev", seconds: int = 3600) -> str:
        """Sign an approval."""
        later = self._now() + timedelta(seconds=seconds)
        return self.sign(Approval(
            realm=REALM, project="shop", deployment_digest=deployment, environment=environment,
            issued_at=self._now(), not_after=later,
        ))  # fmt: skip

    def item(
        self, cell: str, deployment: str, *, hub_state: HubState = "run", evidence: tuple[str, ...] = ()
    ) -> DesiredItem:
        """Return what the hub would say about a deployment in dev."""
        self.revision += 1
        return DesiredItem(self.revision, "shop", cell, "dev", deployment, evidence, hub_state)

    def _now(self) -> datetime:
        return self.timer.now().replace(microsecond=0)

    # -- life ---------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """Start the engine on the directory, and take it down again."""
        try:
            await self._start()
            yield self
        finally:
            await self._stop()

    async def restart_without_anything(self, meanwhile: Callable[[], object]) -> None:
        """Take the agent down, let something happen, and start it again with neither hub nor policy."""
        await self._stop()
        meanwhile()
        self.policy = Policy(None, FakeEvaluator())
        self.hub = Hub()
        self.receipts.clear()
        await self._start()

    async def _start(self) -> None:
        opened = await open_state(self.directory, clock=self.timer, anchor=self.anchor)
        self.state = self._opened = opened.db
        self.recorder = Recorder(
            opened.db.audit, self.timer, realm=REALM, uid=opened.db.uid, cluster=lambda: "eu-1", health=self.health
        )
        await self.recorder.record_findings()
        self.engine = self._engine()
        self._task = asyncio.create_task(self.engine.run())
        await self.until(lambda: self.engine.synced and self._fence_seen(), task=self._task)

    async def _stop(self) -> None:
        """Take it down, whatever it has come to: a test that failed must leave neither a task nor a lock behind."""
        task, self._task = self._task, None
        state, self._opened = self._opened, None
        try:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        finally:
            if state is not None:
                await state.close()

    def _engine(self) -> CellEngine:
        engine = engine_of(
            kube=self.kube, driver=NetworkPolicyDriver(self.kube), prober=self.prober, policy=self.policy,
            source=self.hub, state=self.state, recorder=self.recorder, health=self.health, metrics=AgentMetrics(),
            timer=self.timer, facts=lambda: self.facts, realm=REALM, guards=self.guards,
            settle_seconds=self.settle_seconds, absent_seconds=self.absent_seconds, start_gate=self.start_gate,
            copy_floors=AnchorKeeper(self.state, self.anchor, self.timer, self.health, 3600).save_floors,
        )  # fmt: skip

        async def on_receipt(receipt: ReceiptFacts) -> None:
            self.receipts.append(receipt)

        async def on_status(report: CellReport) -> None:
            self.reports.append(report)

        engine.on_receipt, engine.on_status = on_receipt, on_status
        return engine

    @property
    def intake(self) -> Intake:
        """What verifies documents, one for every cell; there must be a cell."""
        return next(iter(self.engine._roster.workers.values()))._hands._papers._intake

    @property
    def stamps(self) -> StampKeeper:
        """What keeps the key of the stamps."""
        return self.engine._watches.stamps

    def _fence_seen(self) -> bool:
        return any(condition.name == "admission-guard" for condition in self.health.get())

    async def until(
        self, condition: Callable[[], object], seconds: float = 30.0, task: asyncio.Task[None] | None = None
    ) -> None:
        """Poll a condition until it holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if task is not None and task.done():
                await task
            assert asyncio.get_running_loop().time() < deadline, (self.reports[-3:], self.health.get())
            await asyncio.sleep(0.01)

    async def submit(self, item: DesiredItem) -> ReceiptFacts:
        """Hand over an item as the link does, and wait for its receipt."""
        await self.state.items.put(item)
        before = len(self.receipts)
        await self.engine.submit(item)
        await self.until(lambda: self._receipt(item, before) is not None)
        found = self._receipt(item, before)
        assert found is not None
        return found

    def _receipt(self, item: DesiredItem, after: int) -> ReceiptFacts | None:
        return next((one for one in self.receipts[after:] if one.revision == item.revision), None)

    async def deploy(self, text: str, cell: str, **changes: Any) -> ReceiptFacts:
        """Release, place and hand over in one."""
        return await self.submit(self.item(cell, self.deployment(cell, self.release(text), **changes)))

    def report(self, cell: str) -> CellReport:
        """Return the newest state of a cell."""
        return next(one for key, one in self.engine.statuses().items() if key.cell == cell)

    async def phase(self, cell: str, phase: str) -> None:
        """Wait until a cell is in a phase."""
        await self.until(lambda: self.report(cell).phase == phase)

    async def records(self) -> list[Mapping[str, Any]]:
        """Return the audit chain so far as dictionaries."""
        stored = await self.state.audit.peek(10_000, 64 * 1024 * 1024)
        return [
            {name: getattr(record, name) for name in ("action", "object", "decision", "code", "rule", "reason")}
            for record in (parse_record(one.data) for one in stored)
        ]
