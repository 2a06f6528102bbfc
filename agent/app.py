"""The agent's composition root: the only place that knows every part, builds them in order and runs them as root tasks.

Order of dependence: API server, durable state with its anchor, identity, recorder, policy engine, cell engine, link.
Nothing here is asked of the hub that is needed to enforce what was accepted before (V1).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from agent.anchor import SecretAnchor
from agent.audit.installed import InstalledHub
from agent.audit.interfaces import Entry
from agent.audit.recorder import Recorder
from agent.audit.statement import StatementKey
from agent.cells.compose import engine_of
from agent.cells.engine import CellEngine
from agent.isolation.driver import NetworkPolicyDriver
from agent.isolation.interfaces import Prober
from agent.isolation.nodes import NodeWatch
from agent.isolation.prober import UnprovedProber
from agent.isolation.probing.edges import Surroundings, metadata_of
from agent.isolation.probing.ends import answer_udp, own_address
from agent.isolation.probing.keeper import RememberingProber
from agent.isolation.probing.runner import PodProber
from agent.kube.client import KubeClient
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_THROTTLED, KUBE_UNAUTHENTICATED
from agent.kube.interfaces import JSONObject
from agent.link.audit_push import AuditPush
from agent.link.channels import ChannelHolder
from agent.link.client import LinkClient, Streams
from agent.link.content import HubContent
from agent.link.enrolment import EnrolmentSettings, IdentityKeeper
from agent.link.identity import IdentityStore, LinkIdentity
from agent.link.interfaces import AgentDescription
from agent.link.metrics_push import MetricsPush
from agent.link.receipts import SignedReceipts
from agent.measure import Gauges
from agent.metrics.registry import AgentMetrics
from agent.metrics.scrape.aims import KeptAims, Place
from agent.metrics.scrape.fetch import HttpPages
from agent.metrics.scrape.scraper import Scraper
from agent.metrics.snapshot import take_snapshot
from agent.metrics.usage import UsageReader
from agent.objects.fence import load_guards
from agent.objects.identity import CellIdentity
from agent.platform import IdentityPublisher, PlatformReader
from agent.policy.floors import CopiedFloors
from agent.policy.refresher import PolicyRefresher
from agent.policy.service import EngineFacts, PolicyService
from agent.reception import Reception
from agent.settings import AgentSettings
from agent.spool.errors import FULL, UNWRITABLE
from agent.spool.interfaces import Finding
from agent.spool.state import AnchorKeeper, SqliteStateDb, open_state
from agent.vitals import Vitals, VitalsPage
from cellward.cells.gate import StartGate
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import SUPPORTED_SCHEMAS
from cellward.errors import CellwardError, InvalidInput, Refused, Unavailable, define
from cellward.policy import trust
from cellward.policy.errors import FOREIGN_REALM
from cellward.policy.model import VerifiedSet
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.runtime.settings import split_address
from cellward.runtime.supervise import Task, supervise
from cellward.version import VERSION

_log = structlog.get_logger()

OTHER_NAME = define(
    "agent/other-name",
    Refused,
    "The hub issued a certificate for another cluster's name.",
    hint="Invite this cluster under the name in its settings, remove its identity directory, start the agent again.",
)
NO_GUARDS = define(
    "agent/no-guards",
    InvalidInput,
    "The chart's admission policies are not where the settings say.",
    hint="Set guards_dir to the files of charts/cellward-agent that were installed in this cluster.",
)
NO_START_GATE = define(
    "agent/no-start-gate",
    InvalidInput,
    "The start gate that the settings ask for cannot be had.",
    hint="Run the agent in its cluster, by the chart, or set start_gate: none.",
)
#: Refusals of the API server that end without anybody's doing, beside its absence.
#: A measurement of isolation counts no longer once so many times were missed at which it is made again.
PROOF_INTERVALS = 3
_MAY_PASS = frozenset({KUBE_FORBIDDEN.code, KUBE_UNAUTHENTICATED.code, KUBE_THROTTLED.code})


@dataclass
class Base:
    """What has to be there before the agent knows its own name."""

    settings: AgentSettings
    clock: SystemClock
    health: HealthRegistry
    kube: KubeClient
    anchor: AnchorKeeper
    db: SqliteStateDb
    statement: StatementKey
    channels: ChannelHolder
    keeper: IdentityKeeper


@dataclass
class Agent:
    """Every part of a running agent; built by ``open_agent``."""

    base: Base
    recorder: Recorder
    policy: PolicyService
    engine: CellEngine
    refresher: PolicyRefresher
    link: LinkClient
    metrics: AgentMetrics
    publisher: IdentityPublisher
    prober: Prober
    usage: UsageReader
    scraper: Scraper

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; raises what the first failing part raised."""
        base = self.base
        tasks = [
            Task("anchor", base.anchor.run),
            Task("cells", self.engine.run),
            Task("policy", self.refresher.run),
            Task("link", self.link.run),
            Task("identity", self.publisher.run),
            Task("usage", self.usage.run),
        ]
        if isinstance(self.prober, RememberingProber):
            tasks.append(Task("nodes", NodeWatch(base.kube, self.prober.forget_all).run))
        if isinstance(self.prober, RememberingProber) or base.settings.start_gate == "proved":
            # An edge to the agent that is closed proves something only because the agent would answer.
            tasks.append(Task("echo", partial(answer_udp, *split_address(base.settings.health_listen))))
        if base.settings.kubeconfig is None:
            # From outside of its cluster an agent reaches no pod, and may reach somebody else under its address.
            tasks.append(Task("scrape", self.scraper.run))
        if base.settings.metrics_listen:
            # Off by default, and a whole HTTP server that an agent keeps in memory for nothing else.
            from agent.metrics.page import MetricsPage  # noqa: PLC0415

            tasks.append(Task("metrics", MetricsPage(self.metrics.registry, base.settings.metrics_listen).run))
        await supervise(tasks, stop)


@asynccontextmanager
async def open_agent(settings: AgentSettings, vitals: Vitals | None = None) -> AsyncIterator[Agent]:
    """Build every part over the settings; ``vitals`` hears how far it is.

    Raises:
        CellwardError: the API server does not answer, the state is in use, the root is not this realm's, and so on.
    """
    vitals = vitals if vitals is not None else Vitals()
    async with _open_base(settings) as base, _told(vitals, base.health):
        identity = await base.keeper.obtain()
        if identity.name != settings.facts.name:
            # Selectors and bindings match the name: it comes from here, as every fact, and the hub must agree with it.
            raise OTHER_NAME(
                f"the hub's certificate names {identity.name}, this cluster is {settings.facts.name}",
                cluster=identity.name,
            )
        agent = await _compose(base, identity)
        try:
            await _record_start(agent)
            vitals.composed(lambda: agent.policy.current is not None)
            yield agent
            await agent.recorder.record_or_count(Entry("agent.stop", "agent", "done"))
        finally:
            await agent.policy.close()


@asynccontextmanager
async def _told(vitals: Vitals, health: HealthRegistry) -> AsyncIterator[None]:
    vitals.opened(health)
    try:
        yield
    finally:
        vitals.closed()


async def _record_start(agent: Agent) -> None:
    """Record the start and what was found; a full spool keeps nobody from repairing and narrowing (V13)."""
    recorder = agent.recorder
    try:
        await recorder.record_findings()
    except CellwardError as error:
        if error.code not in {FULL.code, UNWRITABLE.code}:
            raise
        # They stay in the state file and are chained at a later start.
        _log.error("findings-not-recorded", code=error.code, reason=error.message)
    await recorder.record_or_count(Entry("agent.start", "agent", "done", details={"version": VERSION}))
    for finding in agent.policy.findings:
        entry = Entry("state.finding", "policy", "finding", code=finding.code, reason=finding.message)
        await recorder.record_or_count(entry)


@asynccontextmanager
async def _open_base(settings: AgentSettings) -> AsyncIterator[Base]:
    clock = SystemClock()
    health = HealthRegistry(clock)
    kube = await KubeClient.connect(settings.kubeconfig)
    try:
        anchor = SecretAnchor(kube, settings.namespace)
        opened = await open_state(
            settings.state_dir,
            clock=clock,
            anchor=anchor,
            max_bytes=settings.spool.max_bytes,
            audit_max_bytes=settings.spool.audit_max_bytes,
        )
        try:
            statement = StatementKey.load_or_create(settings.state_dir)
            await opened.db.bind_statement_key(statement.keyid)
            channels = ChannelHolder()
            enrolment = EnrolmentSettings(
                realm=settings.realm,
                uid=opened.db.uid,
                statement_spki_der=statement.spki_der,
                enrolment_address=settings.enrolment_address,
                hub_ca_pem=settings.hub_ca_file.read_bytes(),
                token_file=settings.join_token_file,
            )
            store = IdentityStore(settings.state_dir / "identity")
            keeper = IdentityKeeper(enrolment, store, channels, clock, health)
            kept = AnchorKeeper(opened.db, anchor, clock, health, settings.intervals.anchor)
            yield Base(settings, clock, health, kube, kept, opened.db, statement, channels, keeper)
        finally:
            await opened.db.close()
    finally:
        await kube.close()


async def _compose(base: Base, identity: LinkIdentity) -> Agent:
    settings = base.settings
    facts = _facts(settings, base.db.uid)
    recorder = Recorder(
        base.db.audit,
        base.clock,
        realm=settings.realm,
        uid=base.db.uid,
        cluster=lambda: identity.name,
        actor=lambda: identity.spiffe_id,
        health=base.health,
    )
    policy = PolicyService(
        state_dir=settings.state_dir,
        root=_root(settings),
        realm=settings.realm,
        facts=facts,
        opa_binary=_program(settings.opa_binary),
        clock=base.clock,
        health=base.health,
        floors=CopiedFloors(base.db.policy_floors, base.anchor.save_floors),
        time_floor=base.db.time_floor,
    )
    await policy.start()
    if policy.lost:
        await _begin_epoch(base, policy)
    content = HubContent(base.channels)
    refresher = PolicyRefresher(policy, content, recorder, base.clock, settings.intervals.policy_refresh)
    metrics = AgentMetrics()
    prober = _prober(base)
    engine = _engine(base, facts, recorder, policy, content, metrics, prober)
    if isinstance(prober, RememberingProber):
        prober.neighbours = engine.neighbours

    async def decide_again(_: VerifiedSet) -> None:
        engine.reconsider()

    policy.on_switch.append(decide_again)
    ports = Reception(engine, policy, refresher, facts, base.health)
    gauges = Gauges(metrics, base.health, base.db, recorder, policy, base.channels, base.clock)
    scraper = _scraper(base, engine, metrics)
    link = gauges.link = await _link(base, facts, recorder, ports, gauges, content, scraper)
    engine.on_status = link.send_report
    engine.on_receipt = SignedReceipts(base.statement, link, base.clock, settings.realm, base.db.uid)
    publisher = IdentityPublisher(
        base.kube,
        settings.namespace,
        realm=settings.realm,
        facts=facts,
        statement_spki=base.statement.spki_der,
        timer=base.clock,
    )
    usage = UsageReader(
        base.kube,
        engine.namespaces,
        partial(_account_of, settings),
        metrics,
        base.clock,
        settings.intervals.metrics,
    )
    return Agent(base, recorder, policy, engine, refresher, link, metrics, publisher, prober, usage, scraper)


def _scraper(base: Base, engine: CellEngine, metrics: AgentMetrics) -> Scraper:
    """What reads the metrics of the cells' own programs."""
    return Scraper(
        base.kube,
        KeptAims(lambda: {key: Place(*where) for key, where in engine.running().items()}, base.db.blobs.get),
        HttpPages(),
        partial(_account_of, base.settings),
        metrics,
        base.clock,
        base.settings.intervals.metrics,
    )


async def _begin_epoch(base: Base, policy: PolicyService) -> None:
    """Older, damaged or lost policy is a finding and a new epoch, as with the rest of the state (V1)."""
    try:
        await base.db.begin_epoch([Finding(error.code, error.message) for error in policy.findings])
    except CellwardError as error:
        # The finding is recorded, or counted, in the present epoch.
        _log.error("epoch-not-begun", code=error.code, reason=error.message)
    else:
        policy.findings = ()


def _engine(
    base: Base,
    facts: ClusterFacts,
    recorder: Recorder,
    policy: PolicyService,
    content: HubContent,
    metrics: AgentMetrics,
    prober: Prober,
) -> CellEngine:
    return engine_of(
        kube=base.kube,
        driver=NetworkPolicyDriver(base.kube),
        prober=prober,
        policy=policy,
        source=content,
        state=base.db,
        recorder=recorder,
        health=base.health,
        metrics=metrics,
        timer=base.clock,
        facts=lambda: facts,
        realm=base.settings.realm,
        guards=_guards(base.settings),
        copy_floors=base.anchor.save_floors,
        agent_namespace=base.settings.namespace,
        proof_seconds=PROOF_INTERVALS * base.settings.intervals.isolation,
        start_gate=_start_gate(base.settings),
    )


def _account_of(settings: AgentSettings, namespace: str) -> str:
    """The user that a cell's own account is."""
    return CellIdentity(namespace, settings.namespace).user


def _start_gate(settings: AgentSettings) -> StartGate | None:
    """Return what pods of cells begin with; raises agent/no-start-gate where that is asked for and cannot be."""
    if settings.start_gate == "none":
        return None
    if (api := _api()) is None:
        raise NO_START_GATE("this process has no address of the API server in its environment, as a pod has")
    return StartGate(settings.prober_image, api, settings.namespace)


def _api() -> tuple[str, int] | None:
    """Host and port of the API server as pods know it."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    return (host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))) if host else None


def _prober(base: Base) -> Prober:
    """The prober that this installation can have; one that says why there is none."""
    settings, api = base.settings, _api()
    if settings.isolation_probe == "none":
        return UnprovedProber(base.clock, "isolation_probe is none")
    if not settings.prober_image:
        return UnprovedProber(base.clock, "the settings name no image of the prober")
    if settings.kubeconfig is not None or api is None or not settings.health_listen:
        return UnprovedProber(base.clock, "this agent does not run in the cluster, so no edge into a cell can be tried")
    outside = split_address(settings.probe_outside) if settings.probe_outside else None
    port = split_address(settings.health_listen)[1]

    def around() -> Surroundings:
        here = own_address(api[0])
        return Surroundings(here, port, api=api, metadata=metadata_of(here), outside=outside)

    pods = PodProber(
        base.kube,
        base.clock,
        image=settings.prober_image,
        user_of=partial(_account_of, settings),
        around=around,
        agent_namespace=settings.namespace,
    )
    return RememberingProber(pods, base.clock, settings.intervals.isolation)


async def _link(
    base: Base,
    facts: ClusterFacts,
    recorder: Recorder,
    ports: Reception,
    gauges: Gauges,
    content: HubContent,
    scraper: Scraper,
) -> LinkClient:
    settings, intervals = base.settings, base.settings.intervals
    backoff = FullJitter(intervals.backoff_base, intervals.backoff_cap)
    audit = AuditPush(
        base.channels,
        base.db.audit,
        recorder,
        base.statement,
        InstalledHub(base.db.meta, base.keeper.authorities),
        realm=settings.realm,
        uid=base.db.uid,
        timer=base.clock,
        health=base.health,
        interval=intervals.audit,
        backoff=FullJitter(intervals.backoff_base, intervals.backoff_cap),
    )
    push = MetricsPush(
        base.channels,
        lambda: take_snapshot(gauges.refreshed()),
        base.clock,
        interval=intervals.metrics,
        pods=scraper.found,
    )
    engine_facts = await _engine_facts(ports.policy_service)
    gauges.opa_version = engine_facts.version
    description = AgentDescription(
        realm=settings.realm,
        facts=facts,
        agent_version=VERSION,
        opa_version=engine_facts.version,
        capabilities_digest=engine_facts.capabilities_digest,
        schemas=sorted(SUPPORTED_SCHEMAS),
    )
    return LinkClient(
        description,
        platform=PlatformReader(base.kube, base.kube.authority_sha256),
        boot_id=uuid.uuid4().hex,
        statement_keyid=base.statement.keyid,
        keeper=base.keeper,
        channels=base.channels,
        db=base.db,
        ports=ports,
        recorder=recorder,
        timer=base.clock,
        health=base.health,
        streams=Streams((audit.run, push.run, gauges.run), audit.on_log_origin),
        heartbeat=intervals.heartbeat,
        status_interval=intervals.status,
        backoff=backoff,
        content=content,
    )


def _guards(settings: AgentSettings) -> tuple[JSONObject, ...]:
    """The chart's admission policies to compare the cluster's with; without them nothing could be found missing."""
    guards = load_guards(settings.guards_dir, settings.namespace)
    if not guards:
        raise NO_GUARDS(f"{settings.guards_dir} holds no ValidatingAdmissionPolicy", directory=settings.guards_dir)
    return guards


def _program(named: Path) -> Path:
    """The program of a name, from the PATH: it is started with an empty environment, which has none."""
    found = shutil.which(named)
    return named if found is None else Path(found).absolute()


async def _engine_facts(policy: PolicyService) -> EngineFacts:
    """Version and capabilities for Hello; unknown while the binary is not there, which is a condition of its own."""
    try:
        return await policy.engine_facts()
    except CellwardError as error:
        _log.warning("policy-engine-unknown", code=error.code, reason=error.message)
        return EngineFacts("", "")


def _root(settings: AgentSettings) -> bytes:
    """TUF root from the install; it must be the one the realm is named after."""
    root = settings.root_file.read_bytes()
    realm = trust.realm_of(root)
    if realm != settings.realm:
        raise FOREIGN_REALM(f"{settings.root_file} is the root of {realm}, the settings name {settings.realm}")
    return root


def _facts(settings: AgentSettings, uid: str) -> ClusterFacts:
    facts = settings.facts
    return ClusterFacts(
        name=facts.name,
        uid=uid,
        environments=facts.environments,
        production=facts.production,
        labels=dict(facts.labels),
        region=facts.region,
        projects=facts.projects,
    )


async def main(settings: AgentSettings) -> None:
    """Run an agent until SIGTERM or SIGINT; wait for an API server that is not there yet."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    running, vitals = asyncio.Event(), Vitals()
    working = asyncio.create_task(_work(settings, stop, running, vitals), name="agent")
    # It answers while the agent waits for an API server or for its first certificate, too.
    page = VitalsPage(vitals, settings.health_listen).run() if settings.health_listen else stop.wait()
    asked = asyncio.create_task(page, name="vitals")
    await asyncio.wait({stopping, working, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done() and running.is_set():
        # Supervised parts end by themselves; joining and waiting for an API server know nothing of ``stop``.
        await asyncio.wait({working}, timeout=15)
    for task in (working, asked, stopping):
        task.cancel()
    for outcome in await asyncio.gather(working, asked, stopping, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _work(settings: AgentSettings, stop: asyncio.Event, running: asyncio.Event, vitals: Vitals) -> None:
    backoff = FullJitter(settings.intervals.backoff_base, settings.intervals.backoff_cap)
    while not stop.is_set():
        try:
            async with open_agent(settings, vitals) as agent:
                running.set()
                await agent.run(stop)
        except CellwardError as error:
            # Typically an API server that restarts, which refuses everybody until it has read its roles; a crash loop
            # would only make the wait longer (V16).
            if not isinstance(error, Unavailable) and error.code not in _MAY_PASS:
                raise
            running.clear()
            _log.warning("agent-waits", code=error.code, reason=error.message)
            await backoff.wait()
