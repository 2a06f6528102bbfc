"""What the machine knows of one cell: stage, hold, and what is owed, each with its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.audit.interfaces import RefusalText
from cellward.cells.render import namespace_of
from cellward.wire.codec import DesiredItem


class Stage(StrEnum):
    """What is being done for a cell, or in what it rests."""

    WAITING = "waiting"
    WITHHOLDING = "withholding"
    VERIFYING = "verifying"
    DECIDING = "deciding"
    ISOLATING = "isolating"
    PROVING = "proving"
    DRY_RUNNING = "dry-running"
    APPLYING = "applying"
    SETTLING = "settling"
    SETTLED = "settled"
    ROLLING_BACK = "rolling back"
    ENDING = "ending"
    ENDED = "ended"


class Hold(StrEnum):
    """What is withheld from a cell; the values are those of the hub's states."""

    RUN = "run"
    HOLD = "hold"
    QUARANTINE = "quarantine"


class Purpose(StrEnum):
    """What a piece of work is for.

    ``RELEASE``: what an item names. ``FALLBACK``: an accepted fallback is finished. ``RETURN``: the release failed, and
    its fallback is to run. ``END``: a tombstone.
    """

    RELEASE = "release"
    FALLBACK = "fallback"
    RETURN = "return"
    END = "end"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is durable of a cell, as far as the machine goes by it; see ``CellRecord`` for the words.

    ``applied`` is the record's ``settled``; ``going`` how much was deleted and is not gone yet.
    """

    key: tuple[str, str, str]
    deployment: str = ""
    release: str = ""
    settled_release: str = ""
    applied: bool = False
    ending: str = ""
    fallback: bool = False
    quarantined: bool = False
    rollout_started: str = ""
    deadline: int = 600
    going: int = 0

    @property
    def place(self) -> str:
        """Namespace of the cell."""
        return namespace_of(*self.key)

    @property
    def failed(self) -> bool:
        """Whether the rollout of what runs is over, and it did not become healthy in its time."""
        standing = self.applied and bool(self.release) and not self.ending
        return standing and not self.rollout_started and self.settled_release != self.release

    @property
    def documents(self) -> tuple[str, str, str]:
        """Digests of what is in force: when they change, documents are superseded."""
        return self.deployment, self.release, self.settled_release


@dataclass(frozen=True, slots=True)
class Work:
    """The one thing that is being done for a cell.

    Attributes:
        stage: how far it is.
        item: what it is done for; its hub state is what is in force, signatures included.
        purpose: what it is for.
        correlation: id that its records share.
        turn: whether it has its turn among the cells.
        proof_decides: whether the decision waits for the proof of isolation.
        proved: whether isolation was written and proved in this work.
        reason: why a rollout failed, for ``RETURN``.
    """

    stage: Stage
    item: DesiredItem
    purpose: Purpose
    correlation: str
    turn: bool = False
    proof_decides: bool = False
    proved: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the newest item is not carried out: ``waiting`` goes away by itself, ``refused`` may need an author.

    ``ground`` is what of cluster and inventory it was judged on, see ``Sight``.
    """

    waiting: bool
    refusals: tuple[RefusalText, ...]
    ground: object = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be said, and put on record first, of an item."""

    item: DesiredItem
    refusals: tuple[RefusalText, ...]
    correlation: str

    @property
    def about(self) -> tuple[object, ...]:
        """What is said only once."""
        return self.item.revision, self.item.deployment_digest, self.refusals


@dataclass(frozen=True, slots=True)
class Owed:
    """What is still to be done beside the work.

    Attributes:
        answers: receipts, oldest first, each after its record.
        narrow: whether signatures isolate the cell, or no longer do.
        failure: release and start of the rollout whose failure is on record.
        documents: what is in force, as it was when documents were dropped last.
    """

    answers: tuple[Answer, ...] = ()
    narrow: bool = False
    failure: tuple[str, str] = ("", "")
    documents: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class Timers:
    """Monotonic times, seconds: before them a thing is not tried; None is never.

    Attributes:
        retry: when the newest item is tried again.
        finish: when what was accepted is gone on with.
        judge: not before this is the rollout judged.
        beside: not before this are answers, completed jobs and edges tried again.
    """

    retry: float | None = None
    finish: float | None = None
    judge: float = 0.0
    beside: float = 0.0


@dataclass(frozen=True, slots=True)
class Timed:
    """The rollout that is timed, the seconds in view at which that began, and when its time is over."""

    about: tuple[object, ...] = ()
    since: float = 0.0
    watched: float | None = None
    over_at: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """All of it.

    Attributes:
        kept: the durable part.
        work: what is being done, None at rest.
        fresh: the newest item while it was not taken up.
        item: the newest item that was taken up, None after a restart until the hub's are read again.
        accepted: the item of what is in force, as it was accepted.
        hold: what is withheld.
        held: why.
        obstacle: what stands in the way of ``item``.
        trouble: why what is in force is not what was deployed.
        edges: which connections are closed, and why.
        awaits_gone: how much an end waits for that was deleted, 0 when it does not.
        owed: what is still to be done.
        said: what was said last of each digest, so that a retry does not repeat it.
        timers: when what is tried again.
        tries: failures of item and accepted since the last success.
        judge_tries: the same for what a verdict asked for.
        timed: the clock of the rollout.
    """

    kept: Kept
    work: Work | None = None
    fresh: DesiredItem | None = None
    item: DesiredItem | None = None
    accepted: DesiredItem | None = None
    hold: Hold = Hold.RUN
    held: tuple[RefusalText, ...] = ()
    obstacle: Obstacle | None = None
    trouble: tuple[RefusalText, ...] = ()
    edges: tuple[RefusalText, ...] = ()
    awaits_gone: int = 0
    owed: Owed = field(default_factory=Owed)
    said: tuple[tuple[str, tuple[object, ...]], ...] = ()
    timers: Timers = field(default_factory=Timers)
    tries: int = 0
    judge_tries: int = 0
    timed: Timed = field(default_factory=Timed)

    @property
    def refusals(self) -> tuple[RefusalText, ...]:
        """What stands in the way of the newest item."""
        return self.held if self.obstacle is None else self.obstacle.refusals

    @property
    def complaints(self) -> tuple[RefusalText, ...]:
        """Everything there is to say against what was asked for and what runs."""
        return tuple(dict.fromkeys((*self.refusals, *self.trouble, *self.edges)))

    @property
    def withheld(self) -> bool:
        """Whether somebody withholds the cell."""
        return self.hold is not Hold.RUN or self.kept.quarantined

    @property
    def unfinished(self) -> bool:
        """Whether something was accepted and is not wholly applied, and nobody withholds it."""
        return bool(self.kept.deployment) and not self.kept.applied and not self.withheld

    @property
    def in_force(self) -> DesiredItem:
        """The item of what is in force; a newer one may have been refused since."""
        for item in (self.item, self.accepted):
            if item is not None and item.deployment_digest == self.kept.deployment:
                return item
        return DesiredItem(0, *self.kept.key, self.kept.deployment)

    def is_newest(self, item: DesiredItem) -> bool:
        """Whether nothing else was taken up since."""
        return self.item is None or self.item.deployment_digest == item.deployment_digest
