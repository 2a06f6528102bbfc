"""The link of one agent: identity, Sync sessions, audit and metrics streams, under one ``run`` that never raises.

Invariant: without a hub the rest of the agent notices nothing but a condition (V1). What becomes of desired items is in
``agent.link.desired``, how one session follows the other in ``agent.link.succession``.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio
import structlog

from agent.audit.interfaces import RecorderPort, RefusalText
from agent.link.channels import ChannelHolder
from agent.link.commands import CommandGate
from agent.link.content import HubContent
from agent.link.desired import DesiredItems, Listing
from agent.link.enrolment import IdentityKeeper
from agent.link.errors import COMMAND_FAILED, HUB_UNAVAILABLE
from agent.link.interfaces import (
    AgentDescription,
    CellReport,
    CommandKind,
    CommandOutcome,
    CommandRequest,
    LinkPorts,
    ReadPlatform,
    ReceiptFacts,
)
from agent.link.messages import condition_to_wire, position_to_wire, refusal_to_wire, report_to_wire
from agent.link.outgoing import Outgoing
from agent.link.session import Session, SessionHooks
from agent.link.succession import CONDITION, Succession
from agent.spool.interfaces import StateDb
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import Condition, HealthRegistry
from cellward.runtime.tasks import is_being_cancelled
from cellward.wire.bounds import MAX_CHECKPOINT, MAX_HELLO_TEXT
from cellward.wire.codec import facts_to_wire
from cellward.wire.v1 import link_pb2
from cellward.wire.version import CARRIED_DOCUMENTS, CARRIED_POLICY, FEATURES, PROTOCOL_MAX, PROTOCOL_MIN

_log = structlog.get_logger()

#: Seconds a part has to run for its next failure to be the first one again.
LONG_RUN = 60.0


@dataclass(slots=True)
class Streams:
    """Long-lived parts run beside the session, each handling its own failures (audit push, metrics push)."""

    runs: Sequence[Callable[[], Awaitable[None]]] = ()
    on_log_origin: Callable[[str, str], None] = field(default=lambda _vkey, _hub_epoch: None)


class LinkClient:
    """See the module's text. What the rest of the agent has to say is taken whether connected or not.

    Args:
        description: fixed facts for Hello.
        boot_id: new at every start of the process.
        statement_keyid: key id of the statement key.
        keeper: gets and renews the identity.
        channels: shared with the keeper and ``HubContent``.
        db: durable state.
        ports: the rest of the agent.
        recorder: for findings about what the hub names.
        timer: the agent's clock.
        health: gets the condition ``hub-link``.
        streams: further streams.
        heartbeat: seconds between heartbeats.
        status_interval: seconds between statuses.
        backoff: delays between failed sessions.
        rng: chance for drains.
        platform: says in which cluster the agent runs.
        content: takes what comes with an item or a notice, before it is acted on; without it the hub sends none.
    """

    def __init__(  # noqa: PLR0913 - the composition root names every part
        self,
        description: AgentDescription,
        *,
        boot_id: str,
        statement_keyid: str,
        keeper: IdentityKeeper,
        channels: ChannelHolder,
        db: StateDb,
        ports: LinkPorts,
        recorder: RecorderPort,
        timer: Timer,
        health: HealthRegistry,
        streams: Streams,
        heartbeat: float = 60.0,
        status_interval: float = 15.0,
        backoff: FullJitter | None = None,
        rng: random.Random | None = None,
        platform: ReadPlatform | None = None,
        content: HubContent | None = None,
    ) -> None:
        self._content = content
        self._platform = platform
        self._description = description
        self._boot_id = boot_id
        self._keyid = statement_keyid
        self._keeper = keeper
        self._channels = channels
        self._db = db
        self._ports = ports
        self._timer = timer
        self._health = health
        self._streams = streams
        self._heartbeat = heartbeat
        self._status_interval = status_interval
        self._backoff = backoff if backoff is not None else FullJitter()
        self._outgoing = Outgoing(db.outbox)
        self._gate = CommandGate(boot_id)
        self._background: set[asyncio.Task[None]] = set()
        self._noticed = 0
        self._notice = asyncio.Event()
        rng = rng if rng is not None else random.SystemRandom()
        self._succession = Succession(channels, self._session, health, timer, self._backoff, rng)
        self._desired = DesiredItems(db, ports, recorder, health, timer, self._succession.reconnect)
        #: Sessions welcomed since the start, for metrics.
        self.sessions_welcomed = 0

    @property
    def sessions_failed(self) -> int:
        """Sessions that failed since the start, for metrics."""
        return self._succession.failed

    async def run(self) -> None:
        """Run until cancelled. Every failure is a condition and a retry; only our own mistakes would surface."""
        self._health.on_change.append(self._on_condition)
        self._health.set(CONDITION, ok=False, code=HUB_UNAVAILABLE.code, message="not connected yet")
        parts = [self._keeper.keep, self._succession.run, self._notify, *self._streams.runs]
        try:
            if self._channels.identity is None:
                await self._keeper.obtain()
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(_endless(part, self._timer))
        finally:
            self._health.on_change.remove(self._on_condition)
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._desired.close()
            await self._channels.close()

    async def send_receipt(self, receipt: ReceiptFacts) -> None:
        """Make the receipt durable and send it until it is acknowledged; raises ``spool/full``."""
        await self._outgoing.add_receipt(receipt)

    async def send_report(self, report: CellReport) -> None:
        """Send the newest state of a cell."""
        self._outgoing.add_report(report)

    # -- sessions ------------------------------------------------------------------------------------------------

    def _session(self, channel: grpc.aio.Channel) -> Session:
        listing = Listing()
        hooks = SessionHooks(
            hello=functools.partial(self._hello, listing),
            welcome=functools.partial(self._on_welcome, listing),
            item=functools.partial(self._on_item, listing),
            mark=functools.partial(self._on_mark, listing),
            notice=self._on_files,
            command=self._on_command,
            agent_status=self._agent_status,
            all_reports=lambda: [report_to_wire(report) for report in self._ports.reports()],
        )
        return Session(
            channel,
            hooks,
            self._outgoing,
            self._timer,
            heartbeat=self._heartbeat,
            status_interval=self._status_interval,
        )

    # -- what the hub says ---------------------------------------------------------------------------------------

    async def _on_welcome(self, listing: Listing, welcome: link_pb2.Welcome) -> None:
        await self._desired.welcomed(listing, welcome.hub_epoch)
        self._streams.on_log_origin(welcome.log_origin, welcome.hub_epoch)
        self.sessions_welcomed += 1
        self._health.set(CONDITION, ok=True)
        if welcome.timestamp_version not in {0, self._ports.policy().timestamp}:
            # What is held already needs no look: a fleet that comes back would fetch it all at once.
            self._on_notice(welcome.timestamp_version)

    async def _on_item(self, listing: Listing, item: link_pb2.DesiredItem) -> None:
        if self._content is not None:
            self._content.carry(item.documents)
        await self._desired.take(listing, item)

    async def _on_mark(self, listing: Listing, mark: link_pb2.RevisionMark) -> None:
        if await self._desired.reached(listing, mark):
            # Only now has the link done something useful; a hub that welcomes and dies must not be hammered.
            self._backoff.reset()

    def _on_files(self, notice: link_pb2.PolicyNotice) -> None:
        if self._content is not None:
            self._content.carry_set(notice)
        self._on_notice(notice.timestamp_version)

    def _on_notice(self, version: int) -> None:
        self._noticed = max(self._noticed, version)
        self._notice.set()

    async def _notify(self) -> None:
        """Hand policy notices on, newest only, off the session's path."""
        while True:
            await self._notice.wait()
            self._notice.clear()
            version, self._noticed = self._noticed, 0
            await self._ports.on_policy_notice(version)

    # -- commands ------------------------------------------------------------------------------------------------

    def _on_command(self, message: link_pb2.Command) -> None:
        try:
            request = self._gate.admit(message, self._timer.now())
        except CellwardError as error:
            _log.warning("command-refused", id=message.id[:128], reason=error.message)
            self._finish_command(message.id[:128], _refused(error))
            return
        task = asyncio.ensure_future(self._carry_out(request))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _carry_out(self, request: CommandRequest) -> None:
        try:
            outcome = await self._outcome(request)
        except CellwardError as error:
            outcome = _refused(error)
        except Exception:  # noqa: BLE001 - a command that fails in any way gets an answer
            _log.exception("command-failed", id=request.id, kind=request.kind.value)
            outcome = CommandOutcome(ok=False, refusal=RefusalText(COMMAND_FAILED.code, "the command failed"))
        self._finish_command(request.id, outcome)
        if request.kind is CommandKind.RECONNECT:
            self._succession.reconnect()

    async def _outcome(self, request: CommandRequest) -> CommandOutcome:
        match request.kind:
            case CommandKind.RENEW:
                await self._keeper.renew()
                return CommandOutcome(ok=True)
            case CommandKind.RECONNECT:
                return CommandOutcome(ok=True)
            case CommandKind.RESYNC:
                outcome = await self._ports.on_command(request)
                await self._desired.ask_for_all()
                return outcome
            case _:
                return await self._ports.on_command(request)

    def _finish_command(self, command_id: str, outcome: CommandOutcome) -> None:
        refusal = refusal_to_wire(outcome.refusal) if outcome.refusal is not None else None
        self._outgoing.add_result(
            link_pb2.CommandResult(id=command_id, ok=outcome.ok, refusal=refusal, facts=dict(outcome.facts))
        )

    # -- what the agent says -------------------------------------------------------------------------------------

    async def _hello(self, listing: Listing) -> link_pb2.Hello:
        identity = self._channels.identity
        view = await self._db.audit.log_view()
        position = await self._desired.position(listing)
        platform = await self._platform() if self._platform is not None else None
        return link_pb2.Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            features=self._features(),
            schemas=self._description.schemas,
            realm=self._description.realm,
            boot_id=self._boot_id,
            epoch=self._db.epoch,
            generation=identity.generation if identity is not None else 0,
            revision=position.revision,
            # An agent that kept longer ones of an earlier version leaves them out, and is let in again.
            hub_epoch=position.hub_epoch if len(position.hub_epoch) <= MAX_HELLO_TEXT else "",
            items_digest=position.items_digest,
            floors_digest=await self._db.floors.digest(),
            facts=facts_to_wire(self._description.facts),
            policy=position_to_wire(self._ports.policy()),
            agent_version=self._description.agent_version,
            opa_version=self._description.opa_version,
            capabilities_digest=self._description.capabilities_digest,
            statement_keyid=self._keyid,
            last_checkpoint=view.note if len(view.note) <= MAX_CHECKPOINT else b"",
            platform_uid=platform.uid if platform is not None else "",
            platform_ca=platform.authority_sha256 if platform is not None else "",
        )

    def _features(self) -> Sequence[str]:
        without = set() if self._content is not None else {CARRIED_DOCUMENTS, CARRIED_POLICY}
        return [feature for feature in FEATURES if feature not in without]

    async def _agent_status(self) -> link_pb2.AgentStatus:
        identity = self._channels.identity
        return link_pb2.AgentStatus(
            conditions=[condition_to_wire(condition) for condition in self._health.get()],
            policy=position_to_wire(self._ports.policy()),
            spool_depth=await self._db.audit.depth(),
            authority=self._ports.authority(),
            certificate_expires_unix=identity.not_after_unix if identity is not None else 0,
        )

    def _on_condition(self, _: Condition) -> None:
        self._outgoing.request_status()


async def _endless(part: Callable[[], Awaitable[None]], timer: Timer) -> None:
    """Begin ``part`` again whatever it raises: a part of the link must not take the others, or the agent, with it."""
    backoff = FullJitter(base=1.0)
    while True:
        begun = timer.monotonic()
        try:
            await part()
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            # Not ours: a task group would not even notice that this part is gone.
            _log.exception("link-part-cancelled", part=_name(part))
        except Exception:  # noqa: BLE001 - see above; it is logged with its traceback
            _log.exception("link-part-failed", part=_name(part))
        if timer.monotonic() - begun > LONG_RUN:
            backoff.reset()
        await backoff.wait(timer)


def _name(part: Callable[[], Awaitable[None]]) -> str:
    return getattr(part, "__qualname__", str(part))


def _refused(error: CellwardError) -> CommandOutcome:
    return CommandOutcome(ok=False, refusal=RefusalText(error.code, error.message, next=error.hint))
