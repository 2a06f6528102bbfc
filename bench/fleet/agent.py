"""One simulated agent: the agent's own parts put together without Kubernetes and without OPA."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent.audit.installed import InstalledHub
from agent.audit.interfaces import Entry
from agent.audit.recorder import Recorder
from agent.audit.statement import StatementKey
from agent.link.audit_push import AuditPush
from agent.link.channels import ChannelHolder
from agent.link.client import LinkClient, Streams
from agent.link.content import HubContent
from agent.link.enrolment import EnrolmentSettings, IdentityKeeper
from agent.link.identity import IdentityStore
from agent.link.interfaces import AgentDescription
from agent.link.metrics_push import MetricsPush
from agent.link.succession import CONDITION as LINK
from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import take_snapshot
from agent.policy.store import PolicyStore
from agent.settings import IntervalSettings
from agent.spool.state import SqliteStateDb, open_state
from agent.verify.intake import Intake
from bench.fleet.engine import SimulatedEngine
from bench.fleet.events import Emit
from bench.fleet.policy import AcceptedPolicy
from bench.fleet.stamped import StampedState
from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError
from cellward.policy.model import VerifiedSet
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import Condition, HealthRegistry
from cellward.version import VERSION

#: What a locked agent reads; it need not know the code of the hub.
_LOCKED = " is locked"


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What every agent of a benchmark has in common; intervals are the product's own defaults."""

    realm: str
    root: bytes
    hub_ca_pem: bytes
    enrolment_address: str
    environment: str
    push_audit: bool


class SimulatedAgent:
    """Made by ``open``; ``run`` joins and stays connected until cancelled."""

    def __init__(self, name: str, directory: Path, common: FleetFacts, db: SqliteStateDb, emit: Emit) -> None:
        self._name = name
        self._common = common
        self._emit = emit
        self._clock = SystemClock()
        self._health = HealthRegistry(self._clock)
        self._real = db
        self._state = StampedState(db, acked=self._acked, synced=lambda: emit("synced", name, ""))
        self._statement = StatementKey.load_or_create(directory)
        self._channels = ChannelHolder()
        self._keeper = self._make_keeper(directory)
        self._facts = ClusterFacts(
            name=name, uid=db.uid, environments=(common.environment,), production=False, labels={}, region="bench",
            projects=("*",),
        )  # fmt: skip
        content = HubContent(self._channels)
        store = PolicyStore(directory / "policy", root=common.root, realm=common.realm)
        store.load(lambda binding: binding.selects(self._facts))
        self._policy = AcceptedPolicy(store, content, lambda: self._facts)
        self._policy.on_accepted = self._accepted
        self._policy.on_failed = self._failed
        self._recorder = Recorder(
            db.audit, self._clock, realm=common.realm, uid=db.uid, cluster=lambda: name, health=self._health
        )
        intake = Intake(
            policy=self._policy, source=content, state=self._state, clock=self._clock, facts=lambda: self._facts,
            realm=common.realm,
        )  # fmt: skip
        self._engine = SimulatedEngine(
            intake, self._state, self._recorder, self._statement, self._policy, self._clock, common.realm, self._failed
        )
        self._link = self._make_link(content)
        self._engine.sender = self._link
        self._health.on_change.append(self._cut)

    @classmethod
    async def open(cls, name: str, directory: Path, common: FleetFacts, emit: Emit) -> SimulatedAgent:
        """Open the durable state of an agent that was never connected."""
        opened = await open_state(directory, clock=SystemClock())
        return cls(name, directory, common, opened.db, emit)

    async def run(self) -> None:
        """Join, then stay connected until cancelled."""
        try:
            await self._keeper.obtain()
            self._emit("joined", self._name, "")
            async with asyncio.TaskGroup() as group:
                group.create_task(self._policy.run())
                group.create_task(self._link.run())
        finally:
            await self._state.close()

    def _make_keeper(self, directory: Path) -> IdentityKeeper:
        common = self._common
        enrolment = EnrolmentSettings(
            realm=common.realm,
            uid=self._real.uid,
            statement_spki_der=self._statement.spki_der,
            enrolment_address=common.enrolment_address,
            hub_ca_pem=common.hub_ca_pem,
            token_file=directory / "join-token",
        )
        store = IdentityStore(directory / "identity")
        return IdentityKeeper(enrolment, store, self._channels, self._clock, self._health)

    def _make_link(self, content: HubContent) -> LinkClient:
        intervals = IntervalSettings()
        description = AgentDescription(realm=self._common.realm, facts=self._facts, agent_version=VERSION)
        audit = AuditPush(
            self._channels, self._real.audit, self._recorder, self._statement,
            InstalledHub(self._real.meta, self._keeper.authorities), realm=self._common.realm, uid=self._real.uid,
            timer=self._clock, health=self._health, interval=intervals.audit,
        )  # fmt: skip
        registry = AgentMetrics().registry
        metrics = MetricsPush(self._channels, lambda: take_snapshot(registry), self._clock, interval=intervals.metrics)
        runs: list[Callable[[], Awaitable[None]]] = [metrics.run]
        if self._common.push_audit:
            runs.append(audit.run)
        return LinkClient(
            description,
            boot_id=uuid.uuid4().hex,
            statement_keyid=self._statement.keyid,
            keeper=self._keeper,
            channels=self._channels,
            db=self._state,
            ports=self._engine,
            recorder=self._recorder,
            timer=self._clock,
            health=self._health,
            streams=Streams(tuple(runs), audit.on_log_origin),
            heartbeat=intervals.heartbeat,
            status_interval=intervals.status,
            backoff=FullJitter(intervals.backoff_base, intervals.backoff_cap),
            content=content,
        )

    async def _accepted(self, verified: VerifiedSet) -> None:
        await self._recorder.record_or_count(Entry("policy.accept", "policy", "allow"))
        self._emit("verified", self._name, str(verified.snapshot_version))

    def _cut(self, condition: Condition) -> None:
        if condition.name == LINK and not condition.ok and _LOCKED in condition.message:
            self._emit("cut", self._name, condition.code)

    def _acked(self, digest: str, accepted: bool) -> None:
        self._emit("acked" if accepted else "refused", self._name, digest)

    def _failed(self, error: CellwardError) -> None:
        self._emit("failed", self._name, f"{error.code}: {error.message}")
