"""What the hub lists to an agent, in any order, with crashes and full disks between any two effects (V13, V14, V16)."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.link import listed as machine
from agent.link.listed import Bounds, Event, Result, State
from tests.fakes.walks import Move, check_found, drawn, violated, walks
from tests.unit.agent.link.listed.world import CELLS, STATES, Step, World, key_of

EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "400"))

_CELL = st.sampled_from(CELLS)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 6)),
        st.tuples(st.just("say"), st.integers(1, 6)),
        st.tuples(st.just("put"), _CELL, st.integers(1, 2), st.sampled_from(STATES)),
        st.tuples(st.just("put"), _CELL, st.integers(1, 2), st.sampled_from(STATES)),
        st.tuples(st.just("unusable"), _CELL),
        st.tuples(st.just("drop"), _CELL),
        st.tuples(st.just("restore"), st.integers(0, 3)),
        st.just(("connect",)),
        st.just(("break",)),
        st.just(("again",)),
        st.just(("late",)),
        st.just(("lagging",)),
        st.tuples(st.just("disk"), st.booleans()),
        st.tuples(st.just("engine"), st.booleans()),
        st.tuples(st.just("running"), _CELL, st.booleans()),
        st.tuples(st.just("kill"), st.integers(0, 12)),
        st.just(("wait",)),
        st.just(("all",)),
    ),
    max_size=40,
)


#: A full listing of which something could not be kept, over a durable revision of before it was asked for.
GAP: list[Move] = [
    ("put", "a", 2, "quarantine"), ("connect",), ("say", 6), ("lagging",), ("disk", True), ("again",), ("connect",),
    ("say", 6),
]  # fmt: skip
#: What gave up its place although it is named is named once more when there is room.
MADE_ROOM: list[Move] = [
    ("put", "a", 1, "quarantine"), ("connect",), ("put", "b", 1, "quarantine"), ("put", "d", 2, "hold"),
    ("put", "c", 1, "run"), ("put", "b", 2, "run"), ("say", 6), ("drop", "c"),
]  # fmt: skip


def play(moves: list[Move], step: Step = machine.step) -> World:
    """Do all of it, then leave it alone; raises Violation."""
    world = World(step)
    for move in moves:
        _move(world, move)
    world.settle()
    return world


def _move(world: World, move: Move) -> None:  # noqa: C901, PLR0912 - one line for each thing that may happen
    match move:
        case ("say", count):
            for _ in range(count):
                if world.sessions:
                    world.say(world.sessions[-1])
        case ("put", cell, digest, state):
            world.put(cell, digest, state)
            for session in world.sessions[-1:]:
                rows = [frame for frame in session.waiting if not isinstance(frame, int)]
                session.waiting = [*rows, world.rows[key_of(cell)], world.hub_revision]
        case ("unusable", cell):
            world.put(cell, 1, "run", usable=False)
        case ("drop", cell):
            world.drop(cell)
        case ("restore", keep):
            world.restore(keep)
            world.sessions, world.reconnect = [], True
        case ("connect",):
            world.connect()
        case ("break",):
            world.sessions, world.reconnect = [], True
        case ("again",) if world.sessions and world.sessions[-1].last is not None and not world.sessions[-1].waiting:
            world.frame(world.sessions[-1], world.sessions[-1].last)
        case ("late",) if len(world.sessions) > 1 and world.sessions[0].welcomed:
            world.say(world.sessions[0])
        case ("lagging",) if world.sessions and world.sessions[-1].welcomed and world.rows:
            # A replica that lags names what was before.
            row = next(iter(world.rows.values()))
            old = replace(row.item, revision=row.item.revision - 1, hub_state="run")
            world.frame(world.sessions[-1], replace(row, item=old))
        case ("disk", full):
            world.disk_full = full
        case ("engine", fails):
            world.engine_fails = fails
        case ("running", cell, runs):
            (world.running.add if runs else world.running.discard)(key_of(cell))
        case ("kill", effects):
            world.fuse = effects
        case ("wait",):
            world.wait()
        case ("all",):
            world.want_all()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(MOVES)
@example(GAP)
@example(MADE_ROOM)
@pytest.mark.timeout(0 if EXAMPLES > 400 else 60)
def test_v13_v14_v16_whatever_a_hub_lists(moves: list[Move]) -> None:
    """Each effect is judged as it is carried out; left alone, both sides agree after a few sessions."""
    play(moves)


# -- broken variants ---------------------------------------------------------------------------------------------------


def _instead(kind: type[Event], rule: Callable[[State, Any, Bounds], Result]) -> Step:
    def step(state: State, event: Event, bounds: Bounds) -> Result:
        return rule(state, event, bounds) if isinstance(event, kind) else machine.step(state, event, bounds)

    return step


def _as_if(kind: Any, **changed: Any) -> Step:
    """A rule that is blind to part of the state; what it did not touch of that is as it was."""

    def rule(state: State, event: Any, bounds: Bounds) -> Result:
        blind = {name: value for name, value in changed.items() if getattr(state, name) != value}
        after, effects = machine.step(replace(state, **blind), event, bounds)
        untouched = {name: getattr(state, name) for name, value in blind.items() if getattr(after, name) == value}
        return replace(after, **untouched), effects

    return _instead(kind, rule)


def _forgets(kind: Any, **kept: Any) -> Step:
    """A rule after which part of the state has always the same value."""

    def rule(state: State, event: Any, bounds: Bounds) -> Result:
        after, effects = machine.step(state, event, bounds)
        return replace(after, **kept), effects

    return _instead(kind, rule)


def _leaves(kind: Any, *names: str) -> Step:
    """A rule that does not change part of the state."""

    def rule(state: State, event: Any, bounds: Bounds) -> Result:
        after, effects = machine.step(state, event, bounds)
        return replace(after, **{name: getattr(state, name) for name in names}), effects

    return _instead(kind, rule)


def _effects(kind: Any, change: Callable[[tuple[machine.Effect, ...], Any], tuple[machine.Effect, ...]]) -> Step:
    """A rule with other effects."""

    def rule(state: State, event: Any, bounds: Bounds) -> Result:
        after, effects = machine.step(state, event, bounds)
        return after, change(effects, event)

    return _instead(kind, rule)


def _roomy(**bounds: int) -> Step:
    return lambda state, event, known: machine.step(state, event, replace(known, **bounds))


def _heard_as_newest(state: State, event: Any, bounds: Bounds) -> Result:
    number = state.heard.number if state.heard is not None else event.session
    return machine.step(state, replace(event, session=number), bounds)


def _as_a_full_listing(state: State, event: machine.Marked, bounds: Bounds) -> Result:
    heard = None if state.heard is None else replace(state.heard, asked=0)
    return machine.step(replace(state, heard=heard, full_resync=True), event, bounds)


def _named_nothing(state: State, event: machine.Marked, bounds: Bounds) -> Result:
    heard = None if state.heard is None else replace(state.heard, listed=frozenset())
    return machine.step(replace(state, heard=heard), event, bounds)


def _without(effects: tuple[machine.Effect, ...], kind: Any) -> tuple[machine.Effect, ...]:
    return tuple(effect for effect in effects if not isinstance(effect, kind))


BROKEN: dict[str, Step] = {
    "acted on before it is durable": _effects(
        machine.Named, lambda found, event: (machine.HandOn(event.item), *found) if found else found
    ),
    "begun on a full disk": _effects(
        machine.NotKept, lambda found, event: (*found, machine.HandOn(event.item)) if event.item else found
    ),
    "narrowing waits for a disk": _effects(machine.NotKept, lambda found, _: _without(found, machine.HandOn)),
    "an item is never handed on": _effects(machine.Kept, lambda found, _: _without(found, machine.HandOn)),
    "an old session is listened to": _instead(machine.Named, _heard_as_newest),
    "an old session's mark counts": _instead(machine.Marked, _heard_as_newest),
    "an older revision replaces": _as_if(machine.Named, taken={}),
    "what was taken is not remembered": _leaves(machine.Kept, "taken"),
    "numbers of another hub count": _leaves(machine.Welcomed, "taken"),
    "a mark counts although something was missed": _as_if(machine.Marked, missed=False),
    "a mark counts although all is due": _as_if(machine.Marked, all_due=False),
    "what was not kept is not missed": _leaves(machine.NotKept, "missed"),
    "what cannot be kept is not tried again": _effects(
        machine.NotKept, lambda found, _: _without(found, machine.ComeBack)
    ),
    "a full listing with a gap counts": _leaves(machine.NotKept, "all_due"),
    "what was missed is missed for ever": _leaves(machine.SpaceMayBe, "missed"),
    "each failure has a timer": _effects(machine.NotKept, lambda found, _: (*found, machine.ComeBack())),
    "withdrawn without a full listing": _instead(machine.Marked, _as_a_full_listing),
    "withdrawn although it is named": _instead(machine.Marked, _named_nothing),
    "asks for everything for ever": _forgets(machine.Marked, full_resync=False),
    "everything is due for ever": _leaves(machine.Welcomed, "all_due"),
    "asking for everything is forgotten": _leaves(machine.AllWanted, "all_due"),
    "differences are not asked about": _as_if(machine.Marked, full_resync=True),
    "room without an end": _roomy(items=99),
    "unusable items without an end": lambda state, event, bounds: machine.step(
        state, event, replace(bounds, unusable=99)
    ),
    "what found no room is forgotten": _leaves(machine.RoomMade, "left_out"),
    "what is durable is not known": _leaves(machine.Kept, "held"),
    "what is on the disk is not read": _leaves(machine.Durable, "held"),
    "what was withdrawn is held": _leaves(machine.Withdrawn, "held"),
}


def _walk(rng: random.Random) -> list[Move]:
    """Some of all that may happen; what leads far more often than what begins anew."""
    cell, state = lambda: rng.choice(CELLS), lambda: rng.choice(STATES)
    kinds: list[tuple[int, Callable[[], Move]]] = [
        (8, lambda: ("say", rng.randint(1, 6))),
        (6, lambda: ("put", cell(), rng.randint(1, 2), state())),
        (3, lambda: ("connect",)),
        (3, lambda: ("late",)),
        (2, lambda: ("unusable", cell())),
        (2, lambda: ("lagging",)),
        (2, lambda: ("disk", rng.random() < 0.4)),
        (2, lambda: ("running", cell(), rng.random() < 0.5)),
        (1, lambda: ("restore", rng.randint(0, 3))),
        (1, lambda: ("drop", cell())),
        (1, lambda: ("again",)),
        (1, lambda: ("engine", rng.random() < 0.4)),
        (1, lambda: ("kill", rng.randint(0, 12))),
        (1, lambda: ("wait",)),
        (1, lambda: ("all",)),
    ]
    return drawn(rng, kinds, 40)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str) -> None:
    """Each invariant has a variant of the rules that breaks it; the rules as they are hold on the same walk."""
    check_found(
        play, violated(lambda moves: play(moves, BROKEN[name]), itertools.chain((GAP, MADE_ROOM), walks(_walk))), name
    )
