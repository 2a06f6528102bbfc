"""A hub that lists, a disk that may be full, an engine that may fail, and a process that may be killed at any effect.

Each method does one thing in it and lets the machine go on; ``Violation`` says which invariant did not hold. The rules
are given: a broken variant must be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.link import listed as machine
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem, HubState, items_digest
from tests.fakes.walks import must

Step = Callable[[machine.State, machine.Event, machine.Bounds], machine.Result]
BOUNDS = machine.Bounds(items=3, unusable=2, unusable_bytes=100)
#: More cells than there is room for.
CELLS = ("a", "b", "c", "d")
STATES: tuple[HubState, ...] = ("run", "hold", "quarantine")
#: Sessions after which a hub and an agent that are left alone agree.
PATIENCE = 6


class Killed(Exception):
    """The process ends here."""


def key_of(cell: str) -> CellKey:
    """Key of a cell."""
    return CellKey("shop", cell, "dev")


@dataclass(frozen=True, slots=True)
class Row:
    """What the hub names."""

    item: DesiredItem
    usable: bool = True


@dataclass
class Session:
    """One stream: what the hub still has to say on it, and what it said."""

    number: int
    asked: int
    epoch: str
    waiting: list[Row | int]
    said: dict[CellKey, DesiredItem] = field(default_factory=dict)
    named: set[CellKey] = field(default_factory=set)
    last: Row | int | None = None
    welcomed: bool = False


@dataclass
class World:
    """See the module's text; ``held``, ``revision`` and ``epoch`` are what the agent has on disk."""

    step: Step = machine.step
    rows: dict[CellKey, Row] = field(default_factory=dict)
    hub_revision: int = 0
    hub_epoch: str = "e1"
    held: dict[CellKey, DesiredItem] = field(default_factory=dict)
    revision: int = 0
    epoch: str = ""
    disk_full: bool = False
    engine_fails: bool = False
    #: Cells that run here: the engine lets go of none of them.
    running: set[CellKey] = field(default_factory=set)
    state: machine.State = field(default_factory=machine.State)
    sessions: list[Session] = field(default_factory=list)
    handed: list[DesiredItem] = field(default_factory=list)
    told: str = ""
    coming_back: bool = False
    reconnect: bool = True
    #: Effects until the process is killed; none is never.
    fuse: int | None = None
    #: What the oracle knows: newest revision taken in this process and epoch, and what found no room.
    newest: dict[CellKey, int] = field(default_factory=dict)
    no_room: set[CellKey] = field(default_factory=set)
    not_kept: bool = False
    all_wanted: bool = False

    # -- what may happen ---------------------------------------------------------------------------------------------

    def put(self, cell: str, digest: int, state: HubState, *, usable: bool = True) -> None:
        """The hub names something else for a cell."""
        self.hub_revision += 1
        item = DesiredItem(self.hub_revision, *key_of(cell), f"sha256:{digest:064x}", (), state)
        self.rows[item.key] = Row(item, usable)

    def drop(self, cell: str) -> None:
        """The hub forgets a cell without a word."""
        self.rows.pop(key_of(cell), None)

    def restore(self, keep: int) -> None:
        """The hub is restored from a backup: fewer rows, lower numbers, another epoch."""
        self.hub_epoch = f"e{int(self.hub_epoch[1:]) + 1}"
        kept = dict(list(self.rows.items())[:keep])
        self.rows = {
            key: replace(row, item=replace(row.item, revision=n + 1)) for n, (key, row) in enumerate(kept.items())
        }
        self.hub_revision = len(kept)

    def connect(self) -> None:
        """A session begins and asks; an older one may still be there."""
        self.reconnect = False
        self.take(machine.Durable(self.revision, self.epoch, tuple(self.held.values())))
        asked = self.state.resumes_at
        since = asked if self.hub_epoch == self.epoch else 0
        rows = sorted(
            (row for row in self.rows.values() if row.item.revision > since), key=lambda row: row.item.revision
        )
        # A hub that was restored lists everything, whatever it is asked for.
        number = self.sessions[-1].number + 1 if self.sessions else 1
        self.sessions = [*self.sessions[-1:], Session(number, asked, self.hub_epoch, [*rows, self.hub_revision])]

    def say(self, session: Session) -> None:
        """The hub says its next frame on a session."""
        if not session.welcomed:
            session.welcomed = True
            if self.state.heard is None or self.state.heard.hub_epoch != session.epoch:
                self.newest.clear()
            if not session.asked:
                self.all_wanted = False
            self.take(machine.Welcomed(session.number, session.asked, session.epoch))
        elif session.waiting:
            session.last = session.waiting.pop(0)
            self.frame(session, session.last)

    def frame(self, session: Session, frame: Row | int) -> None:
        """One frame arrives."""
        heard = self.state.heard is not None and session is self.newest_session()
        if isinstance(frame, int):
            self.take(machine.Durable(self.revision, self.epoch, tuple(self.held.values())))
            digest = items_digest(row.item for row in self.rows.values())
            self.take(machine.Marked(session.number, frame, digest))
            return
        item = frame.item
        session.named.add(item.key)
        if not frame.usable:
            session.said.pop(item.key, None)
            self.take(machine.NamedUnusable(session.number, item, "wire/bad-message", "no use", 50))
            return
        if not heard:
            before, handed = dict(self.held), len(self.handed)
            alive = self.take(machine.Named(session.number, item))
            must(
                not alive or (self.held == before and len(self.handed) == handed), "V13: an old session is listened to"
            )
            return
        older = session.asked != 0 and item.revision < self.newest.get(item.key, 0)
        before_item, handed = self.held.get(item.key), len(self.handed)
        session.said[item.key] = item
        if not self.take(machine.Named(session.number, item)):
            return
        if older:
            must(self.held.get(item.key) == before_item, "V13: an older revision replaces a newer one")
            session.said.pop(item.key)
        elif item.hub_state != "run" and item.key not in self.no_room:
            must(item in self.handed[handed:], "V13: narrowing waits for a disk")

    def newest_session(self) -> Session | None:
        """The newest session that was welcomed."""
        return next((one for one in reversed(self.sessions) if one.welcomed), None)

    def want_all(self) -> None:
        """Somebody asks for a resync."""
        self.all_wanted = True
        self.take(machine.AllWanted())

    def wait(self) -> None:
        """Time passes."""
        if self.coming_back:
            self.coming_back = self.not_kept = False
            self.take(machine.SpaceMayBe())

    # -- the process -------------------------------------------------------------------------------------------------

    def take(self, event: machine.Event) -> bool:
        """Let the machine take an event to its end, or to the end of the process: then False."""
        try:
            self._work(event)
        except Killed:
            self.fuse = None
            self.state, self.sessions, self.reconnect = machine.State(), [], True
            self.coming_back = self.not_kept = self.all_wanted = False
            self.newest.clear()
            self.no_room.clear()
            return False
        state = self.state
        must(len(self.held) <= BOUNDS.items, "V16: a hub fills the disk")
        must(max(len(state.unusable), len(state.recorded)) <= BOUNDS.unusable, "V16: a hub fills the memory")
        loaded = state.heard is not None or isinstance(event, machine.Durable)
        must(not loaded or dict(state.held) == self.held, "V13: what is known is not what is durable")
        return True

    def _work(self, event: machine.Event) -> None:
        self.state, effects = self.step(self.state, event, BOUNDS)
        for effect in effects:
            self._burn()
            outcome = self._carry_out(effect)
            self._burn()
            if outcome is not None:
                self._work(outcome)

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    def _carry_out(self, effect: machine.Effect) -> machine.Event | None:  # noqa: C901, PLR0911, PLR0912 - a simulation
        match effect:
            case machine.Keep(item):
                if self.disk_full:
                    self.not_kept = True
                    return machine.NotKept("spool/full", "full", item)
                self.held[item.key] = item
                self.newest[item.key] = item.revision
                self.no_room.discard(item.key)
                return machine.Kept(item)
            case machine.HandOn(item):
                durable = self.held.get(item.key) == item
                must(durable or (self.disk_full and item.hub_state != "run"), "V13: acted on and not durable")
                if self.engine_fails:
                    self.handed.append(item)
                    return machine.NotTakenOver(item.key, "failed")
                self.handed.append(item)
                return machine.TakenOver(item.key)
            case machine.MakeRoom(item):
                self.no_room.add(item.key)
                gone = tuple(key for key in self.held if key not in self.running)[:1] if not self.disk_full else ()
                for key in gone:
                    self.forget(key)
                return machine.RoomMade(item, gone)
            case machine.Withdraw(item):
                session = self.newest_session()
                full = session is not None and session.asked == 0 and not session.waiting
                must(full, "V14: withdrawn although not everything was listed")
                named = session.named if session is not None else set()
                must(item.key not in named, "V14: withdrawn although it is named")
                if item.key in self.running:
                    return None
                if self.disk_full:
                    self.not_kept = True
                    return machine.NotKept("spool/full", "full")
                self.forget(item.key)
                return machine.Withdrawn(item.key)
            case machine.Answer(row):
                if self.disk_full:
                    self.not_kept = True
                    return machine.NotAnswered(row.key, "spool/full", "full")
                return None
            case machine.KeepRevision(revision, epoch):
                return self._keep_revision(revision, epoch)
            case machine.Reconnect():
                self.reconnect = True
            case machine.ComeBack():
                must(not self.coming_back, "V16: one timer beside the other")
                self.coming_back = True
            case machine.Tell(code):
                self.told = code
            case machine.Then(event):
                return event
        return None

    def _keep_revision(self, revision: int, epoch: str | None) -> machine.Event:
        if epoch is not None:
            session = self.newest_session()
            must(session is not None, "V13: a revision of nobody")
            must(not self.not_kept, "V13: the revision moves past what was not kept")
            must(not self.all_wanted, "V13: a resync is lost")
            for key, item in session.said.items() if session is not None else ():
                kept = self.held.get(key) == item or key in self.no_room
                must(kept, "V13: the revision moves past what is not held")
        if self.disk_full:
            self.not_kept = True
            return machine.NotKept("spool/full", "full")
        self.revision = revision
        self.epoch = self.epoch if epoch is None else epoch
        return machine.RevisionKept(revision, epoch)

    def forget(self, key: CellKey) -> None:
        """An item is gone from the disk."""
        del self.held[key]
        self.newest.pop(key, None)
        for session in self.sessions:
            session.said.pop(key, None)

    # -- rest --------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Leave everything alone: it comes to rest, and both sides agree."""
        self.fuse, self.disk_full, self.engine_fails = None, False, False
        for _ in range(PATIENCE):
            self.wait()
            if self.reconnect or not self.sessions or not self.sessions[-1].welcomed:
                self.connect()
            session = self.sessions[-1]
            if not session.waiting and session.welcomed and not self.reconnect:
                self.frame(session, self.hub_revision)
            while session.waiting or not session.welcomed:
                self.say(session)
            if not self.reconnect and not self.coming_back:
                break
        must(not self.reconnect and not self.coming_back, "it does not come to rest")
        usable = {key: row.item for key, row in self.rows.items() if row.usable}
        # What runs here stays although the hub forgot it: then both differ for good, and say so instead of asking on.
        for_good = not self.held.keys() & self.running <= self.rows.keys()
        fits = not for_good and len(self.running | self.rows.keys()) <= BOUNDS.items
        if fits and len(self.rows) - len(usable) <= BOUNDS.unusable:
            missing = [key for key, item in usable.items() if not _alike(self.held.get(key), item)]
            must(not missing, f"V13: what the hub names is not held: {missing}")


def _alike(held: DesiredItem | None, item: DesiredItem) -> bool:
    return held is not None and replace(held, revision=0) == replace(item, revision=0)
