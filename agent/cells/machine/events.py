"""What happens to a cell. Each event carries what the driver sees at that moment."""

from __future__ import annotations

from dataclasses import dataclass

from agent.audit.interfaces import RefusalText
from agent.cells.machine.state import Answer, Kept
from cellward.wire.codec import DesiredItem


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the cluster shows of the cell's objects.

    Attributes:
        unhealthy: "Kind/namespace/name: reason" of everything that is not ready.
        failed: whether waiting for health is pointless.
        unseen: whether something was neither seen nor missed since the agent started.
        jobs_done: whether a job completed that the record does not know of.
        edges: why connections are to be closed.
        edges_differ: whether one is to be closed or opened yet, or is not on record.
        unrepaired: whether something could not be brought back.
    """

    unhealthy: tuple[str, ...] = ()
    failed: bool = False
    unseen: bool = False
    jobs_done: bool = False
    edges: tuple[RefusalText, ...] = ()
    edges_differ: bool = False
    unrepaired: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What comes with every event.

    Attributes:
        at: monotonic time, seconds.
        chance: from 0 to 1, for delays.
        correlation: a new id for the records of one piece of work.
        kept: what is durable.
        view: for how many seconds every watch saw the cluster since the start; None while one does not.
        quarantine: why signatures isolate the cell, empty when they do not.
        ground: what refusals by cluster and inventory are judged on; equal while nothing of it changed.
        quota: the same for refusals by a quota of the namespace.
    """

    at: float
    chance: float
    correlation: str
    kept: Kept
    view: float | None = None
    quarantine: str = ""
    ground: object = None
    quota: object = None


@dataclass(frozen=True, slots=True)
class Event:
    """Anything that happens."""

    seen: Sight


@dataclass(frozen=True, slots=True)
class Loaded(Event):
    """The agent started; ``accepted`` is the item of what is in force, as it was accepted."""

    accepted: DesiredItem | None = None


@dataclass(frozen=True, slots=True)
class ItemCame(Event):
    """The hub listed the cell."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class Reconsider(Event):
    """Policy, guards, stamps or the view of the cluster changed."""


@dataclass(frozen=True, slots=True)
class Look(Event):
    """The driver has nothing else to do: a watch event came, a timer is due, or a step ended."""

    outlook: Outlook


@dataclass(frozen=True, slots=True)
class Narrowed(Event):
    """Hold or quarantine is in force."""


@dataclass(frozen=True, slots=True)
class Lifted(Event):
    """Nothing is withheld any more; ``in_force`` says that the floor is that of the item."""

    in_force: bool


@dataclass(frozen=True, slots=True)
class VerifiedRelease(Event):
    """The documents of a release hold."""


@dataclass(frozen=True, slots=True)
class VerifiedEnd(Event):
    """The documents of a tombstone hold."""


@dataclass(frozen=True, slots=True)
class NoFallback(Event):
    """There is nothing to go back to; ``why`` is said where something was named and does not hold."""

    why: tuple[RefusalText, ...] = ()


@dataclass(frozen=True, slots=True)
class FailureRecorded(Event):
    """That the rollout failed is on record."""


@dataclass(frozen=True, slots=True)
class TurnTaken(Event):
    """The cell has its turn."""


@dataclass(frozen=True, slots=True)
class Allowed(Event):
    """The policy allows the release; ``if_proved`` when it asks for the proof of isolation first."""

    if_proved: bool = False


@dataclass(frozen=True, slots=True)
class Denied(Event):
    """The policy refuses it."""

    refusals: tuple[RefusalText, ...]


@dataclass(frozen=True, slots=True)
class Isolated(Event):
    """Namespace, isolation and rights are written."""


@dataclass(frozen=True, slots=True)
class Proved(Event):
    """Isolation was probed; ``changed`` when it is not what was decided on."""

    changed: bool


@dataclass(frozen=True, slots=True)
class DryRun(Event):
    """The API server would take all of it."""


@dataclass(frozen=True, slots=True)
class Applied(Event):
    """Every object is written, and that is on record."""


@dataclass(frozen=True, slots=True)
class Accepted(Event):
    """The point of no return is passed, in the middle of a step: this is what is finished from now on."""

    item: DesiredItem


@dataclass(frozen=True, slots=True)
class EndWaits(Event):
    """What was deleted is not gone yet."""

    refusals: tuple[RefusalText, ...]


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """Nothing is left of the cell, and that is on record."""


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """An answer is on record and with the link."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """Something beside the work is done: jobs, edges, the end of a rollout, documents."""


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """What was asked for did not come through; ``passing`` when it may by itself, a full disk included."""

    refusals: tuple[RefusalText, ...]
    passing: bool


@dataclass(frozen=True, slots=True)
class Broken(Event):
    """What was asked for failed in a way nobody expected (V16)."""

    refusals: tuple[RefusalText, ...]


@dataclass(frozen=True, slots=True)
class Superseded(Event):
    """What was being done made way for a newer item."""
