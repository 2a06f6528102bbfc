"""The link of one agent: identity, Sync sessions, audit and metrics streams, under one ``run`` that never raises.

Invariants: without a hub the rest of the agent notices nothing but a condition (V1); a desired item is durable before
anybody acts on it, except that narrowing is acted on even when the disk is full (V13); no item ever means no change
(V14), so a hub that forgot its items deletes nothing here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio
import structlog

from agent.audit.interfaces import RefusalText
from agent.link.channels import ChannelHolder, connected
from agent.link.commands import CommandGate
from agent.link.enrolment import IdentityKeeper
from agent.link.errors import HUB_UNAVAILABLE, ITEMS_DIFFER
from agent.link.interfaces import (
    AgentDescription,
    CellReport,
    CommandKind,
    CommandOutcome,
    CommandRequest,
    LinkPorts,
    ReceiptFacts,
)
from agent.link.messages import condition_to_wire, position_to_wire, refusal_to_wire, report_to_wire
from agent.link.outgoing import Outgoing
from agent.link.session import DrainRequest, Session, SessionHooks
from agent.spool.interfaces import StateDb
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import Condition, HealthRegistry
from cellward.runtime.tasks import is_being_cancelled
from cellward.wire.codec import DesiredItem, facts_to_wire, item_from_wire, items_digest
from cellward.wire.v1 import link_pb2
from cellward.wire.version import FEATURES, PROTOCOL_MAX, PROTOCOL_MIN

_log = structlog.get_logger()

#: Condition of the Sync session.
CONDITION = "hub-link"
#: Keys in StateDb.meta.
REVISION = "link.revision"
HUB_EPOCH = "link.hub-epoch"
#: Cells one hub may name to an agent; what it names beyond is left out, or it could fill memory and disk for good.
MAX_ITEMS = 4096
#: Seconds after which a full disk is tried again.
RETRY_AFTER_FULL = 10.0
#: Seconds a part has to run for its next failure to be the first one again.
LONG_RUN = 60.0
#: Seconds a successor session may take to be welcomed before the switch is given up for now.
HANDOVER_TIMEOUT = 20.0
#: Seconds without a connection after which that is a condition, and of one look after that; dialling never stops.
UNREACHABLE_AFTER = 2.0
UNREACHABLE_AGAIN = 60.0


@dataclass(slots=True)
class Streams:
    """Long-lived parts run beside the session, each handling its own failures (audit push, metrics push)."""

    runs: Sequence[Callable[[], Awaitable[None]]] = ()
    on_log_origin: Callable[[str], None] = field(default=lambda _: None)


class LinkClient:
    """See the module's text; satisfies ``LinkSender``.

    Args:
        description: fixed facts for Hello.
        boot_id: new at every start of the process.
        statement_keyid: key id of the statement key.
        keeper: gets and renews the identity.
        channels: shared with the keeper and ``HubContent``.
        db: durable state.
        ports: the rest of the agent.
        timer: the agent's clock.
        health: gets the condition ``hub-link``.
        streams: further streams.
        heartbeat: seconds between heartbeats.
        status_interval: seconds between statuses.
        backoff: delays between failed sessions.
        rng: chance for drains.
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
        timer: Timer,
        health: HealthRegistry,
        streams: Streams,
        heartbeat: float = 10.0,
        status_interval: float = 15.0,
        backoff: FullJitter | None = None,
        rng: random.Random | None = None,
    ) -> None:
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
        self._rng: random.Random = rng if rng is not None else random.SystemRandom()
        self._outgoing = Outgoing(db.outbox)
        self._gate = CommandGate(boot_id)
        self._background: set[asyncio.Task[None]] = set()
        self._reconnect = asyncio.Event()
        self._noticed = 0
        self._notice = asyncio.Event()
        self._full_resync = False
        self._asked_for_all = False
        #: Something the hub named could not be kept; until then the revision does not move.
        self._missed = False
        self._listed: set[tuple[str, str, str]] = set()
        #: Keys of the items held, None before they were read.
        self._held: set[tuple[str, str, str]] | None = None
        self._hub_epoch = ""
        #: Sessions welcomed and failed since the start, for metrics.
        self.sessions_welcomed = 0
        self.sessions_failed = 0

    async def run(self) -> None:
        """Run until cancelled. Every failure is a condition and a retry; only our own mistakes would surface."""
        self._health.on_change.append(self._on_condition)
        self._health.set(CONDITION, ok=False, code="link/hub-unavailable", message="not connected yet")
        parts = [self._keeper.keep, self._sync, self._notify, *self._streams.runs]
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
            await self._channels.close()

    async def send_receipt(self, receipt: ReceiptFacts) -> None:
        """Make the receipt durable and send it until it is acknowledged; raises ``spool/full``."""
        await self._outgoing.add_receipt(receipt)

    async def send_report(self, report: CellReport) -> None:
        """Send the newest state of a cell."""
        self._outgoing.add_report(report)

    # -- sessions ------------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Keep one session open for ever; move to the new channel after each renewal without a gap."""
        while True:
            channel = self._channels.channel
            if channel is None:
                await self._timer.sleep(self._backoff.next())
                continue
            if not await self._reachable(channel):
                continue
            drain = await self._one_link(channel)
            if drain is not None:
                await self._timer.sleep(self._rng.uniform(drain.after_min, drain.after_max))

    async def _reachable(self, channel: grpc.aio.Channel) -> bool:
        """Wait for a connection; the back-off is for hubs that answer and refuse, not for one that is away."""
        replaced = self._channels.changed
        for patience in (UNREACHABLE_AFTER, UNREACHABLE_AGAIN):
            if await connected(channel, replaced, patience):
                return True
            if replaced.is_set():
                break
            self._health.set(CONDITION, ok=False, code=HUB_UNAVAILABLE.code, message="the hub cannot be reached")
        return False

    async def _one_link(self, channel: grpc.aio.Channel) -> DrainRequest | None:
        """Run a session and its successors on newer channels until none is left; then wait as back-off says."""
        changed = self._channels.changed
        session, task = self._begin(channel)
        try:
            while True:
                if not await self._until_changed(task, changed):
                    break
                changed = self._channels.changed
                successor = await self._hand_over(session)
                if successor is not None:
                    await asyncio.wait({task})
                    session, task = successor
            return None if task.cancelled() else task.result()
        except CellwardError as error:
            self.sessions_failed += 1
            self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
            _log.warning("hub-link-lost", code=error.code, reason=error.message)
            await self._timer.sleep(self._backoff.next())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return None

    async def _until_changed(self, task: asyncio.Task[DrainRequest | None], changed: asyncio.Event) -> bool:
        """Wait for the end of the session (False) or a new channel (True); a reconnect command ends the session."""
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._reconnect.wait())]
        try:
            await asyncio.wait({task, *waits}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._reconnect.is_set():
            self._reconnect.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        return not task.done()

    async def _hand_over(self, session: Session) -> tuple[Session, asyncio.Task[DrainRequest | None]] | None:
        """Open a session on the new channel; only when it is welcomed ask the old one to finish (V5)."""
        channel = self._channels.channel
        if channel is None:
            return None
        session.quiet(on=True)
        successor, task = self._begin(channel)
        welcomed = asyncio.ensure_future(successor.welcomed.wait())
        await asyncio.wait({task, welcomed}, timeout=HANDOVER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        welcomed.cancel()
        if not successor.welcomed.is_set():
            # The old session goes on; when its channel is closed, the ordinary way leads to the new one.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            _log.warning("hub-link-handover-failed")
            session.quiet(on=False)
            return None
        session.finish()
        return successor, task

    def _begin(self, channel: grpc.aio.Channel) -> tuple[Session, asyncio.Task[DrainRequest | None]]:
        hooks = SessionHooks(
            hello=self._hello,
            welcome=self._on_welcome,
            item=self._on_item,
            mark=self._on_mark,
            notice=self._on_notice,
            command=self._on_command,
            agent_status=self._agent_status,
            all_reports=lambda: [report_to_wire(report) for report in self._ports.reports()],
        )
        session = Session(
            channel,
            hooks,
            self._outgoing,
            self._timer,
            heartbeat=self._heartbeat,
            status_interval=self._status_interval,
        )
        return session, asyncio.ensure_future(session.run())

    # -- what the hub says ---------------------------------------------------------------------------------------

    async def _on_welcome(self, welcome: link_pb2.Welcome) -> None:
        self._hub_epoch = welcome.hub_epoch
        self._listed.clear()
        self._streams.on_log_origin(welcome.log_origin)
        self.sessions_welcomed += 1
        self._health.set(CONDITION, ok=True)
        if welcome.timestamp_version:
            self._on_notice(welcome.timestamp_version)

    async def _on_item(self, message: link_pb2.DesiredItem) -> None:
        item = item_from_wire(message)
        self._listed.add(item.key)
        if not await self._has_room(item):
            return
        try:
            await self._db.items.put(item)
        except CellwardError as error:
            # The disk is full: nothing new is begun, but to stop or isolate something needs no disk (V13).
            self._not_kept(error)
            if item.hub_state != "run":
                await self._ports.on_item(item)
            return
        await self._ports.on_item(item)

    def _not_kept(self, error: CellwardError) -> None:
        """Stay connected, so that somebody hears of it, and come back for the same revision when there may be space."""
        self._health.set("desired-items", ok=False, code=error.code, message=error.message)
        if self._missed:
            return
        self._missed = True
        task = asyncio.ensure_future(self._come_back())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _come_back(self) -> None:
        await self._timer.sleep(RETRY_AFTER_FULL)
        self._missed = False
        self._reconnect.set()

    async def _has_room(self, item: DesiredItem) -> bool:
        """Whether the item may be kept; one of a cell known before always may."""
        if self._held is None:
            self._held = {held.key for held in await self._db.items.list()}
        if item.key not in self._held and len(self._held) >= MAX_ITEMS:
            message = f"the hub names more than {MAX_ITEMS} cells; the rest is left out"
            self._health.set("desired-items", ok=False, code=ITEMS_DIFFER.code, message=message)
            return False
        self._held.add(item.key)
        return True

    async def _on_mark(self, mark: link_pb2.RevisionMark) -> None:
        if self._missed:
            return
        try:
            await self._settle_revision(mark)
        except CellwardError as error:
            self._not_kept(error)
            return
        # Only now has the link done something useful; a hub that welcomes and dies must not be hammered.
        self._backoff.reset()

    async def _settle_revision(self, mark: link_pb2.RevisionMark) -> None:
        ours = items_digest(await self._db.items.list())
        if mark.items_digest and ours != mark.items_digest and not self._full_resync:
            # What we hold and what the hub holds differ although revisions went on: ask for everything once.
            self._full_resync = True
            await self._db.meta.set({REVISION: "0"})
            self._reconnect.set()
            return
        if mark.items_digest and ours != mark.items_digest and self._asked_for_all:
            ours = await self._forget_withdrawn()
        if mark.items_digest and ours != mark.items_digest:
            message = "after a full resync the hub still names other items than this agent holds"
            self._health.set("desired-items", ok=False, code=ITEMS_DIFFER.code, message=message)
        else:
            self._full_resync = False
            self._health.set("desired-items", ok=True)
        await self._db.meta.set({REVISION: str(mark.revision), HUB_EPOCH: self._hub_epoch})

    async def _forget_withdrawn(self) -> str:
        """After a full listing drop items it did not name and nothing came of; return the digest of what is left."""
        for item in await self._db.items.list():
            if item.key not in self._listed and await self._ports.on_withdrawn(item):
                _log.info("desired-item-withdrawn", project=item.project, cell=item.cell, environment=item.environment)
                await self._db.items.remove(*item.key)
                self._held = None
        return items_digest(await self._db.items.list())

    def _on_notice(self, version: int) -> None:
        self._noticed = max(self._noticed, version)
        self._notice.set()

    async def _notify(self) -> None:
        """Hand policy notices on, newest only, off the session's path."""
        while True:
            await self._notice.wait()
            self._notice.clear()
            await self._ports.on_policy_notice(self._noticed)

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
            outcome = CommandOutcome(ok=False, refusal=RefusalText("link/command-failed", "the command failed"))
        self._finish_command(request.id, outcome)
        if request.kind is CommandKind.RECONNECT:
            self._reconnect.set()

    async def _outcome(self, request: CommandRequest) -> CommandOutcome:
        match request.kind:
            case CommandKind.RENEW:
                await self._keeper.renew()
                return CommandOutcome(ok=True)
            case CommandKind.RECONNECT:
                return CommandOutcome(ok=True)
            case CommandKind.RESYNC:
                outcome = await self._ports.on_command(request)
                await self._db.meta.set({REVISION: "0"})
                self._reconnect.set()
                return outcome
            case _:
                return await self._ports.on_command(request)

    def _finish_command(self, command_id: str, outcome: CommandOutcome) -> None:
        refusal = refusal_to_wire(outcome.refusal) if outcome.refusal is not None else None
        self._outgoing.add_result(
            link_pb2.CommandResult(id=command_id, ok=outcome.ok, refusal=refusal, facts=dict(outcome.facts))
        )

    # -- what the agent says -------------------------------------------------------------------------------------

    async def _hello(self) -> link_pb2.Hello:
        identity = self._channels.identity
        view = await self._db.audit.log_view()
        revision = int(await self._db.meta.get(REVISION) or 0)
        self._asked_for_all = revision == 0
        return link_pb2.Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            features=[*FEATURES, *self._description.features],
            schemas=self._description.schemas,
            realm=self._description.realm,
            boot_id=self._boot_id,
            epoch=self._db.epoch,
            generation=identity.generation if identity is not None else 0,
            revision=revision,
            hub_epoch=await self._db.meta.get(HUB_EPOCH) or "",
            items_digest=items_digest(await self._db.items.list()),
            floors_digest=await self._db.floors.digest(),
            facts=facts_to_wire(self._description.facts),
            policy=position_to_wire(self._ports.policy()),
            agent_version=self._description.agent_version,
            opa_version=self._description.opa_version,
            capabilities_digest=self._description.capabilities_digest,
            statement_keyid=self._keyid,
            last_checkpoint=view.note,
        )

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
        await timer.sleep(backoff.next())


def _name(part: Callable[[], Awaitable[None]]) -> str:
    return getattr(part, "__qualname__", str(part))


def _refused(error: CellwardError) -> CommandOutcome:
    return CommandOutcome(ok=False, refusal=RefusalText(error.code, error.message, next=error.hint))
