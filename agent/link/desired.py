"""Desired items from the hub's frames into durable state and on to the engine; which revision is reached.

Invariants: an item is durable before anybody acts on it, except that narrowing is acted on even when the disk is full
(V13); no item ever means no change (V14), so a hub that forgot its items deletes nothing here; an item nobody can use
costs that item and not the link (V16); while one session hands over to the next only the newer one is listened to, so
that nothing old overwrites what is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.link.errors import ITEM_UNUSABLE, ITEMS_DIFFER
from agent.link.interfaces import LinkPorts, ReceiptFacts
from agent.spool.interfaces import StateDb
from agent.spool.state import LINK_REVISION
from cellward.documents import canonical
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem, check_digest, check_key, item_from_wire, items_digest, row_from_wire
from cellward.wire.text import sendable
from cellward.wire.v1 import link_pb2

_log = structlog.get_logger()

#: Condition of the desired items.
CONDITION = "desired-items"
#: Keys in StateDb.meta.
REVISION = LINK_REVISION
HUB_EPOCH = "link.hub-epoch"
#: Cells one hub may name to an agent; what it names beyond is left out, or it could fill memory and disk for good.
MAX_ITEMS = 4096
#: Unusable items remembered, and bytes of one; beyond that hub and agent simply differ.
MAX_UNUSABLE = 256
MAX_UNUSABLE_BYTES = 8 * 1024
#: Seconds after which a full disk is tried again.
RETRY_AFTER_FULL = 10.0


@dataclass(eq=False, slots=True)
class Listing:
    """What one session asked for and was told; each session has its own.

    Attributes:
        revision: from where on it was asked; 0 asks for everything.
        hub_epoch: of the hub that welcomed it.
        listed: keys it named so far.
    """

    revision: int = 0
    hub_epoch: str = ""
    listed: set[CellKey] = field(default_factory=set)


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
    """

    def __init__(
        self,
        db: StateDb,
        ports: LinkPorts,
        recorder: RecorderPort,
        health: HealthRegistry,
        timer: Timer,
        reconnect: Callable[[], None],
    ) -> None:
        self._db = db
        self._ports = ports
        self._recorder = recorder
        self._health = health
        self._timer = timer
        self._reconnect = reconnect
        self._turn = asyncio.Lock()
        self._newest: Listing | None = None
        self._full_resync = False
        #: Something the hub named could not be kept; until then the revision does not move.
        self._missed = False
        self._coming_back: asyncio.Task[None] | None = None
        #: Keys of the items held, None before they were read.
        self._held: set[CellKey] | None = None
        #: Whether something was left out because there was no room for it.
        self._left_out = False
        #: Revision of each item as this process took it, within one epoch of the hub.
        self._taken: dict[CellKey, int] = {}
        #: Items the hub names and nobody can use, as named: part of what both sides compare, or they would differ.
        self._unusable: dict[CellKey, DesiredItem] = {}
        #: Items that are held and that the engine failed to take.
        self._failing: set[CellKey] = set()
        self._why_unusable = ""
        #: Keys of unusable items that are on record, once in the life of this process.
        self._recorded: set[CellKey] = set()
        #: Everything is to be named anew; until a session was asked for that, no revision counts.
        self._all_due = False

    async def position(self, listing: Listing) -> Position:
        """Return where a session that begins now resumes."""
        listing.revision = 0 if self._all_due else int(await self._db.meta.get(REVISION) or 0)
        return Position(listing.revision, await self._db.meta.get(HUB_EPOCH) or "", await self._digest())

    async def welcomed(self, listing: Listing, hub_epoch: str) -> None:
        """Listen to this session from now on: whatever an older one still brings comes again on it."""
        async with self._turn:
            if self._newest is None or self._newest.hub_epoch != hub_epoch:
                self._taken.clear()
            listing.hub_epoch = hub_epoch
            self._newest = listing
            if not listing.revision:
                self._all_due = False

    async def take(self, listing: Listing, message: link_pb2.DesiredItem) -> None:
        """Keep an item and hand it on; never raises for what a hub may say."""
        async with self._turn:
            if listing is not self._newest:
                return
            try:
                item = item_from_wire(message)
            except CellwardError as error:
                await self._refuse(listing, message, error)
                return
            listing.listed.add(item.key)
            self._unusable.pop(item.key, None)
            if listing.revision and item.revision < self._taken.get(item.key, 0):
                # A full listing is believed whatever its numbers: it is what puts right what differs.
                _log.warning("desired-item-older", cell="/".join(item.key), revision=item.revision)
            elif await self._has_room(item) and await self._keep(item):
                self._taken[item.key] = item.revision

    async def reached(self, listing: Listing, mark: link_pb2.RevisionMark) -> bool:
        """Hear that everything up to a revision was named; return whether that is durable now."""
        async with self._turn:
            if listing is not self._newest or self._missed or self._all_due:
                return False
            try:
                await self._settle(listing, mark)
            except CellwardError as error:
                self._not_kept(error)
                return False
            return True

    async def ask_for_all(self) -> None:
        """Resume from nothing at the next session, which is asked for at once."""
        self._all_due = True
        self._reconnect()
        await self._db.meta.set({REVISION: "0"})

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._coming_back is not None:
            self._coming_back.cancel()
            await asyncio.gather(self._coming_back, return_exceptions=True)

    # -- items -------------------------------------------------------------------------------------------------------

    async def _keep(self, item: DesiredItem) -> bool:
        try:
            await self._db.items.put(item)
        except CellwardError as error:
            # The disk is full: nothing new is begun, but to stop or isolate something needs no disk (V13).
            self._not_kept(error)
            if item.hub_state != "run":
                await self._hand_on(item)
            return False
        await self._hand_on(item)
        return True

    async def _hand_on(self, item: DesiredItem) -> None:
        try:
            await self._ports.on_item(item)
        except Exception as error:  # noqa: BLE001 - V16: one item that fails in any way must not cost the link
            _log.exception("desired-item-failed", cell="/".join(item.key))
            self._failing.add(item.key)
            self._say_unusable(item.key, error.message if isinstance(error, CellwardError) else type(error).__name__)
        else:
            self._failing.discard(item.key)

    async def _has_room(self, item: DesiredItem) -> bool:
        """Whether the item may be kept; one of a cell known before always may."""
        if self._held is None:
            self._held = {held.key for held in await self._db.items.list()}
        if item.key not in self._held and len(self._held) >= MAX_ITEMS and not await self._made_room(self._held):
            message = f"the hub names more than {MAX_ITEMS} cells; the rest is left out"
            self._health.set(CONDITION, ok=False, code=ITEMS_DIFFER.code, message=message)
            self._left_out = True
            return False
        self._held.add(item.key)
        return True

    async def _made_room(self, held: set[CellKey]) -> bool:
        """Give the places of cells that ended to others: their floors are kept, and whoever names them is heard."""
        try:
            for key in await self._ports.on_full():
                await self._db.items.remove(*key)
                held.discard(key)
                self._taken.pop(key, None)
        except CellwardError as error:
            _log.warning("no-room-made", code=error.code, reason=error.message)
        return len(held) < MAX_ITEMS

    async def _refuse(self, listing: Listing, message: link_pb2.DesiredItem, error: CellwardError) -> None:
        """Leave an item out that nobody can use, whoever signed it; say so once, and to its author if there is a way.

        What is held of that cell stays: no usable item means no change (V14).
        """
        row = row_from_wire(message)
        listing.listed.add(row.key)
        known = self._unusable.get(row.key)
        self._say_unusable(row.key, error.message)
        room = row.key in self._unusable or len(self._unusable) < MAX_UNUSABLE
        if known == row or not room or message.ByteSize() > MAX_UNUSABLE_BYTES:
            return
        self._unusable[row.key] = row
        if row.key not in self._recorded and len(self._recorded) < MAX_UNUSABLE:
            self._recorded.add(row.key)
            subject = "Cell/" + sendable("--".join(row.key), 200)
            entry = Entry("cell.verify", subject, "finding", code=error.code, reason=error.message)
            await self._recorder.record_or_count(entry)
        try:
            await self._answer(row, error)
        except CellwardError as full:
            del self._unusable[row.key]
            self._not_kept(full)

    async def _answer(self, row: DesiredItem, error: CellwardError) -> None:
        """Send a refusing receipt, if a receipt can name the item: the hub takes none about names that are none."""
        try:
            check_key(row.key)
            check_digest(row.deployment_digest)
        except CellwardError:
            return
        if row.revision <= canonical.MAX_INT:
            refusal = RefusalText(error.code, error.message, object=row.deployment_digest, next=error.hint)
            receipt = ReceiptFacts(row.revision, *row.key, row.deployment_digest, accepted=False, refusals=(refusal,))
            await self._ports.on_refused(receipt)

    def _say_unusable(self, key: CellKey, reason: str) -> None:
        self._why_unusable = f"{sendable('/'.join(key), 200)}: {reason}"
        _log.warning("desired-item-unusable", reason=self._why_unusable)
        self._health.set(CONDITION, ok=False, code=ITEM_UNUSABLE.code, message=self._why_unusable)

    def _not_kept(self, error: CellwardError) -> None:
        """Stay connected, so that somebody hears of it, and come back for the same revision when there may be space."""
        self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
        if not self._missed:
            self._missed = True
            self._coming_back = asyncio.ensure_future(self._come_back())

    async def _come_back(self) -> None:
        await self._timer.sleep(RETRY_AFTER_FULL)
        self._missed = False
        self._reconnect()

    # -- revisions ---------------------------------------------------------------------------------------------------

    async def _digest(self) -> str:
        held = {item.key: item for item in await self._db.items.list()}
        return items_digest((held | self._unusable).values())

    async def _settle(self, listing: Listing, mark: link_pb2.RevisionMark) -> None:
        ours = await self._digest()
        if mark.items_digest and ours != mark.items_digest and not self._full_resync:
            # What we hold and what the hub holds differ although revisions went on: ask for everything once.
            self._full_resync = True
            await self.ask_for_all()
            return
        if mark.items_digest and ours != mark.items_digest and not listing.revision:
            ours = await self._forget_withdrawn(listing)
            if self._left_out and self._held is None:
                # What another hub had named took the room, and has gone: what was left out is named once more.
                self._left_out = False
                await self.ask_for_all()
                return
        if mark.items_digest and ours != mark.items_digest:
            message = "after a full resync the hub still names other items than this agent holds"
            self._health.set(CONDITION, ok=False, code=ITEMS_DIFFER.code, message=message)
        else:
            self._full_resync = False
            self._agree()
        await self._db.meta.set({REVISION: str(mark.revision), HUB_EPOCH: listing.hub_epoch})

    def _agree(self) -> None:
        """Both sides know of the same items; that leaves those nobody can use."""
        if self._unusable or self._failing:
            message = f"{len(self._unusable) + len(self._failing)} items cannot be used; {self._why_unusable}"
            self._health.set(CONDITION, ok=False, code=ITEM_UNUSABLE.code, message=message)
        else:
            self._health.set(CONDITION, ok=True)

    async def _forget_withdrawn(self, listing: Listing) -> str:
        """After a full listing drop items it did not name and nothing came of; return the digest of what is left."""
        self._unusable = {key: row for key, row in self._unusable.items() if key in listing.listed}
        for item in await self._db.items.list():
            if item.key not in listing.listed and await self._ports.on_withdrawn(item):
                _log.info("desired-item-withdrawn", project=item.project, cell=item.cell, environment=item.environment)
                await self._db.items.remove(*item.key)
                self._failing.discard(item.key)
                self._held = None
        return await self._digest()
