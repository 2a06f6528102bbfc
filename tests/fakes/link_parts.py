"""The parts of the link put together without the rest of an agent; ``agent.app`` composes the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.audit.installed import InstalledHub
from agent.audit.interfaces import RecorderPort
from agent.audit.statement import StatementKey
from agent.link.audit_push import AuditPush
from agent.link.channels import ChannelHolder
from agent.link.client import LinkClient, Streams
from agent.link.content import HubContent
from agent.link.enrolment import EnrolmentSettings, IdentityKeeper
from agent.link.identity import IdentityStore
from agent.link.interfaces import AgentDescription, LinkPorts, ReadPlatform
from agent.link.metrics_push import MetricsPush
from agent.metrics.snapshot import Family
from agent.settings import AgentSettings
from agent.spool.state import SqliteStateDb
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry


@dataclass(frozen=True, slots=True)
class LinkParts:
    """The link of one agent. ``client.run`` is the only root task among them."""

    client: LinkClient
    content: HubContent
    keeper: IdentityKeeper
    channels: ChannelHolder
    audit: AuditPush
    metrics: MetricsPush

    def cluster_name(self) -> str:
        """Name in the certificate (V3), empty before the first join; for the recorder."""
        identity = self.channels.identity
        return identity.name if identity is not None else ""

    def spiffe_id(self) -> str:
        """SPIFFE ID in the certificate, empty before the first join; for the recorder."""
        identity = self.channels.identity
        return identity.spiffe_id if identity is not None else ""


def build_link(
    settings: AgentSettings,
    description: AgentDescription,
    *,
    boot_id: str,
    db: SqliteStateDb,
    statement: StatementKey,
    recorder: RecorderPort,
    ports: LinkPorts,
    collect: Callable[[], Sequence[Family]],
    timer: Timer,
    health: HealthRegistry,
    channels: ChannelHolder | None = None,
    platform: ReadPlatform | None = None,
) -> LinkParts:
    """Make the link.

    Args:
        settings: of the agent.
        description: fixed facts for Hello.
        boot_id: new at every start of the process.
        db: durable state.
        statement: the statement key.
        recorder: for findings about the hub's log.
        ports: the rest of the agent.
        collect: takes a snapshot of the agent's metrics.
        timer: the agent's clock.
        health: gets ``certificate``, ``hub-link``, ``desired-items`` and ``audit-push``.
        channels: only to share it with a recorder made before; a new one by default.
        platform: says in which cluster the agent runs.

    Raises:
        OSError: the hub's CA file cannot be read.
    """
    intervals = settings.intervals

    def backoff() -> FullJitter:
        return FullJitter(intervals.backoff_base, intervals.backoff_cap)

    channels = channels if channels is not None else ChannelHolder()
    enrolment = EnrolmentSettings(
        realm=settings.realm,
        uid=db.uid,
        statement_spki_der=statement.spki_der,
        enrolment_address=settings.enrolment_address,
        hub_ca_pem=settings.hub_ca_file.read_bytes(),
        token_file=settings.join_token_file,
    )
    keeper = IdentityKeeper(enrolment, IdentityStore(settings.state_dir), channels, timer, health, backoff=backoff())
    audit = AuditPush(
        channels,
        db.audit,
        recorder,
        statement,
        InstalledHub(db.meta, keeper.authorities),
        realm=settings.realm,
        uid=db.uid,
        timer=timer,
        health=health,
        interval=intervals.audit,
        backoff=backoff(),
    )
    metrics = MetricsPush(channels, collect, timer, interval=intervals.metrics)
    content = HubContent(channels)
    client = LinkClient(
        description,
        boot_id=boot_id,
        statement_keyid=statement.keyid,
        keeper=keeper,
        channels=channels,
        db=db,
        ports=ports,
        recorder=recorder,
        timer=timer,
        health=health,
        streams=Streams((audit.run, metrics.run), audit.on_log_origin),
        heartbeat=intervals.heartbeat,
        status_interval=intervals.status,
        backoff=backoff(),
        platform=platform,
        content=content,
    )
    return LinkParts(client, content, keeper, channels, audit, metrics)
