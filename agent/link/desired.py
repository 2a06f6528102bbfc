"""Desired items from the hub's frames into durable state and on to the engine, as ``agent.link.listed`` says.

Events are taken one at a time, and each to its end also where the session that brought it ends meanwhile: what the
machine knows and what is durable do not part.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.link import listed as machine
from agent.link.interfaces import LinkPorts, ReceiptFacts
from agent.spool.interfaces import StateDb
from agent.spool.state import LINK_REVISION
from cellward.documents import canonical
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import check_digest, check_key, item_from_wire, row_from_wire
from cellward.wire.text import sendable
from cellward.wire.v1 import link_pb2

_log = structlog.get_logger()

#: Condition of the desired items.
CONDITION = "desired-items"
#: Keys in StateDb.meta.
REVISION = LINK_REVISION
HUB_EPOCH = "link.hub-epoch"
#: What one hub may have this agent keep.
BOUNDS = machine.Bounds()
#: Seconds after which a full disk is tried again.
RETRY_AFTER_FULL = 10.0

_numbers = itertools.count(1)


class Listing:
    """One session, as it is known here.

    Attributes:
        number: tells it from others.
        revision: from where on it was asked; 0 asks for everything.
    """

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.revision = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a session resumes, for Hello."""

    revision: int
    hub_epoch: str
    items_digest: str


class DesiredItems:
    """See the module's text.

    Args:
        db: durable state.
        ports: the rest of the agent.
        recorder: for the finding about an item nobody can use.
        health: gets the condition ``desired-items``.
        timer: the agent's clock.
        reconnect: ends the session, so that the next one resumes from the durable revision.
        bounds: what one hub may have this agent keep.
    """

    def __init__(
        self,
        db: StateDb,
        ports: LinkPorts,
        recorder: RecorderPort,
        health: HealthRegistry,
        timer: Timer,
        reconnect: Callable[[], None],
        bounds: machine.Bounds | None = None,
    ) -> None:
        self._db = db
        self._ports = ports
        self._recorder = recorder
        self._health = health
        self._timer = timer
        self._reconnect = reconnect
        self._bounds = bounds if bounds is not None else BOUNDS
        self._state = machine.State()
        self._turn = asyncio.Lock()
        self._working: set[asyncio.Task[None]] = set()
        self._coming_back: asyncio.Task[None] | None = None

    async def position(self, listing: Listing) -> Position:
        """Return where a session that begins now resumes; raises ``spool/*`` when the state cannot be read."""
        async with self._turn:
            await self._work(await self._durable())
            state = self._state
        listing.revision = state.resumes_at
        return Position(listing.revision, state.hub_epoch, state.digest())

    async def welcomed(self, listing: Listing, hub_epoch: str) -> None:
        """Listen to this session from now on: whatever an older one still brings comes again on it."""
        await self._take(machine.Welcomed(listing.number, listing.revision, hub_epoch))

    async def take(self, listing: Listing, message: link_pb2.DesiredItem) -> None:
        """Keep an item and hand it on; never raises for what a hub may say."""
        try:
            event: machine.Event = machine.Named(listing.number, item_from_wire(message))
        except CellwardError as error:
            row = row_from_wire(message)
            event = machine.NamedUnusable(
                listing.number, row, error.code, error.message, message.ByteSize(), error.hint
            )
        await self._take(event)

    async def reached(self, listing: Listing, mark: link_pb2.RevisionMark) -> bool:
        """Hear that everything up to a revision was named; return whether that is durable now."""
        kept = await self._take(machine.Marked(listing.number, mark.revision, mark.items_digest), afresh=True)
        return any(isinstance(event, machine.RevisionKept) and event.hub_epoch is not None for event in kept)

    async def ask_for_all(self) -> None:
        """Resume from nothing at the next session, which is asked for at once."""
        await self._take(machine.AllWanted())

    async def close(self) -> None:
        """Wait for what is in flight, and for nothing else."""
        if self._coming_back is not None:
            self._coming_back.cancel()
            await asyncio.gather(self._coming_back, return_exceptions=True)
        await asyncio.gather(*self._working, return_exceptions=True)

    # -- one event at a time -----------------------------------------------------------------------------------------

    async def _take(self, event: machine.Event, *, afresh: bool = False) -> list[machine.Event]:
        """Take an event and what follows from it; return all of them."""
        seen: list[machine.Event] = []
        task = asyncio.ensure_future(self._in_turn(event, seen, afresh=afresh))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        await asyncio.shield(task)
        return seen

    async def _in_turn(self, event: machine.Event, seen: list[machine.Event], *, afresh: bool) -> None:
        async with self._turn:
            if afresh:
                await self._work(await self._durable(), seen)
            await self._work(event, seen)

    async def _work(self, event: machine.Event, seen: list[machine.Event] | None = None) -> None:
        self._state, effects = machine.step(self._state, event, self._bounds)
        if seen is not None:
            seen.append(event)
        for effect in effects:
            outcome = await self._carry_out(effect)
            if outcome is not None:
                await self._work(outcome, seen)

    async def _durable(self) -> machine.Durable:
        revision = int(await self._db.meta.get(REVISION) or 0)
        return machine.Durable(revision, await self._db.meta.get(HUB_EPOCH) or "", await self._db.items.list())

    # -- effects -----------------------------------------------------------------------------------------------------

    @functools.singledispatchmethod
    async def _carry_out(self, effect: machine.Effect) -> machine.Event | None:
        raise NotImplementedError(type(effect).__name__)

    @_carry_out.register
    async def _(self, effect: machine.Keep) -> machine.Event:
        try:
            await self._db.items.put(effect.item)
        except CellwardError as error:
            return machine.NotKept(error.code, error.message, effect.item)
        return machine.Kept(effect.item)

    @_carry_out.register
    async def _(self, effect: machine.HandOn) -> machine.Event:
        try:
            await self._ports.on_item(effect.item)
        except Exception as error:  # noqa: BLE001 - V16: one item that fails in any way must not cost the link
            _log.exception("desired-item-failed", cell="/".join(effect.item.key))
            reason = error.message if isinstance(error, CellwardError) else type(error).__name__
            return machine.NotTakenOver(effect.item.key, reason)
        return machine.TakenOver(effect.item.key)

    @_carry_out.register
    async def _(self, effect: machine.MakeRoom) -> machine.Event:
        """Give the places of cells that ended to others: their floors are kept, and whoever names them is heard."""
        gone: list[CellKey] = []
        try:
            for key in await self._ports.on_full():
                await self._db.items.remove(*key)
                gone.append(CellKey(*key))
        except CellwardError as error:
            _log.warning("no-room-made", code=error.code, reason=error.message)
        return machine.RoomMade(effect.item, tuple(gone))

    @_carry_out.register
    async def _(self, effect: machine.Withdraw) -> machine.Event | None:
        item = effect.item
        try:
            if not await self._ports.on_withdrawn(item):
                return None
            await self._db.items.remove(*item.key)
        except CellwardError as error:
            return machine.NotKept(error.code, error.message)
        _log.info("desired-item-withdrawn", project=item.project, cell=item.cell, environment=item.environment)
        return machine.Withdrawn(item.key)

    @_carry_out.register
    async def _(self, effect: machine.Record) -> None:
        subject = "Cell/" + sendable("--".join(effect.row.key), 200)
        entry = Entry("cell.verify", subject, "finding", code=effect.code, reason=effect.reason)
        await self._recorder.record_or_count(entry)

    @_carry_out.register
    async def _(self, effect: machine.Answer) -> machine.Event | None:
        try:
            receipt = _refusal(effect)
            if receipt is not None:
                await self._ports.on_refused(receipt)
        except CellwardError as error:
            return machine.NotAnswered(effect.row.key, error.code, error.message)
        return None

    @_carry_out.register
    async def _(self, effect: machine.KeepRevision) -> machine.Event:
        values = {REVISION: str(effect.revision)}
        if effect.hub_epoch is not None:
            values[HUB_EPOCH] = effect.hub_epoch
        try:
            await self._db.meta.set(values)
        except CellwardError as error:
            return machine.NotKept(error.code, error.message)
        return machine.RevisionKept(effect.revision, effect.hub_epoch)

    @_carry_out.register
    async def _(self, _: machine.Reconnect) -> None:
        self._reconnect()

    @_carry_out.register
    async def _(self, _: machine.ComeBack) -> None:
        self._coming_back = asyncio.ensure_future(self._come_back())

    @_carry_out.register
    async def _(self, effect: machine.Tell) -> None:
        if effect.code:
            _log.warning("desired-items", code=effect.code, reason=effect.message)
        self._health.set(CONDITION, ok=not effect.code, code=effect.code, message=effect.message)

    @_carry_out.register
    async def _(self, effect: machine.Then) -> machine.Event:
        return effect.event

    async def _come_back(self) -> None:
        await self._timer.sleep(RETRY_AFTER_FULL)
        await self._take(machine.SpaceMayBe())


def _refusal(effect: machine.Answer) -> ReceiptFacts | None:
    """Return the receipt that says so, if one can name the item: the hub takes none about names that are none."""
    row = effect.row
    try:
        check_key(row.key)
        check_digest(row.deployment_digest)
    except CellwardError:
        return None
    if row.revision > canonical.MAX_INT:
        return None
    refusal = RefusalText(effect.code, effect.reason, object=row.deployment_digest, next=effect.hint)
    return ReceiptFacts(row.revision, *row.key, row.deployment_digest, accepted=False, refusals=(refusal,))
