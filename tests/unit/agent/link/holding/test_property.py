"""The identity of an agent: any answers in any order, crashes and full disks between any two effects (V1, V3 to V7)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.link import holding as machine
from tests.fakes.walks import Move, check_found, drawn, violated, walks
from tests.unit.agent.link.holding.world import HUBS, LIFE, Step, World

EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "400"))

_HUB = st.sampled_from(HUBS)
MOVES = st.lists(
    st.one_of(
        st.just(("due",)),
        st.just(("due",)),
        st.tuples(st.just("invite"), _HUB),
        st.tuples(st.just("restart"), st.sampled_from((HUBS[0], *HUBS))),
        st.tuples(st.just("away"), st.booleans()),
        st.tuples(st.just("locked"), st.booleans()),
        st.tuples(st.just("disk"), st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from((60, LIFE // 4, LIFE // 2, LIFE, 2 * LIFE))),
        st.tuples(st.just("kill"), st.integers(0, 8)),
        st.just(("take away",)),
        st.just(("forget",)),
    ),
    max_size=30,
)


def play(moves: list[Move], step: Step = machine.step) -> None:
    """Do all of it, then leave it alone; raises Violation."""
    world = World(step)
    for move in moves:
        _move(world, move)
    world.settle()


def _move(world: World, move: Move) -> None:  # noqa: C901 - one line for each thing that may happen
    match move:
        case ("due",):
            world.due()
        case ("invite", hub):
            world.invite(hub)
        case ("restart", hub):
            world.restart(hub)
        case ("away", away):
            world.hubs[world.installed].away = away
        case ("locked", locked):
            world.hubs[world.installed].locked = locked
        case ("disk", full):
            world.disk_full = full
        case ("pass", seconds):
            world.pass_time(seconds)
        case ("kill", effects):
            world.fuse = effects
        case ("take away",):
            world.token = ""
        case ("forget",):
            world.hubs[world.installed].forgot = True


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(MOVES)
@pytest.mark.timeout(0 if EXAMPLES > 400 else 60)
def test_v1_v4_v5_v6_v7_whatever_becomes_of_an_identity(moves: list[Move]) -> None:
    """Each effect is judged as it is carried out; with a willing hub and a token there is a channel soon."""
    play(moves)


# -- broken variants ---------------------------------------------------------------------------------------------------


def _leaves(kind: Any, *names: str) -> Step:
    """A rule that does not change part of the state."""

    def step(state: machine.State, event: machine.Event) -> machine.Result:
        after, effects = machine.step(state, event)
        return replace(after, **{name: getattr(state, name) for name in names}) if isinstance(
            event, kind
        ) else after, effects

    return step


def _effects(change: Callable[[machine.Effect], tuple[machine.Effect, ...]], kind: Any = object) -> Step:
    """Rules with other effects."""

    def step(state: machine.State, event: machine.Event) -> machine.Result:
        after, effects = machine.step(state, event)
        if not isinstance(event, kind):
            return after, effects
        return after, tuple(other for effect in effects for other in change(effect))

    return step


def _as_if(kind: Any, **changed: Any) -> Step:
    """A rule that sees another event."""

    def step(state: machine.State, event: machine.Event) -> machine.Result:
        return machine.step(state, replace(event, **changed) if isinstance(event, kind) else event)

    return step


def _without(kind: Any) -> Callable[[machine.Effect], tuple[machine.Effect, ...]]:
    return lambda effect: () if isinstance(effect, kind) else (effect,)


def _always_open(effect: machine.Effect) -> tuple[machine.Effect, ...]:
    return (machine.Install(effect.identity),) if isinstance(effect, machine.Suspend) else (effect,)


def _short(effect: machine.Effect) -> tuple[machine.Effect, ...]:
    return (machine.Wait(machine.Until.SOON),) if effect == machine.Wait(machine.Until.LONG) else (effect,)


def _nameless(effect: machine.Effect) -> tuple[machine.Effect, ...]:
    return (replace(effect, name=None),) if isinstance(effect, machine.Ask) else (effect,)


def _calls(was: machine.Call, becomes: machine.Call) -> Callable[[machine.Effect], tuple[machine.Effect, ...]]:
    def change(effect: machine.Effect) -> tuple[machine.Effect, ...]:
        asks = isinstance(effect, machine.Ask) and effect.call is was
        return (replace(effect, call=becomes),) if asks else (effect,)  # type: ignore[call-arg]  # it is an Ask then

    return change


def _asks_first(effect: machine.Effect) -> tuple[machine.Effect, ...]:
    if isinstance(effect, machine.Install):
        return machine.Ask(machine.Call.RENEW, effect.identity.name), effect
    return (effect,)


def _joins_at_once(effect: machine.Effect) -> tuple[machine.Effect, ...]:
    return (machine.Ask(machine.Call.JOIN, None),) if effect == machine.Wait(machine.Until.LONG) else (effect,)


def _homeless(state: machine.State, event: machine.Event) -> machine.Result:
    after, effects = machine.step(replace(state, named=frozenset()), event)
    return replace(after, named=state.named), effects


def _gives_up(state: machine.State, event: machine.Event) -> machine.Result:
    after, effects = machine.step(state, event)
    if isinstance(event, machine.Failed) and event.call is machine.Call.RECOVER:
        return state, (machine.Wait(machine.Until.LONG),)
    return after, effects


BROKEN: dict[str, Step] = {
    "a channel with whatever is held": _effects(_always_open),
    "an expired certificate is kept in use": _effects(_without(machine.Suspend)),
    "expired certificates are renewed": _effects(_calls(machine.Call.RECOVER, machine.Call.RENEW)),
    "certificates that live are recovered": _effects(_calls(machine.Call.RENEW, machine.Call.RECOVER)),
    "a hub that was left is still the hub": _homeless,
    "a spent token is shown again": _as_if(machine.Failed, spent=False),
    "it is forgotten which token was shown": _leaves(machine.Due, "tried"),
    "what a person must change is asked for soon": _effects(_short),
    "a failure that passes waits for a person": _as_if(machine.Failed, failure=machine.Failure.PASSES),
    "a refused recovery is the end": _gives_up,
    "a new token is not noticed while a certificate lives": _effects(
        lambda effect: () if isinstance(effect, machine.Ask) else (effect,), machine.Failed
    ),
    "a start asks the hub first": _effects(_asks_first, machine.Loaded),
    "nothing waits after an identity": _effects(_without(machine.Wait), machine.Got),
    "nothing waits after a failure": _effects(_without(machine.Wait), machine.Failed),
    "the name may change": _effects(_nameless),
    "the renewed identity is not held": _leaves(machine.Got, "identity"),
    "the renewed identity is not used": _effects(_without(machine.Install), machine.Got),
    "joins without a token": _effects(_joins_at_once, machine.Loaded),
}


def _walk(rng: random.Random) -> list[Move]:
    """Some of all that may happen; what leads far more often than what begins anew."""
    kinds: list[tuple[int, Callable[[], Move]]] = [
        (8, lambda: ("due",)),
        (3, lambda: ("invite", rng.choice((HUBS[0], *HUBS)))),
        (2, lambda: ("pass", rng.choice((60, LIFE // 2, LIFE, 2 * LIFE)))),
        (2, lambda: ("away", rng.random() < 0.4)),
        (2, lambda: ("locked", rng.random() < 0.4)),
        (1, lambda: ("disk", rng.random() < 0.4)),
        (1, lambda: ("restart", rng.choice((HUBS[0], *HUBS)))),
        (1, lambda: ("kill", rng.randint(0, 8))),
        (1, lambda: ("take away",)),
        (1, lambda: ("forget",)),
    ]
    return drawn(rng, kinds, 30)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str) -> None:
    """Each invariant has a variant of the rules that breaks it; the rules as they are hold on the same walk."""
    check_found(play, violated(lambda moves: play(moves, BROKEN[name]), walks(_walk)), name)
