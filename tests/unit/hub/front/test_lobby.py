"""Who is let in at a listener, and who has to go: the bounds, and that whoever comes to speak gets in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cellward.runtime.health import HealthRegistry
from hub.front.limits import API, COST, ENROLMENT, LINK, METRICS, RESERVED, FrontLimits, shared
from hub.front.lobby import Guest, Lobby
from hub.front.watch import Fronts, limits_of
from hub.settings import ConnectionSettings
from tests.fakes.clock import ManualClock

LIMITS = FrontLimits(8, 6, 4, 3, silence=5.0, opening=10.0)
ALL = {"link": LINK, "enrolment": ENROLMENT, "api": API, "metrics": METRICS}


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("come", "speak", "prove", "go", "wait"))), max_size=60)
)
def test_bounds_hold_whatever_happens(steps: list[tuple[str, str]]) -> None:
    """Never more in all, strangers, or of one address; a known peer stays until it goes; counts never go astray."""
    clock = ManualClock()
    lobby = Lobby(LIMITS, clock)
    inside: list[Guest] = []
    for address, step in steps:
        mine = [guest for guest in inside if guest.address == address]
        if step == "come":
            guest, cut = lobby.admit(address)
            assert all(other.state != "known" for other in cut)
            inside = [other for other in inside if other not in cut] + ([guest] if guest is not None else [])
            room = sum(other.state != "known" for other in inside)
            assert (
                guest is not None or room == 0 or len(mine) >= LIMITS.per_address or len(inside) >= LIMITS.connections
            )
        elif step == "wait":
            clock.advance(3.0)
            late = lobby.overdue()
            assert all(guest.state != "known" for guest in late)
            inside = [guest for guest in inside if guest not in late]
        elif mine and step == "speak":
            lobby.spoke(mine[0])
        elif mine and step == "prove":
            lobby.known(mine[0].number)
        elif mine:
            lobby.left(mine[0])
            inside.remove(mine[0])
        strangers = [guest for guest in inside if guest.state != "known"]
        assert len(inside) == sum(lobby.counts().values()) <= LIMITS.connections
        assert len(strangers) == lobby.count_strangers() <= LIMITS.strangers
        for name in "abc":
            assert sum(guest.address == name for guest in inside) <= LIMITS.per_address
            assert sum(guest.address == name for guest in strangers) <= LIMITS.strangers_per_address
    for guest in inside:
        lobby.left(guest)
    assert lobby.counts() == {"silent": 0, "opening": 0, "known": 0}
    assert not lobby._addresses
    assert not lobby._of_address


def test_a_newcomer_displaces_who_is_silent_longest_of_its_own_address() -> None:
    """One address that is full pushes out its own, never somebody else's."""
    lobby = Lobby(FrontLimits(100, 100, 100, 2), ManualClock())
    first, _ = lobby.admit("a")
    other, _ = lobby.admit("b")
    second, _ = lobby.admit("a")
    assert first is not None
    assert second is not None
    lobby.spoke(first)
    third, cut = lobby.admit("a")
    assert (third is not None, cut) == (True, (second,))
    assert other is not None
    assert not other.closed


def test_defaults_are_what_the_settings_say_and_fit_the_descriptors_wanted() -> None:
    """The limits without any settings are those documented, and 65,536 files are enough for all of them."""
    assert limits_of(ConnectionSettings().model_dump()) == ALL
    assert shared(ALL, 65_536) == ALL


@given(st.integers(0, 70_000))
def test_descriptors_are_shared_so_that_some_are_left(descriptors: int) -> None:
    """Whatever the process may open, the listeners together leave what is reserved, and the link has most of it."""
    found = shared(ALL, descriptors)
    wanted = sum(COST[name] * limit.connections for name, limit in found.items())
    if descriptors >= RESERVED + 512:
        assert wanted <= descriptors - RESERVED
        assert COST["link"] * found["link"].connections >= wanted / 2
    for limit in found.values():
        assert 0 < limit.strangers_per_address <= limit.strangers <= limit.connections


def test_few_descriptors_and_dropped_connections_are_a_condition() -> None:
    """A red line while connections are dropped, and for as long as the process may open too few files."""

    class Quiet:
        lobby = Lobby(LIMITS, ManualClock())

    clock = ManualClock()
    health = HealthRegistry(clock)
    for files, code in ((65_536, ""), (1_024, "hub/few-descriptors")):
        fronts = Fronts(ConnectionSettings().model_dump(), files, clock, health)
        fronts.add("api", Quiet)  # type: ignore[arg-type]
        fronts.look()
        clock.advance(61.0)
        fronts.look()
        assert [(one.ok, one.code) for one in health.get()] == [(not code, code)]
    Quiet.lobby.dropped["full"] += 3
    fronts.look()
    assert health.get()[0].code == "hub/connections-dropped"
    assert "3 connections to api" in health.get()[0].message
    assert "cellward_hub_connections_dropped" in {metric.name for metric in fronts.collect()}
