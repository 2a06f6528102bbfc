"""What the hub lists to this agent, as a pure machine: ``step(state, event)`` gives the next state and the effects.

No clock, no store, no hub: what is durable comes with ``Durable``, what is done is an effect, and what became of it is
the next event, which carries what it is about. ``agent.link.desired`` carries the effects out, one event at a time. A
crash anywhere loses the state and nothing else: the next ``Durable`` begins from what is durable.

Invariants: an item is durable before anybody acts on it, except that narrowing is acted on even when the disk is full
(V13); no item ever means no change (V14), so a hub that forgot its items deletes nothing here; an item nobody can use
costs that item and not the link (V16); while one session hands over to the next only the newer one is listened to.
The table of transitions is docs/reference/desired-items.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agent.link.errors import ITEM_UNUSABLE, ITEMS_DIFFER
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem, items_digest
from cellward.wire.text import sendable

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one hub may have an agent keep: cells, unusable items, and bytes of one of those."""

    items: int = 4096
    unusable: int = 256
    unusable_bytes: int = 8 * 1024


@dataclass(frozen=True, slots=True)
class Heard:
    """The one session that is listened to.

    Attributes:
        number: of the session.
        asked: revision from where on it was asked; 0 asks for everything.
        hub_epoch: of the hub that welcomed it.
        listed: keys it named so far of what is kept, usable or not.
    """

    number: int
    asked: int
    hub_epoch: str
    listed: frozenset[CellKey] = frozenset()


@dataclass(frozen=True, slots=True)
class State:
    """What an agent knows of its items.

    Attributes:
        revision: reached and durable.
        hub_epoch: of the hub whose revision that is.
        held: items that are durable, by key.
        heard: the session that is listened to.
        taken: revision of each item as this process took it, within one epoch of the hub.
        unusable: items the hub names and nobody can use, as named: part of what both sides compare.
        failing: keys of items that are held and that the engine failed to take.
        recorded: keys of unusable items that are on record, once in the life of this process.
        why: the newest reason for an item being of no use.
        all_due: everything is to be listed again; until a session was asked for that, no revision counts.
        full_resync: everything was asked for because both sides differed, and they have not agreed since.
        missed: something could not be kept; until then the revision does not move.
        left_out: something was left out because there was no room for it.
    """

    revision: int = 0
    hub_epoch: str = ""
    held: Mapping[CellKey, DesiredItem] = field(default_factory=dict)
    heard: Heard | None = None
    taken: Mapping[CellKey, int] = field(default_factory=dict)
    unusable: Mapping[CellKey, DesiredItem] = field(default_factory=dict)
    failing: frozenset[CellKey] = frozenset()
    recorded: frozenset[CellKey] = frozenset()
    why: str = ""
    all_due: bool = False
    full_resync: bool = False
    missed: bool = False
    left_out: bool = False

    @property
    def resumes_at(self) -> int:
        """Revision from where on a session that begins now is asked."""
        return 0 if self.all_due else self.revision

    def digest(self) -> str:
        """Digest over all that the hub is known to name."""
        return items_digest((dict(self.held) | dict(self.unusable)).values())


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Durable:
    """What is durable now; said before a session asks, and before a mark."""

    revision: int
    hub_epoch: str
    items: tuple[DesiredItem, ...]


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The hub welcomed a session that was asked from a revision on."""

    session: int
    asked: int
    hub_epoch: str


@dataclass(frozen=True, slots=True)
class Named:
    """A session named an item that can be used."""

    session: int
    item: DesiredItem


@dataclass(frozen=True, slots=True)
class NamedUnusable:
    """A session named an item that nobody can use: as named, why, and its size on the wire in bytes."""

    session: int
    row: DesiredItem
    code: str
    reason: str
    size: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Marked:
    """A session named everything up to a revision; ``again``: what it names no more was withdrawn meanwhile."""

    session: int
    revision: int
    digest: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class AllWanted:
    """Somebody wants everything listed again."""


@dataclass(frozen=True, slots=True)
class SpaceMayBe:
    """Time has passed since something could not be kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An item is durable."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class NotKept:
    """Something could not be made durable: an item, a revision (then without one), or what was to be forgotten."""

    code: str
    reason: str
    item: DesiredItem | None = None


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The engine took an item."""

    key: CellKey


@dataclass(frozen=True, slots=True)
class NotTakenOver:
    """The engine failed on an item."""

    key: CellKey
    reason: str


@dataclass(frozen=True, slots=True)
class RoomMade:
    """The engine gave up cells that ended; they are forgotten, and ``item`` may have the room."""

    item: DesiredItem
    keys: tuple[CellKey, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nothing came of an item, and it is forgotten."""

    key: CellKey


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """The receipt of a refusal could not be made durable."""

    key: CellKey
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class RevisionKept:
    """A revision is durable, and whose it is where that was said."""

    revision: int
    hub_epoch: str | None


Event = (
    Durable | Welcomed | Named | NamedUnusable | Marked | AllWanted | SpaceMayBe
    | Kept | NotKept | TakenOver | NotTakenOver | RoomMade | Withdrawn | NotAnswered | RevisionKept
)  # fmt: skip

# -- effects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """Make an item durable: ``Kept`` or ``NotKept``."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class HandOn:
    """Give an item to the engine: ``TakenOver`` or ``NotTakenOver``."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """Have the engine give up cells that ended, and forget them: ``RoomMade``, with those that could be."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Ask the engine whether nothing came of an item, and forget it then: ``Withdrawn``, ``NotKept`` or nothing."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class Record:
    """Put on record that an item is of no use."""

    row: DesiredItem
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a refusing receipt, if one can name the item; ``NotAnswered`` when it cannot be made durable."""

    row: DesiredItem
    code: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class KeepRevision:
    """Make a revision durable, and whose it is where that is said: ``RevisionKept`` or ``NotKept``."""

    revision: int
    hub_epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Reconnect:
    """End the session, so that the next one is asked from where ``resumes_at`` says."""


@dataclass(frozen=True, slots=True)
class ComeBack:
    """Say ``SpaceMayBe`` after a while."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Set the condition; no code is well."""

    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Then:
    """Take an event once the effects before are carried out."""

    event: Event


Effect = Keep | HandOn | MakeRoom | Withdraw | Record | Answer | KeepRevision | Reconnect | ComeBack | Tell | Then
Result = tuple[State, tuple[Effect, ...]]

# -- rules -------------------------------------------------------------------------------------------------------------


def step(state: State, event: Event, bounds: Bounds = Bounds()) -> Result:
    """Return the next state and what is to be done, in this order; raises for no event."""
    return _rule(event, state, bounds)


@functools.singledispatch
def _rule(event: Event, state: State, bounds: Bounds) -> Result:
    raise NotImplementedError(type(event).__name__)


@_rule.register
def _durable(event: Durable, state: State, _: Bounds) -> Result:
    held = {item.key: item for item in event.items}
    return replace(state, revision=event.revision, hub_epoch=event.hub_epoch, held=held), ()


@_rule.register
def _welcomed(event: Welcomed, state: State, _: Bounds) -> Result:
    same = state.heard is not None and state.heard.hub_epoch == event.hub_epoch
    return replace(
        state,
        heard=Heard(event.session, event.asked, event.hub_epoch),
        # After a restore of the hub numbers begin again.
        taken=state.taken if same else {},
        all_due=state.all_due and event.asked != 0,
    ), ()


@_rule.register
def _named(event: Named, state: State, bounds: Bounds) -> Result:
    heard, item = state.heard, event.item
    if heard is None or heard.number != event.session:
        return state, ()
    state = replace(state, unusable=_without(state.unusable, item.key))
    if item.key in state.held:
        state = _listed(state, item.key)
    if heard.asked and item.revision < state.taken.get(item.key, 0):
        # A full listing is believed whatever its numbers: it is what puts right what differs.
        return state, ()
    if item.key not in state.held and len(state.held) >= bounds.items:
        return state, (MakeRoom(item),)
    return _listed(state, item.key), (Keep(item),)


@_rule.register
def _named_unusable(event: NamedUnusable, state: State, bounds: Bounds) -> Result:
    """Leave it out, say so once, and to its author. What is held of that cell stays: no usable item is no change."""
    heard, key = state.heard, event.row.key
    if heard is None or heard.number != event.session:
        return state, ()
    state, tell = _of_no_use(state, key, event.reason)
    if key in state.held or key in state.unusable:
        state = _listed(state, key)
    known = state.unusable.get(key)
    room = known is not None or len(state.unusable) < bounds.unusable
    if known == event.row or not room or event.size > bounds.unusable_bytes:
        return state, (tell,)
    state = _listed(replace(state, unusable={**state.unusable, key: event.row}), key)
    answer = Answer(event.row, event.code, event.reason, event.hint)
    if key in state.recorded or len(state.recorded) >= bounds.unusable:
        return state, (tell, answer)
    record = Record(event.row, event.code, event.reason)
    return replace(state, recorded=state.recorded | {key}), (tell, record, answer)


@_rule.register
def _marked(event: Marked, state: State, _: Bounds) -> Result:
    heard = state.heard
    if heard is None or heard.number != event.session or state.missed or state.all_due:
        return state, ()
    differs = bool(event.digest) and state.digest() != event.digest
    if differs and not state.full_resync:
        # What we hold and what the hub holds differ although revisions went on: ask for everything once.
        return _ask_for_all(replace(state, full_resync=True))
    if differs and not heard.asked and not event.again:
        named = {key: row for key, row in state.unusable.items() if key in heard.listed}
        gone = tuple(Withdraw(item) for key, item in state.held.items() if key not in heard.listed)
        return replace(state, unusable=named), (*gone, Then(replace(event, again=True)))
    keep = KeepRevision(event.revision, heard.hub_epoch)
    if differs:
        message = "after a full resync the hub still names other items than this agent holds"
        return state, (Tell(ITEMS_DIFFER.code, message), keep)
    return replace(state, full_resync=False), (_agreed(state), keep)


@_rule.register
def _all_wanted(event: AllWanted, state: State, _: Bounds) -> Result:
    del event
    return _ask_for_all(state)


@_rule.register
def _space_may_be(event: SpaceMayBe, state: State, _: Bounds) -> Result:
    del event
    return replace(state, missed=False), (Reconnect(),)


@_rule.register
def _kept(event: Kept, state: State, _: Bounds) -> Result:
    key = event.item.key
    held, taken = {**state.held, key: event.item}, {**state.taken, key: event.item.revision}
    return replace(state, held=held, taken=taken), (HandOn(event.item),)


@_rule.register
def _not_kept(event: NotKept, state: State, _: Bounds) -> Result:
    """Stay connected, so that somebody hears of it, and come back for the same revision when there may be space."""
    effects: list[Effect] = [Tell(event.code, event.reason)]
    if not state.missed:
        effects.append(ComeBack())
    if event.item is not None and event.item.hub_state != "run":
        # The disk is full: nothing new is begun, but to stop or isolate something needs no disk (V13).
        effects.append(HandOn(event.item))
    # The durable revision may be one of before everything was asked for: a full listing with a gap is due once more.
    due = state.all_due or (state.heard is not None and not state.heard.asked)
    return replace(state, missed=True, all_due=due), tuple(effects)


@_rule.register
def _taken_over(event: TakenOver, state: State, _: Bounds) -> Result:
    return replace(state, failing=state.failing - {event.key}), ()


@_rule.register
def _not_taken_over(event: NotTakenOver, state: State, _: Bounds) -> Result:
    state, tell = _of_no_use(state, event.key, event.reason)
    return replace(state, failing=state.failing | {event.key}), (tell,)


@_rule.register
def _room_made(event: RoomMade, state: State, bounds: Bounds) -> Result:
    named = state.heard.listed if state.heard is not None else frozenset()
    state = replace(
        state,
        held=_without(state.held, *event.keys),
        taken=_without(state.taken, *event.keys),
        # Whoever had to give up his place although he is named has been left out as well.
        left_out=state.left_out or not named.isdisjoint(event.keys),
    )
    if len(state.held) < bounds.items:
        return _listed(state, event.item.key), (Keep(event.item),)
    message = f"the hub names more than {bounds.items} cells; the rest is left out"
    return replace(state, left_out=True), (Tell(ITEMS_DIFFER.code, message),)


@_rule.register
def _withdrawn(event: Withdrawn, state: State, _: Bounds) -> Result:
    state = replace(state, held=_without(state.held, event.key), failing=state.failing - {event.key})
    if not state.left_out:
        return state, ()
    # What another hub had named took the room, and has gone: what was left out is named once more.
    return _ask_for_all(replace(state, left_out=False))


@_rule.register
def _not_answered(event: NotAnswered, state: State, bounds: Bounds) -> Result:
    forgotten = replace(state, unusable=_without(state.unusable, event.key))
    return _not_kept(NotKept(event.code, event.reason), forgotten, bounds)


@_rule.register
def _revision_kept(event: RevisionKept, state: State, _: Bounds) -> Result:
    epoch = state.hub_epoch if event.hub_epoch is None else event.hub_epoch
    return replace(state, revision=event.revision, hub_epoch=epoch), ()


def _ask_for_all(state: State) -> Result:
    return replace(state, all_due=True), (Reconnect(), KeepRevision(0))


def _listed(state: State, key: CellKey) -> State:
    """Note that the session named what is kept; of anything else nobody asks, and a hub may name what it likes."""
    heard = state.heard
    if heard is None or key in heard.listed:
        return state
    return replace(state, heard=replace(heard, listed=heard.listed | {key}))


def _of_no_use(state: State, key: CellKey, reason: str) -> tuple[State, Tell]:
    why = f"{sendable('/'.join(key), 200)}: {reason}"
    return replace(state, why=why), Tell(ITEM_UNUSABLE.code, why)


def _agreed(state: State) -> Tell:
    """Both sides know of the same items; that leaves those nobody can use."""
    count = len(state.unusable) + len(state.failing)
    return Tell(ITEM_UNUSABLE.code, f"{count} items cannot be used; {state.why}") if count else Tell()


def _without(values: Mapping[CellKey, V], *keys: CellKey) -> Mapping[CellKey, V]:
    if not any(key in values for key in keys):
        return values
    return {key: value for key, value in values.items() if key not in keys}
