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

LIMITS = FrontLimits(8, 6, 4, 3, silence=5.0, opening=10.0, per_owner=2, kept=2)
ALL = {"link": LINK, "enrolment": ENROLMENT, "api": API, "metrics": METRICS}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(("come", "speak", "prove", "other", "admin", "refuse", "forget", "go", "wait")),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
def test_bounds_hold_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    """Never more in all, strangers, of one address or one owner; known peers make way for known ones alone."""
    clock = ManualClock()
    lobby = Lobby(LIMITS, clock)
    inside: list[Guest] = []
    for address, step, which in steps:
        mine = [guest for guest in inside if guest.address == address]
        one = mine[which % len(mine)] if mine else None
        cut: tuple[Guest, ...] = ()
        if step == "come":
            guest, cut = lobby.admit(address)
            assert guest is not None, "known peers never fill the last place"
            assert all(other.state != "known" for other in cut)
            inside.append(guest)
        elif step == "wait":
            clock.advance(3.0)
            cut = lobby.overdue()
            assert all(guest.state != "known" for guest in cut)
        elif one is not None and step == "speak":
            lobby.spoke(one)
        elif one is not None and step in {"prove", "other", "admin"}:
            owner = {"prove": address, "other": "shared", "admin": "admin"}[step]
            cut = lobby.known(one.number, owner, kept=step == "admin")
            assert one.closed or (one.state, one.owner) == ("known", owner)
        elif one is not None and step == "refuse":
            cut = lobby.refused(one.number)
            assert one.state != "known"
        elif step == "forget":
            cut = lobby.forget(address)
            assert lobby.count_owned(address) == 0
        elif one is not None:
            lobby.left(one)
        assert all(guest.closed for guest in cut)
        inside = [guest for guest in inside if not guest.closed]
        _bounded(lobby, inside)
    for guest in inside:
        lobby.left(guest)
    assert lobby.counts() == {"silent": 0, "opening": 0, "known": 0}
    assert not any((lobby._addresses, lobby._of_address, lobby._owned, lobby._known))


def _bounded(lobby: Lobby, inside: list[Guest]) -> None:
    strangers = [guest for guest in inside if guest.state != "known"]
    known = [guest for guest in inside if guest.state == "known"]
    assert len(inside) == sum(lobby.counts().values()) <= LIMITS.connections
    assert len(strangers) == lobby.count_strangers() <= LIMITS.strangers
    assert len(known) <= LIMITS.connections - 1
    assert sum(not guest.kept for guest in known) <= LIMITS.connections - LIMITS.spare(LIMITS.connections)
    for name in "abc":
        assert sum(guest.address == name for guest in inside) <= LIMITS.per_address
        assert sum(guest.address == name for guest in strangers) <= LIMITS.strangers_per_address
    for owner in ("a", "b", "c", "shared", "admin"):
        owned = sum(guest.owner == owner for guest in known)
        assert owned == lobby.count_owned(owner) <= LIMITS.per_owner


def _come(lobby: Lobby, address: str, owner: str, *, kept: bool = False) -> tuple[Guest, tuple[Guest, ...]]:
    """Come in, speak, and prove to be an owner: the guest, and whoever was cut for it."""
    guest, cut = lobby.admit(address)
    assert guest is not None
    lobby.spoke(guest)
    return guest, (*cut, *lobby.known(guest.number, owner, kept=kept))


def test_v16_an_owner_makes_way_for_itself_alone() -> None:
    """V16: what an owner used longest ago goes for its newest; nobody else's does."""
    lobby = Lobby(FrontLimits(100, 100, 20, 20, per_owner=3), ManualClock())
    other, _ = _come(lobby, "a", "other")
    first, second, _third = (_come(lobby, "a", "thief")[0] for _ in range(3))
    lobby.known(first.number, "thief")
    assert _come(lobby, "a", "thief")[1] == (second,)
    assert (lobby.count_owned("thief"), other.closed) == (3, False)
    assert lobby.dropped == {"owner-displaced": 1}


def test_v16_many_owners_keep_no_admin_and_no_newcomer_out() -> None:
    """V16: with every place taken that ordinary owners may have, admins come in, up to the last places to prove it."""
    lobby = Lobby(FrontLimits(64, 64, 20, 20, per_owner=4, kept=8), ManualClock())
    for number in range(100):
        _come(lobby, "a", f"owner-{number}")
    assert lobby.counts()["known"] == 56
    admins = [_come(lobby, "a", f"admin-{number}", kept=True)[0] for number in range(8)]
    assert not any(guest.closed for guest in admins)
    assert lobby.counts()["known"] == 60
    # Who has one, where nobody has more, makes way for no other: the newest one goes itself.
    guest, cut = _come(lobby, "a", "late")
    assert cut == (guest,)


def test_v16_who_has_most_makes_way() -> None:
    """V16: one that took as many as it may gives one to a newcomer that has none."""
    lobby = Lobby(FrontLimits(64, 64, 20, 20, per_owner=40, kept=8), ManualClock())
    greedy = [_come(lobby, "a", "greedy")[0] for _ in range(40)]
    for number in range(20):
        _come(lobby, "a", f"owner-{number}")
    assert [guest.closed for guest in greedy] == [True] * 4 + [False] * 36
    assert all(lobby.count_owned(f"owner-{number}") == 1 for number in range(20))


def test_v4_a_refused_peer_is_a_stranger_again() -> None:
    """V4: its place is given back, and it has a stranger's time and no more."""
    clock = ManualClock()
    lobby = Lobby(LIMITS, clock)
    guest, _ = _come(lobby, "a", "ada")
    clock.advance(60.0)
    assert lobby.overdue() == ()
    lobby.refused(guest.number)
    assert lobby.counts() == {"silent": 0, "opening": 1, "known": 0}
    clock.advance(LIMITS.opening)
    assert lobby.overdue() == (guest,)


def test_v4_everything_of_a_forgotten_owner_goes() -> None:
    """V4: except the connection that is spared."""
    lobby = Lobby(FrontLimits(64, 64, 20, 20), ManualClock())
    mine = [_come(lobby, "a", "ada")[0] for _ in range(3)]
    other, _ = _come(lobby, "a", "bob")
    assert lobby.forget("ada", but=mine[1].number) == (mine[0], mine[2])
    assert lobby.counts()["known"] == 2
    assert not other.closed


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
