"""Repairs: any changes, refusals and interruptions in any order (V1, V9, V13, V15); and what a broken rule would do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.cells.machine import repairs as machine
from agent.objects.model import DELETED, Role
from tests.fakes.walks import Move, check_found, drawn, violated, walks
from tests.unit.agent.cells.machine.repaired import OPEN, ROLES, Step, World

EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "300"))
Patch = pytest.MonkeyPatch

_REFS = sorted(ROLES)
_CAUSES = ("image changed", DELETED)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(_REFS), st.sampled_from(_CAUSES)),
        st.tuples(st.just("refuse"), st.sampled_from([*_REFS, OPEN]), st.booleans()),
        st.tuples(st.just("lossy"), st.sampled_from(_REFS)),
        st.tuples(st.sampled_from(("finish", "interrupt")), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.sampled_from((0.05, 0.5, 5.0, 70.0, 200.0))),
        st.sampled_from((("look",), ("round",), ("open",), ("replace",), ("give back",), ("forgive",))),
    ),
    max_size=40,
)


def play(moves: list[Move], step: Step = machine.step) -> None:
    """Do all of it, then let everything be repaired; raises Violation."""
    world = World(step)
    for move in moves:
        _move(world, move)
    world.settle()


def _move(world: World, move: Move) -> None:  # noqa: C901, PLR0912 - one line for each thing that may happen
    match move:
        case ("change", ref, why):
            world.change(ref, why)
        case ("refuse", ref, refused):
            (world.refused.add if refused else world.refused.discard)(ref)
        case ("lossy", ref):
            world.lossy.add(ref)
        case ("finish", number):
            world.finish(number)
        case ("interrupt", number):
            world.interrupt(number)
        case ("pass", seconds):
            world.now += seconds
        case ("look",):
            world.look()
        case ("round",):
            world.look()
            for _ in range(len(world.looks)):
                world.finish(0)
            world.now += 5.0
        case ("open",):
            world.open_up()
        case ("replace",):
            world.replace_namespace()
        case ("give back",):
            world.theirs = False
        case ("forgive",):
            world.forgive()


@pytest.mark.timeout(60 + EXAMPLES // 20)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(MOVES)
def test_v1_v9_v13_v15_whatever_happens(moves: list[Move]) -> None:
    """After each event, and at rest."""
    play(moves)


# -- broken variants --------------------------------------------------------------------------------------------------


def _on(kind: type, change: Callable[[machine.State, Any], machine.Result]) -> Step:
    """Another rule for one event."""
    return lambda state, event: change(state, event) if isinstance(event, kind) else machine.step(state, event)


def _effects(change: Callable[[machine.Effect], tuple[machine.Effect, ...]]) -> Step:
    def step(state: machine.State, event: machine.Event) -> machine.Result:
        after, effects = machine.step(state, event)
        return after, tuple(other for effect in effects for other in change(effect))

    return step


def _without(*kinds: type) -> Step:
    return _effects(lambda effect: () if isinstance(effect, kinds) else (effect,))


def _keeps(kind: type, name: str) -> Step:
    """An event leaves a field as it is."""

    def change(state: machine.State, event: Any) -> machine.Result:
        after, effects = machine.step(state, event)
        return replace(after, **{name: getattr(state, name)}), effects

    return _on(kind, change)


def _marks_once(state: machine.State, event: machine.Marked) -> machine.Result:
    return (state, ()) if event.ref in state.looked_at else machine.step(state, event)


def _never_failed(state: machine.State, event: machine.Look) -> machine.Result:
    patience = {ref: replace(one, failed=0) for ref, one in state.patience.items()}
    after, effects = machine.step(replace(state, patience=patience), event)
    return replace(after, patience=state.patience), effects


def _again_at_once(state: machine.State, event: machine.Failed) -> machine.Result:
    after, effects = machine.step(state, event)
    patience = {ref: replace(one, not_before=0.0) for ref, one in after.patience.items()}
    return replace(after, patience=patience), effects


def _as_object(state: machine.State, event: machine.Failed) -> machine.Result:
    """The ground has as much time as anything else, and a stranger's policy too."""
    after, effects = machine.step(replace(state, strangers={}), replace(event, role=Role.OBJECT))
    return replace(after, strangers=state.strangers), effects


def _reports_each_time(state: machine.State, event: machine.Failed) -> machine.Result:
    patience = {ref: replace(one, reported=False) for ref, one in state.patience.items()}
    return machine.step(replace(state, patience=patience), event)


def _forgets(state: machine.State, event: machine.Look) -> machine.Result:
    after, effects = machine.step(replace(state, looked_at={}), event)
    return replace(after, looked_at={**state.looked_at, **after.looked_at}), effects


def _tries_one_again(state: machine.State, event: machine.Look) -> machine.Result:
    """Of those that failed one is tried at a time."""
    if len(state.looked_at) > (state.turn is not None):
        return state, ()
    return machine.step(state, event)


BROKEN: dict[str, Step] = {
    "a mark during a look is lost": _on(machine.Marked, _marks_once),
    "an interrupted look loses its mark": _keeps(machine.Interrupted, "marked"),
    "a failure loses its mark": _keeps(machine.Failed, "marked"),
    "what failed is tried in turn": _on(machine.Look, _never_failed),
    "what failed waits for another that failed": _on(machine.Look, _tries_one_again),
    "an object is looked at twice at once": _on(machine.Look, _forgets),
    "the turn is not given back": _keeps(machine.Well, "turn"),
    "a namespace that is not ours is none of our business": _keeps(machine.Failed, "not_ours"),
    "a policy of a stranger is not remembered": _keeps(machine.StrangerSeen, "strangers"),
    "the ground waits as long as anything": _on(machine.Failed, _as_object),
    "what is refused is tried again at once": _on(machine.Failed, _again_at_once),
    "other ground forgives nothing": _keeps(machine.Repaired, "patience"),
    "a write is not owed to the record": _without(machine.Owe),
    "a repair is not recorded": _without(machine.Record),
    "a repair is recorded twice": _keeps(machine.Repaired, "owed"),
    "a write that came through after all is not recorded": _on(
        machine.Well, lambda state, event: machine.step(replace(state, owed={}), event)
    ),
    "a failure is never reported": _without(machine.Show, machine.RecordFailure),
    "a failure is recorded each time": _on(machine.Failed, _reports_each_time),
    "what is well stays reported": _without(machine.Hide),
}


def _doubtless(patch: Patch) -> None:
    """What is looked at is not in doubt."""
    honest = machine.is_isolated
    patch.setattr(machine, "is_isolated", lambda state, roles: honest(replace(state, looked_at={}), roles))


def _upside_down(patch: Patch) -> None:
    """What stands on the ground comes first."""
    honest = machine._rank
    patch.setattr(machine, "_rank", lambda state, ref, roles: (not honest(state, ref, roles)[0], 0, ref))


PATCHED = {"isolation is in doubt until it is looked at": _doubtless, "what stands on the ground first": _upside_down}


def _walk(rng: random.Random) -> list[Move]:
    kinds: list[tuple[int, Callable[[], Move]]] = [
        (6, lambda: ("look",)),
        (6, lambda: ("finish", rng.randint(0, 5))),
        (4, lambda: ("change", rng.choice(_REFS), rng.choice(_CAUSES))),
        (4, lambda: ("round",)),
        (2, lambda: ("refuse", rng.choice([*_REFS, OPEN]), rng.random() < 0.8)),
        (2, lambda: ("pass", rng.choice((0.5, 5.0, 70.0)))),
        (1, lambda: ("interrupt", rng.randint(0, 5))),
        (1, lambda: ("lossy", rng.choice(_REFS))),
        (1, lambda: ("open",)),
        (1, lambda: ("replace",)),
        (1, lambda: ("give back",)),
        (1, lambda: ("forgive",)),
    ]
    return drawn(rng, kinds, 40)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str) -> None:
    """Each invariant has a variant of the rules that breaks it; the rules as they are hold on the same walk."""
    check_found(play, violated(lambda moves: play(moves, BROKEN[name]), walks(_walk)), name)


@pytest.mark.parametrize("name", PATCHED)
def test_a_broken_judgement_is_found(name: str, monkeypatch: Patch) -> None:
    """The same for what is asked of a state."""
    with monkeypatch.context() as patch:
        PATCHED[name](patch)
        found = violated(play, walks(_walk))
    check_found(play, found, name)
