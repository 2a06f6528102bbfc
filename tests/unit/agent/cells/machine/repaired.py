"""A cell whose objects are changed, refused and looked at by halves, and what must hold of its repairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.cells.machine import repairs as machine
from agent.kube.interfaces import ObjectRef
from agent.objects.model import DELETED, Role
from tests.fakes.walks import must

_PLACE = "shop--cart--dev"
NAMESPACE = ObjectRef("v1", "Namespace", "", _PLACE)
DENY = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", _PLACE, "default-deny")
BINDING = ObjectRef("rbac.authorization.k8s.io/v1", "RoleBinding", _PLACE, "cellward-cell")
SERVICE = ObjectRef("v1", "Service", _PLACE, "web")
WEB = ObjectRef("apps/v1", "Deployment", _PLACE, "web")
OPEN = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", _PLACE, "theirs")
ROLES = {
    NAMESPACE: Role.NAMESPACE, DENY: Role.ISOLATION, BINDING: Role.RIGHTS, SERVICE: Role.OBJECT, WEB: Role.OBJECT,
}  # fmt: skip
_OUTCOMES = (
    machine.Repaired, machine.StrangerRemoved, machine.Well, machine.Unwanted, machine.Failed, machine.Interrupted,
)  # fmt: skip
Step = Callable[[machine.State, machine.Event], machine.Result]


@dataclass(frozen=True)
class Look:
    """A look that goes on: whether it has the turn, and what it read when it began."""

    in_turn: bool
    read: str | None


@dataclass
class World:
    """One cell.

    Attributes:
        wrong: what of the cluster is not as released, and why.
        refused: objects whose writes are refused.
        lossy: objects of which a write comes through although it seems to fail.
        theirs: whether somebody else's namespace stands in the place of the cell's.
        carried: objects that are reported still, of a namespace that is gone.
    """

    step: Step = machine.step
    state: machine.State = field(default_factory=machine.State)
    now: float = 1000.0
    wrong: dict[ObjectRef, str] = field(default_factory=dict)
    refused: set[ObjectRef] = field(default_factory=set)
    lossy: set[ObjectRef] = field(default_factory=set)
    theirs: bool = False
    stranger: bool = False
    looks: dict[ObjectRef, Look] = field(default_factory=dict)
    carried: set[ObjectRef] = field(default_factory=set)
    owed: set[ObjectRef] = field(default_factory=set)
    shown: set[ObjectRef] = field(default_factory=set)
    failures: Counter[ObjectRef] = field(default_factory=Counter)
    reported: Counter[ObjectRef] = field(default_factory=Counter)
    touched: Counter[ObjectRef] = field(default_factory=Counter)
    unrecorded: Counter[ObjectRef] = field(default_factory=Counter)

    # -- what happens -------------------------------------------------------------------------------------------------

    def change(self, ref: ObjectRef, why: str) -> None:
        """Somebody changes or deletes an object."""
        self.wrong[ref] = why
        self._hear(machine.Gone(ref, self.now) if why == DELETED else machine.Marked(ref, self.now))

    def open_up(self) -> None:
        """Somebody makes a policy of his own in the cell."""
        self.stranger = True
        self._hear(machine.StrangerSeen(OPEN, self.now, "uid"))

    def replace_namespace(self) -> None:
        """Somebody deletes the namespace and makes another one of its name; everything in it is gone."""
        self.theirs = True
        for ref in ROLES:
            self.change(ref, DELETED)

    def forgive(self) -> None:
        """The API server is back."""
        self._hear(machine.Forgive())

    def look(self) -> None:
        """The cell has time for repairs."""
        idle, fresh = self.state.turn is None, [ref for ref in self.state.marked if self._is_fresh(ref)]
        self._hear(machine.Look(self.now, ROLES))
        for ref in self.state.marked:
            held_up = self._due(ref) <= self.now and ref not in self.looks
            must(not held_up or (ref in fresh and self.state.turn is not None), f"{ref} waits for nothing")
        turn = self.state.turn
        if turn is None:
            return
        must(not self.failures[turn], f"everything waits for {turn}, which failed before")
        if idle and self._stands_on_ground(turn):
            waiting = [ref for ref in fresh if not self._stands_on_ground(ref)]
            must(not waiting, f"V9: {turn} comes before {waiting}")

    def finish(self, number: int) -> None:
        """One of the looks comes to its end."""
        if self.looks:
            self._examine(sorted(self.looks)[number % len(self.looks)])

    def interrupt(self, number: int) -> None:
        """One of the looks is cancelled."""
        if self.looks:
            ref = sorted(self.looks)[number % len(self.looks)]
            self._hear(machine.Interrupted(ref))

    def settle(self) -> None:
        """Nothing is refused any more: everything comes back, in bounded time, and is on record once."""
        self.refused.clear()
        self.lossy.clear()
        self.theirs = False
        until, rounds = self.now + 10 * machine.LONGEST_WAIT, 0
        while self.state.marked or self.looks:
            rounds += 1
            must(rounds < 200, "it goes on for ever")
            self.look()
            for ref in sorted(self.looks):
                self._examine(ref)
            due = machine.due_at(self.state, self.now)
            self.now = max(self.now, due or 0.0)
            must(self.now < until, "it does not come to rest")
        must(not self.wrong and not self.stranger, f"left as it is: {self.wrong}")
        must(not self.shown, f"V15: still reported: {self.shown}")
        must(not +self.unrecorded, f"V13: not on record: {self.unrecorded}")

    # -- looks --------------------------------------------------------------------------------------------------------

    def _examine(self, ref: ObjectRef) -> None:
        read, role = self.looks[ref].read, ROLES.get(ref, Role.OBJECT)
        if ref in self.state.strangers:
            self._remove_stranger()
        elif ref == OPEN:
            self._over(ref)
            self._hear(machine.Unwanted(ref))
        elif read is None:
            self._over(ref)
            self._hear(machine.Well(ref, self.now, role))
        elif self.theirs and role is Role.NAMESPACE:
            self._fail(ref, machine.Failure.NOT_OURS)
        elif read == DELETED and ref == WEB and not machine.is_isolated(self.state, ROLES):
            self._fail(ref)
        else:
            self._bring_back(ref, role, read)

    def _bring_back(self, ref: ObjectRef, role: Role, cause: str) -> None:
        made = cause == DELETED
        if made and ref == WEB:
            open_ = DENY in self.wrong or self.theirs or self.stranger
            must(not open_, "V9: a workload comes back in a cell that is not isolated")
        if not self._write(ref, cause):
            return
        self.wrong.pop(ref, None)
        self._over(ref)
        if made and role is Role.NAMESPACE:
            self.carried |= self.shown
            self.failures.clear()
            self.reported.clear()
        self._hear(machine.Repaired(ref, self.now, role, cause, made=made))
        waiting = [other for other in self.state.marked if self.failures[other] and self._due(other) > self.now]
        must(role is Role.OBJECT or not waiting, f"{waiting} wait although the ground came back")

    def _remove_stranger(self) -> None:
        if not self.stranger:
            self._over(OPEN)
            self._hear(machine.StrangerRemoved(OPEN, self.now, by_us=False))
        elif self._write(OPEN, machine.STRANGER):
            self.stranger = False
            self._over(OPEN)
            self._hear(machine.StrangerRemoved(OPEN, self.now, by_us=True))

    def _write(self, ref: ObjectRef, cause: str) -> bool:
        """Write an object; return whether that came through as far as anybody knows."""
        self._hear(machine.Writing(ref, cause))
        must(ref in self.owed, f"V13: {ref} is written, and nothing would be on record of it after a kill")
        if ref in self.refused:
            self._fail(ref)
            return False
        self.unrecorded[ref] += 1
        self.touched[ref] += 1
        if ref in self.lossy and ref != OPEN:
            self.lossy.discard(ref)
            self.wrong.pop(ref, None)
            self._fail(ref)
            return False
        return True

    def _fail(self, ref: ObjectRef, failure: machine.Failure = machine.Failure.REFUSED) -> None:
        self.failures[ref] += 1
        self.touched[ref] += 1
        self._hear(machine.Failed(ref, self.now, ROLES.get(ref, Role.OBJECT), failure))
        must(self._due(ref) > self.now, f"{ref} is tried again without a pause")
        if self.failures[ref] >= 2:
            must(ref in self.shown, f"V15: {ref} cannot be repaired, and nobody is told")
            must(self.reported[ref] == 1, f"V15: on record {self.reported[ref]} times: {ref} cannot be repaired")

    def _over(self, ref: ObjectRef) -> None:
        self.failures[ref] = self.reported[ref] = 0
        self.carried.discard(ref)

    # -- the machine --------------------------------------------------------------------------------------------------

    def _hear(self, event: machine.Event) -> None:
        if isinstance(event, _OUTCOMES):
            del self.looks[event.ref]
        self.state, effects = self.step(self.state, event)
        for effect in effects:
            self._do(effect)
        for ref in (*self.wrong, *([OPEN] if self.stranger else [])):
            kept = ref in self.state.marked or ref in self.state.looked_at
            must(kept, f"V1: {ref} differs, and nobody will look at it")
        for ref in self.state.marked:
            longest = machine.LONGEST_WAIT if self._stands_on_ground(ref) else machine.LONGEST_GROUND_WAIT
            must(self._due(ref) - self.now <= longest, f"{ref} waits for longer than it may")
            if self.touched[ref] <= 5 and not self.failures[ref]:
                must(self._due(ref) <= self.now, f"{ref} waits although nobody fights")
        must(set(self.looks) <= set(self.state.looked_at), "a look is forgotten")
        turns = [ref for ref, look in self.looks.items() if look.in_turn]
        must(len(turns) <= 1 and self.state.turn in (turns or [None]), f"the turn is not that of {turns}")
        well = {ref for ref in self.shown - self.carried if not self.failures[ref]}
        must(not well, f"V15: {well} are well and reported")

    def _do(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Examine(ref, beside):
                must(ref not in self.looks, f"{ref} is looked at twice at once")
                self.looks[ref] = Look(not beside, self.wrong.get(ref))
            case machine.Owe(ref):
                self.owed.add(ref)
            case machine.Record(ref):
                must(self.unrecorded[ref] > 0, f"V13: on record, and nothing was done: {ref}")
                self.unrecorded[ref] = 0
                self.owed.discard(ref)
            case machine.Show(ref):
                self.shown.add(ref)
            case machine.Hide(ref):
                self.shown.discard(ref)
            case machine.RecordFailure(ref):
                self.reported[ref] += 1
                # A write that seemed to fail is on record as one that did.
                self.unrecorded[ref] = 0
                self.owed.discard(ref)
            case machine.CountFailure():
                pass

    def _due(self, ref: ObjectRef) -> float:
        only = machine.State(marked={ref: self.now}, patience=self.state.patience)
        due = machine.due_at(only, self.now)
        assert due is not None
        return due

    def _is_fresh(self, ref: ObjectRef) -> bool:
        return self._due(ref) <= self.now and not self.failures[ref] and ref not in self.looks

    def _stands_on_ground(self, ref: ObjectRef) -> bool:
        return ROLES.get(ref) is Role.OBJECT
