"""What is repaired of a cell, and when, as a pure machine: ``step(state, event)`` gives the next state and the effects.

Objects are marked when they may differ from what was released. No clock and no cluster: each event says what time it
is, what is done is an effect, and what became of it is the next event. ``agent.cells.drift`` carries the effects out.

Invariants:
- What was marked is looked at, or waits for a time that is known; a mark that is set during a look stays (V1).
- An object is looked at once at a time, and one object at a time in turn, the ground of the cell (its namespace,
  isolation and rights, and policies of strangers) before what stands on it (V9).
- What failed before is tried beside the others: no object that cannot be repaired holds up another one.
- Isolation is in doubt from its mark to the end of its look, and while a namespace that is not ours stands there: until
  then no workload comes back (``is_isolated``, V9).
- The ground is tried again within a second, anything else within a minute, however often somebody fights back.
- A write is owed to the record before it is begun, and recorded once (V13).
- What fails twice is reported once, and shown until it is well again (V15).

The table of transitions is docs/reference/repairs.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, TypeVar

from agent.cells.machine.patience import REPORTED_AFTER, REPORTED_LATE, Patience
from agent.kube.interfaces import ObjectRef
from agent.objects.model import DELETED, Role
from agent.objects.order import apply_rank

#: Longest wait for the ground of a cell: patience there would be an open door. And for what stands on it. Seconds.
LONGEST_GROUND_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
#: Why a policy of a stranger is removed.
STRANGER: Final = "a policy that is not of this cell"

V = TypeVar("V")
#: Why the objects of a cell belong to it; one that is not there is of the release.
Roles = Mapping[ObjectRef, Role]


class Failure(Enum):
    """What a repair failed by: refused or away, a namespace that is not ours, an object that does not go."""

    REFUSED = "refused"
    NOT_OURS = "not ours"
    NOT_GONE = "not gone"


@dataclass(frozen=True, slots=True)
class State:
    """What the agent knows of the repairs of one cell.

    Attributes:
        marked: objects to be looked at, and the monotonic time of the first mark, seconds.
        looked_at: objects that are looked at now, and since when they were marked.
        turn: the one of them that is looked at in turn; the others are tried beside it.
        strangers: uid of each NetworkPolicy in the cell that is not of it.
        patience: how the repairs of an object went.
        owed: why what is being written is written, until that is recorded.
        not_ours: the namespace, while somebody else's stands in its place.
        unrepaired: what failed twice or more since it was well.
    """

    marked: Mapping[ObjectRef, float] = field(default_factory=dict)
    looked_at: Mapping[ObjectRef, float] = field(default_factory=dict)
    turn: ObjectRef | None = None
    strangers: Mapping[ObjectRef, str] = field(default_factory=dict)
    patience: Mapping[ObjectRef, Patience] = field(default_factory=dict)
    owed: Mapping[ObjectRef, str] = field(default_factory=dict)
    not_ours: frozenset[ObjectRef] = frozenset()
    unrepaired: frozenset[ObjectRef] = frozenset()


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marked:
    """An object may differ from what was released."""

    ref: ObjectRef
    at: float


@dataclass(frozen=True, slots=True)
class Gone:
    """An object is gone; ``awaited`` when it was deleted by us and waited for."""

    ref: ObjectRef
    at: float
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class StrangerSeen:
    """There is a NetworkPolicy in the cell that is not of it."""

    ref: ObjectRef
    at: float
    uid: str


@dataclass(frozen=True, slots=True)
class Forgive:
    """What could not be repaired may be possible now: the API server is back, or policy, guards or stamps changed."""


@dataclass(frozen=True, slots=True)
class Look:
    """The cell has time for repairs."""

    at: float
    roles: Roles


@dataclass(frozen=True, slots=True)
class Writing:
    """An object is about to be written, and why."""

    ref: ObjectRef
    cause: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """An object was brought back; ``exact`` unless the API server keeps changing it, ``made`` when it is a new one."""

    ref: ObjectRef
    at: float
    role: Role
    cause: str
    exact: bool = True
    made: bool = False


@dataclass(frozen=True, slots=True)
class StrangerRemoved:
    """A policy of a stranger is gone; ``by_us`` when we removed it."""

    ref: ObjectRef
    at: float
    by_us: bool


@dataclass(frozen=True, slots=True)
class Well:
    """An object was looked at and is as released."""

    ref: ObjectRef
    at: float
    role: Role


@dataclass(frozen=True, slots=True)
class Unwanted:
    """An object was looked at, and nobody wants it to be there now."""

    ref: ObjectRef


@dataclass(frozen=True, slots=True)
class Failed:
    """A look or a write failed."""

    ref: ObjectRef
    at: float
    role: Role
    failure: Failure = Failure.REFUSED


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A look ended without an outcome."""

    ref: ObjectRef


Event = (
    Marked | Gone | StrangerSeen | Forgive | Look | Writing | Repaired | StrangerRemoved | Well | Unwanted | Failed
    | Interrupted
)  # fmt: skip

# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Examine:
    """Look at an object and bring it back; ``beside`` when nothing waits for that."""

    ref: ObjectRef
    beside: bool


@dataclass(frozen=True, slots=True)
class Owe:
    """Note durably that a repair is to be recorded."""

    ref: ObjectRef
    cause: str


@dataclass(frozen=True, slots=True)
class Record:
    """Count, time and record a repair."""

    ref: ObjectRef
    cause: str
    exact: bool
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CountFailure:
    """Count a failed repair."""

    ref: ObjectRef


@dataclass(frozen=True, slots=True)
class Show:
    """Report that the object cannot be repaired, as a condition of the cell."""

    ref: ObjectRef
    cause: str


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """Record that the object cannot be repaired."""

    ref: ObjectRef
    cause: str
    count: int


@dataclass(frozen=True, slots=True)
class Hide:
    """Take the condition back."""

    ref: ObjectRef


Effect = Examine | Owe | Record | CountFailure | Show | RecordFailure | Hide
Result = tuple[State, tuple[Effect, ...]]

# -- what is asked of a state -----------------------------------------------------------------------------------------


def due_at(state: State, now: float) -> float | None:
    """Return the monotonic time at which the next marked object may be looked at; None for nothing marked."""
    return min((_patience(state, ref, now).not_before for ref in state.marked), default=None)


def is_isolated(state: State, roles: Roles) -> bool:
    """Whether nothing is known to be wrong with the isolation of the cell, and its namespace is its own (V9)."""
    if state.not_ours:
        return False
    doubtful = {*state.marked, *state.looked_at}
    return not any(ref in state.strangers or roles.get(ref) is Role.ISOLATION for ref in doubtful)


# -- rules ------------------------------------------------------------------------------------------------------------


def step(state: State, event: Event) -> Result:
    """Return the next state and what is to be done, in this order; raises for no event."""
    return _rule(event, state)


@functools.singledispatch
def _rule(event: Event, state: State) -> Result:
    raise NotImplementedError(type(event).__name__)


@_rule.register
def _marked(event: Marked, state: State) -> Result:
    return _mark(state, event.ref, event.at), ()


@_rule.register
def _gone(event: Gone, state: State) -> Result:
    if event.awaited and event.ref in state.patience:
        state = replace(state, patience={**state.patience, event.ref: state.patience[event.ref].forgiven()})
    return _mark(state, event.ref, event.at), ()


@_rule.register
def _stranger_seen(event: StrangerSeen, state: State) -> Result:
    state = replace(state, strangers={**state.strangers, event.ref: event.uid})
    return _mark(state, event.ref, event.at), ()


@_rule.register
def _forgive(_: Forgive, state: State) -> Result:
    return _forgiven(state), ()


@_rule.register
def _look(event: Look, state: State) -> Result:
    due = [ref for ref in state.marked if ref not in state.looked_at and _is_due(state, ref, event.at)]
    beside = [ref for ref in due if _patience(state, ref, event.at).failed]
    for ref in beside:
        state = _begin(state, ref)
    effects: tuple[Effect, ...] = tuple(Examine(ref, beside=True) for ref in beside)
    in_turn = sorted(set(due) - set(beside), key=lambda ref: _rank(state, ref, event.roles))
    if state.turn is not None or not in_turn:
        return state, effects
    first = in_turn[0]
    return replace(_begin(state, first), turn=first), (*effects, Examine(first, beside=False))


@_rule.register
def _writing(event: Writing, state: State) -> Result:
    known = state.owed.get(event.ref)
    # That it is gone by now is our own doing: the cause for which it was deleted stays.
    if known == event.cause or (known is not None and event.cause == DELETED):
        return state, ()
    return replace(state, owed={**state.owed, event.ref: event.cause}), (Owe(event.ref, event.cause),)


@_rule.register
def _repaired(event: Repaired, state: State) -> Result:
    if event.role is not Role.OBJECT:
        # That something could not be put back on other ground says nothing any more.
        state = _forgiven(state)
    if event.role is Role.NAMESPACE and event.made:
        state = replace(state, patience={})  # what was in it went with it
    state, record = _record(state, event.ref, event.at, event.role, event.cause, exact=event.exact)
    state, hidden = _end_well(state, event.ref)
    return state, (*record, *hidden)


@_rule.register
def _stranger_removed(event: StrangerRemoved, state: State) -> Result:
    effects: tuple[Effect, ...] = ()
    if event.by_us:
        state, effects = _record(state, event.ref, event.at, Role.OBJECT, STRANGER, exact=True)
    state = replace(state, strangers=_without(state.strangers, event.ref))
    state, hidden = _end_well(state, event.ref)
    return state, (*effects, *hidden)


@_rule.register
def _well(event: Well, state: State) -> Result:
    effects: tuple[Effect, ...] = ()
    if event.ref in state.owed:
        # A write that seemed to fail came through after all.
        state, effects = _record(state, event.ref, event.at, event.role, state.owed[event.ref], exact=True)
    state, hidden = _end_well(state, event.ref)
    return state, (*effects, *hidden)


@_rule.register
def _unwanted(event: Unwanted, state: State) -> Result:
    return _end_well(state, event.ref)


@_rule.register
def _failed(event: Failed, state: State) -> Result:
    ref, late = event.ref, event.failure is Failure.NOT_GONE
    state = _mark_again(state, ref, event.at)
    patience = _patience(state, ref, event.at).refused(event.at, _longest_wait(state, ref, event.role))
    if event.failure is Failure.NOT_OURS:
        state = replace(state, not_ours=state.not_ours | {ref})
    if patience.failed < (REPORTED_LATE if late else REPORTED_AFTER):
        return replace(state, patience={**state.patience, ref: patience}), (CountFailure(ref),)
    cause = state.owed.get(ref, "")
    state = replace(state, unrepaired=state.unrepaired | {ref})
    effects: tuple[Effect, ...] = (CountFailure(ref), Show(ref, cause))
    if not patience.reported:
        patience = replace(patience, reported=True)
        state = replace(state, owed=_without(state.owed, ref))
        effects = (*effects, RecordFailure(ref, cause, patience.failed))
    return replace(state, patience={**state.patience, ref: patience}), effects


@_rule.register
def _interrupted(event: Interrupted, state: State) -> Result:
    since = state.looked_at.get(event.ref)
    return (state if since is None else _mark_again(state, event.ref, since)), ()


def _mark(state: State, ref: ObjectRef, at: float) -> State:
    """Mark an object; the time of the first mark counts."""
    return replace(state, marked={ref: at, **state.marked})


def _forgiven(state: State) -> State:
    return replace(state, patience={ref: one.forgiven() for ref, one in state.patience.items()})


def _begin(state: State, ref: ObjectRef) -> State:
    """Take the mark off before looking: an event that comes meanwhile sets it again."""
    looked_at = {**state.looked_at, ref: state.marked[ref]}
    return replace(state, marked=_without(state.marked, ref), looked_at=looked_at)


def _end(state: State, ref: ObjectRef) -> State:
    turn = None if state.turn == ref else state.turn
    return replace(state, looked_at=_without(state.looked_at, ref), turn=turn)


def _mark_again(state: State, ref: ObjectRef, at: float) -> State:
    """End a look without success: the object stays marked, since it was first."""
    since = state.looked_at.get(ref, at)
    state = _end(state, ref)
    return replace(state, marked={**state.marked, ref: since})


def _end_well(state: State, ref: ObjectRef) -> Result:
    shown = ref in state.unrepaired
    state = replace(_end(state, ref), not_ours=state.not_ours - {ref}, unrepaired=state.unrepaired - {ref})
    if ref in state.patience:
        state = replace(state, patience={**state.patience, ref: state.patience[ref].well()})
    return state, (Hide(ref),) if shown else ()


def _record(state: State, ref: ObjectRef, at: float, role: Role, cause: str, *, exact: bool) -> Result:
    """Count a repair, and have it recorded with the cause for which it was begun."""
    patience = _patience(state, ref, at).repaired(at, _longest_wait(state, ref, role))
    done = Record(ref, state.owed.get(ref, cause), exact, patience.count, at - state.looked_at.get(ref, at))
    patiences = {**state.patience, ref: patience}
    return replace(state, patience=patiences, owed=_without(state.owed, ref)), (done,)


def _patience(state: State, ref: ObjectRef, now: float) -> Patience:
    return state.patience.get(ref, Patience()).rested(now)


def _is_due(state: State, ref: ObjectRef, now: float) -> bool:
    return _patience(state, ref, now).not_before <= now


def _follows(state: State, ref: ObjectRef, role: Role) -> bool:
    """Whether it comes after the ground: an object of the release; a policy of a stranger goes at once."""
    return role is Role.OBJECT and ref not in state.strangers


def _longest_wait(state: State, ref: ObjectRef, role: Role) -> float:
    return LONGEST_WAIT if _follows(state, ref, role) else LONGEST_GROUND_WAIT


def _rank(state: State, ref: ObjectRef, roles: Roles) -> tuple[bool, int, ObjectRef]:
    return _follows(state, ref, roles.get(ref, Role.OBJECT)), apply_rank(ref.kind), ref


def _without(known: Mapping[ObjectRef, V], ref: ObjectRef) -> Mapping[ObjectRef, V]:
    return {other: value for other, value in known.items() if other != ref}
