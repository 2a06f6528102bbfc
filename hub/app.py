"""The hub's composition root: the only place that knows every part, builds them in order and runs them as root tasks.

Order of dependence: keys, store, realm, audit log, policy repository, fleet, listeners. Going down runs backwards: the
API stops taking requests, agents are asked to reconnect, then the store closes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from ssl import SSLContext

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from cellward.audit.vkey import format_vkey
from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from cellward.identity.keys import spki_of
from cellward.runtime.clock import SystemClock
from cellward.runtime.files import narrow, write_atomic
from cellward.runtime.health import HealthRegistry
from cellward.runtime.memory import collect_rarely
from cellward.runtime.settings import split_address
from cellward.runtime.supervise import Task, supervise
from cellward.version import VERSION
from hub.api.app import make_api_app
from hub.api.auth import BOOTSTRAP, hash_token, new_token
from hub.api.certificate import ApiCertificate
from hub.api.interfaces import HubFacts as ApiFacts
from hub.api.interfaces import Services
from hub.audit.damage import RECENT
from hub.audit.intake import Intake, volume_of
from hub.audit.port import AuditIngest
from hub.audit.segments import Segments
from hub.audit.service import AuditLog
from hub.authority.authority import Authority
from hub.authority.copies import Copies
from hub.authority.keystore import KeyStore
from hub.authority.limits import Rate
from hub.authority.model import HubKeys
from hub.authority.service import IdentityService
from hub.authority.tokens import JoinTokens
from hub.clusters.directory import Directory
from hub.clusters.locks import LockBook, LocksInForce, signed_locks
from hub.clusters.service import ClusterService
from hub.documents.bounds import Bounds
from hub.documents.placing import Placer
from hub.documents.realm import Realm, RealmService
from hub.documents.served import ServedKeyring
from hub.documents.service import DocumentService
from hub.front.front import Front
from hub.front.inside import Inside
from hub.front.watch import Fronts
from hub.keeping import Keeping
from hub.leases import AUDIT, JUDGE, TIMESTAMP, Leases
from hub.metrics.endpoint import make_metrics_app
from hub.metrics.own import Facts, FactsCollector, HubMetrics
from hub.metrics.service import FleetMetrics
from hub.policy.service import TufRepository
from hub.settings import HubSettings
from hub.store.errors import DAMAGED
from hub.store.interfaces import Store
from hub.store.log import AuditEvent
from hub.store.sql.alone import alone
from hub.store.sql.database import database_file
from hub.store.sql.store import open_store
from hub.sync.content import Content, PolicyPosition
from hub.sync.errors import CANNOT_LISTEN
from hub.sync.interfaces import SyncPorts
from hub.sync.links import Links
from hub.sync.servers import EnrolmentServer, LinkServer, build_enrolment_server, build_link_server
from hub.sync.session import HubFacts as LinkFacts
from hub.sync.tls import RotatingLeaf
from hub.upkeep import LOG, look, refresh, verify

_log = structlog.get_logger()
#: Open files wanted: more than both listeners of the agents take connections.
OPEN_FILES = 65_536
#: Seconds an HTTP connection may sit between two requests.
_KEEP_ALIVE = 30.0


@dataclass
class CurrentRealm:
    """The realm as this process knows it: read at start, set once when a root is adopted."""

    value: str | None = None

    def get(self) -> str | None:
        """The realm, None before a root was adopted."""
        return self.value

    def text(self) -> str:
        """The realm, empty before a root was adopted."""
        return self.value or ""

    async def adopted(self, realm: Realm) -> None:
        """Hear of the adoption."""
        self.value = realm.realm


@dataclass
class Hub:
    """Every part of a running hub; built by ``open_hub``."""

    settings: HubSettings
    clock: SystemClock
    keys: HubKeys
    store: Store
    health: HealthRegistry
    current_realm: CurrentRealm
    realm: RealmService
    audit: AuditLog
    policy: TufRepository
    clusters: ClusterService
    documents: DocumentService
    fleet_metrics: FleetMetrics
    metrics: HubMetrics
    registry: CollectorRegistry
    leaf: RotatingLeaf
    identity: IdentityService
    locks: LocksInForce
    tokens: JoinTokens
    fronts: Fronts
    intake: Intake
    leases: Leases
    enrolment_server: EnrolmentServer = field(init=False)
    link_server: LinkServer = field(init=False)
    gauges: Facts | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; raises what the first failing part raised."""
        async with AsyncExitStack() as stack:
            certificate = ApiCertificate(lambda: self.leaf.leaf, self.health)
            await stack.enter_async_context(_serving(self, certificate))
            grace = self.settings.drain_seconds
            tasks = [
                Task("store-watch", self.store.watch),
                Task("leases", lambda: self.leases.follow(stop)),
                Task("audit-events", lambda: self.audit.follow(self.store.changes, lambda: self.leases.held(AUDIT))),
                Task("timestamp", lambda: self.policy.run(stop, lambda: self.leases.fence(TIMESTAMP))),
                Task(
                    "documents",
                    lambda: self.documents.follow_keyring(stop, lambda: self.leases.held(JUDGE) is not None),
                ),
                Task("moves", lambda: self.clusters.moves.follow(stop)),
                Task("housekeeping", lambda: refresh(self, stop)),
                Task("store-pages", lambda: verify(self, stop)),
                Task("api-certificate", lambda: certificate.follow(stop)),
                self.enrolment_server.task(stop),
                self.link_server.task(stop, grace=grace),
            ]
            await supervise(tasks, stop, grace=grace + 5)


@asynccontextmanager
async def open_hub(settings: HubSettings) -> AsyncIterator[Hub]:
    """Build every part over the settings; closes the store at the end.

    Raises:
        CellwardError: a wrong passphrase, damaged keys or an unusable store, each with its code.
    """
    clock = SystemClock()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = await asyncio.to_thread(KeyStore(settings.data_dir / "keys", _passphrase(settings)).open, clock.now())
    with alone(settings.database):
        store = await open_store(settings.database)
        try:
            async with _opened(await _compose(settings, clock, keys, store)) as hub:
                yield hub
        finally:
            await store.close()


@asynccontextmanager
async def _opened(hub: Hub) -> AsyncIterator[Hub]:
    try:
        await _first_admin(hub)
        await hub.documents.judge_again()
        await hub.clusters.start()
        await look(hub.health, LOG, lambda: _read_end(hub))
        await _record(hub, "hub.start")
        yield hub
        await _record(hub, "hub.stop")
    finally:
        await hub.enrolment_server.release()
        await hub.link_server.release()
        await hub.audit.close()


async def _record(hub: Hub, action: str) -> None:
    """Record start and stop; before a realm is known there is no log to write to, and a damaged one takes nothing."""
    if hub.current_realm.get() is None:
        return
    try:
        await hub.audit.append(AuditEvent("hub", action, "hub", "done", details={"version": VERSION}))
    except CellwardError as error:
        if error.code != DAMAGED.code:
            raise
        # Agents keep what they have recorded, and locks work: a hub that does not start helps nobody.
        hub.health.set(LOG, ok=False, code=error.code, message=error.message)


async def _read_end(hub: Hub) -> str:
    await hub.audit.verify(RECENT)
    return "the newest records fit their hashes"


async def _compose(settings: HubSettings, clock: SystemClock, keys: HubKeys, store: Store) -> Hub:
    realm = RealmService(store.meta)
    known = await realm.current()
    current = CurrentRealm(known.realm if known is not None else None)
    realm.on_adopted.append(current.adopted)
    audit = AuditLog(store.audit, keys.tree_head, current.text, clock)
    timestamp = Ed25519Signer(keys.timestamp)
    life = timedelta(seconds=settings.timestamp_life_seconds)
    policy = TufRepository(store.tuf, timestamp, clock, realm=current.get, life=life)
    authority = Authority(keys, clock, current.get)
    dns, ips = _names(settings)
    locks = LocksInForce(store.locks, store.changes, signed_locks(policy))
    tokens = JoinTokens(store.tokens, clock)
    registry = CollectorRegistry()
    bounds = Bounds(**settings.per_project.model_dump())
    health = HealthRegistry(clock)
    placer = Placer(clock)
    hub = Hub(
        settings=settings,
        clock=clock,
        keys=keys,
        store=store,
        health=health,
        fronts=Fronts(settings.connections.model_dump(), descriptors(), clock, health),
        current_realm=current,
        realm=realm,
        audit=audit,
        policy=policy,
        clusters=ClusterService(store, clock, placer, locks),
        documents=DocumentService(store, realm, clock, ServedKeyring(policy, store.changes), placer, bounds),
        fleet_metrics=FleetMetrics(clock, series_limit=settings.limits.series_per_cluster),
        metrics=HubMetrics(registry, version=VERSION),
        registry=registry,
        leaf=RotatingLeaf(authority, clock, current.get, dns=dns, ips=ips),
        identity=IdentityService(
            authority=authority,
            tokens=tokens,
            store=store,
            locks=locks,
            copies=Copies(store, clock),
            clock=clock,
        ),
        locks=locks,
        tokens=tokens,
        intake=_intake(settings, clock, health),
        leases=Leases(store, secrets.token_hex(16)),
    )
    hub.enrolment_server = _enrolment(hub)
    try:
        hub.link_server = _link(hub)
    except BaseException:
        hub.enrolment_server.front.abandon()
        raise
    return hub


def _intake(settings: HubSettings, clock: SystemClock, health: HealthRegistry) -> Intake:
    limits, file = settings.limits, database_file(settings.database)
    # The volume of a server's database is the server's to look after; data_dir has only keys then.
    return Intake(
        clock,
        health,
        volume_of(file) if file is not None else None,
        rate=Rate(limits.audit_burst_bytes, limits.audit_bytes_per_second),
        reserve=limits.reserve_bytes,
    )


def _enrolment(hub: Hub) -> EnrolmentServer:
    settings = hub.settings
    host, port = split_address(settings.listen.enrolment)
    enrolment = build_enrolment_server(
        identity=hub.identity,
        leaf=hub.leaf,
        link_address=lambda: settings.link_address,
        host=host,
        port=port,
        clock=hub.clock,
        front=hub.fronts.limits["enrolment"],
        observe=hub.metrics.observe_rpc,
    )
    hub.fronts.add("enrolment", lambda: enrolment.front)
    return enrolment


def _link(hub: Hub) -> LinkServer:
    host, port = split_address(hub.settings.listen.link)
    directory = Directory(hub.store.clusters, hub.locks, hub.store.changes)
    ports = SyncPorts(
        directory=directory,
        fleet=hub.clusters,
        changes=hub.store.changes,
        policy=PolicyPosition(hub.policy, hub.store.changes),
        content=Content(hub.store.documents, hub.policy, hub.store.changes, hub.clusters.placed),
        audit=AuditIngest(hub.audit, directory.binding, hub.store, hub.intake),
        metrics=hub.fleet_metrics,
        links=Links(hub.store.links, hub.store.changes, hub.leases.holder, hub.clock),
    )
    link = build_link_server(
        ports=ports,
        identity=hub.identity,
        leaf=hub.leaf,
        # With the log's key, so that agents can pin it at first contact.
        facts=LinkFacts(
            hub.current_realm.text,
            lambda: hub.store.hub_epoch,
            lambda: format_vkey(hub.audit.origin, spki_of(hub.keys.tree_head)),
        ),
        audit=hub.store.audit,
        clock=hub.clock,
        host=host,
        port=port,
        front=hub.fronts.limits["link"],
        observe=hub.metrics.observe_rpc,
    )
    hub.fronts.add("link", lambda: link.front)
    return link


def _services(hub: Hub) -> Services:
    def facts() -> ApiFacts:
        return ApiFacts(
            version=VERSION,
            timestamp_spki=spki_of(hub.keys.timestamp),
            tree_head_spki=spki_of(hub.keys.tree_head),
            log_origin=hub.audit.origin,
            hub_ca_pem=hub.keys.hub_ca.pem.decode(),
            enrolment_address=hub.settings.enrolment_address,
        )

    return Services(
        clock=hub.clock,
        tokens=hub.store.api_tokens,
        store=hub.store,
        audit=hub.audit,
        clusters=hub.clusters,
        documents=hub.documents,
        locks=LockBook(hub.store, hub.clock, hub.locks),
        realm=hub.realm,
        policy=hub.policy,
        enrolment=hub.tokens,
        health=hub.health,
        facts=facts,
        segments=Segments(hub.store.audit, hub.current_realm.text),
        keeping=Keeping(hub.settings.database, hub.settings.backup_dir, hub.store, hub.clock),
        send_command=hub.link_server.link.send_command,
        metrics=hub.metrics,
        fleet=hub.fleet_metrics,
        max_body=hub.settings.limits.request_bytes,
        join_token_life=timedelta(seconds=hub.settings.join_token_seconds),
    )


@asynccontextmanager
async def _serving(hub: Hub, certificate: ApiCertificate) -> AsyncIterator[None]:
    """Open the two HTTP listeners."""
    doors: list[Front] = []
    services = replace(_services(hub), doors=doors)
    # Bodies end at once when it stops; who is being answered has as long as streams have.
    grace = hub.settings.drain_seconds
    api = web.AppRunner(make_api_app(services), access_log=None, keepalive_timeout=_KEEP_ALIVE, shutdown_timeout=grace)
    metrics = web.AppRunner(
        make_metrics_app(hub.registry, hub.fleet_metrics, hub.fronts, FactsCollector(lambda: hub.gauges)),
        access_log=None,
        keepalive_timeout=_KEEP_ALIVE,
        shutdown_timeout=grace,
    )
    fronts: list[Front] = []
    try:
        await api.setup()
        fronts.append(_listen(hub, "api", api, hub.settings.listen.api, certificate.context))
        doors.append(fronts[0])
        if hub.settings.listen.metrics:
            await metrics.setup()
            fronts.append(_listen(hub, "metrics", metrics, hub.settings.listen.metrics))
        _log.info("hub-ready", address=hub.settings.api_address)
        yield
    finally:
        for front in fronts:
            await front.close()
        await api.cleanup()
        await metrics.cleanup()
        await asyncio.gather(*(front.end() for front in fronts))


def _listen(hub: Hub, name: str, runner: web.AppRunner, address: str, context: SSLContext | None = None) -> Front:
    host, port = split_address(address)
    if runner.server is None:
        raise RuntimeError("a runner is set up before its listener is opened")
    try:
        front = Front(host, port, hub.fronts.limits[name], hub.clock, Inside(runner.server, context))
    except OSError as error:
        raise CANNOT_LISTEN(f"{address} cannot be listened on", address=address) from error
    hub.fronts.add(name, lambda: front)
    front.start()
    return front


async def _first_admin(hub: Hub) -> None:
    """Keep the bootstrap admin's token; make one, readable by the owner alone, when its file is missing."""
    settings = hub.settings
    if settings.api_ca_file is not None:
        write_atomic(settings.api_ca_file, hub.keys.hub_ca.pem, mode=0o644)
    path = settings.first_token_file
    if not path.exists():
        write_atomic(path, f"{new_token()}\n".encode())
        _log.info("admin-token-made", file=str(path))
    narrow(path)
    # The file is the whole truth: whoever replaces or removes it takes the old token out of force.
    await hub.store.api_tokens.put_only(hash_token(path.read_text().strip()), BOOTSTRAP, "admin")


def _passphrase(settings: HubSettings) -> bytes:
    """Passphrase of the hub's keys: from its file, or one made beside the keys; that protects little, and is logged."""
    path: Path | None = settings.passphrase_file
    if path is not None:
        return path.read_bytes().strip()
    path = settings.data_dir / "passphrase"
    if not path.exists():
        write_atomic(path, new_token().encode())
    narrow(path)
    _log.warning("passphrase-beside-keys", file=str(path), hint="Set passphrase_file to a file on another volume.")
    return path.read_bytes().strip()


def _names(settings: HubSettings) -> tuple[list[str], list[str]]:
    dns: list[str] = []
    ips: list[str] = []
    for name in settings.hostnames:
        try:
            ips.append(str(ipaddress.ip_address(name)))
        except ValueError:
            dns.append(name)
    return dns, ips


def descriptors() -> int:
    """How many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def room_for_connections() -> None:
    """Raise the soft limit of open files as far as allowed: of the usual 1,024 strangers could take every one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def main(settings: HubSettings) -> None:
    """Run a hub until SIGTERM or SIGINT."""
    room_for_connections()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_hub(settings) as hub:
        collect_rarely()
        await hub.run(stop)
