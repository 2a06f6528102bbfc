"""What may happen to a simulated cell, and how often; shared by the property and by its mutants."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.unit.agent.cells.machine.simulated import DOCUMENTS, Simulated

_DIGESTS = st.sampled_from(sorted(DOCUMENTS))
_STATES = st.sampled_from(["run", "run", "run", "hold", "quarantine"])
_FAULTS = ("full", "down", "hubless", "broken", "crowded", "used_up", "callee_away")

#: One move: its name and what it is about.
MOVES = st.one_of(
    st.tuples(st.just("item"), _DIGESTS, _STATES),
    st.tuples(st.just("item in a step"), _DIGESTS, _STATES, st.integers(1, 12)),
    st.tuples(st.just("fault"), st.sampled_from(_FAULTS), st.booleans()),
    st.tuples(st.just("policy"), st.sampled_from([None, 1, 2])),
    st.tuples(st.just("signed"), st.sampled_from(["", "it is signed"])),
    st.tuples(st.just("time"), st.sampled_from([0.5, 5.0, 40.0, 200.0])),
    st.tuples(st.just("kill"), st.integers(1, 14)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("gone")),
)

Moves = list[tuple[object, ...]]

#: What chance finds late.
SCENARIOS: tuple[Moves, ...] = (
    [("fault", "callee_away", True), ("item", "one", "run"), ("restart",), ("fault", "full", True), ("time", 5.0)],
    [("fault", "crowded", True), ("item", "small", "run"), ("restart",), ("time", 5.0), ("fault", "crowded", False)],
    [("fault", "used_up", True), ("item", "greedy", "run"), ("time", 5.0), ("fault", "used_up", False)],
    [("item", "job", "run"), ("fault", "full", True), ("time", 5.0), ("restart",), ("item", "small", "hold")],
    [("fault", "broken", True), ("item", "half", "run"), ("fault", "crowded", True), ("item", "small", "run")],
    [("fault", "broken", True), ("item", "half", "run"), ("item", "bad", "run"), ("restart",)],
    [("fault", "broken", True), ("item", "half", "run"), ("item", "new", "run"), ("kill", 9), ("time", 40.0)],
    [("fault", "full", True), ("item", "bad", "run"), ("time", 0.5), ("fault", "full", False)],
    [("item", "one", "run"), ("fault", "full", True), ("item", "one", "quarantine"), ("restart",)],
    [("item", "ill", "run"), ("fault", "full", True), ("time", 200.0), ("item", "ill", "run")],
    [("item", "one", "run"), ("item", "end", "run"), ("time", 5.0), ("restart",), ("gone",)],
    [("item", "one", "run"), ("signed", "it is signed"), ("restart",), ("signed", "")],
    [("item", "one", "run"), ("item", "back", "run"), ("time", 200.0), ("item", "bad", "run"), ("restart",)],
    [("fault", "hubless", True), ("item", "two", "run"), ("fault", "down", True), ("fault", "hubless", False)],
    [("item", "one", "run"), ("item in a step", "two", "quarantine", 11), ("item", "two", "run")],
)


def play(moves: Moves) -> Simulated:
    """Make moves, each followed by a turn, and let it come to rest."""
    cell = Simulated()
    for move in moves:
        _make(cell, move)
        cell.turn()
    cell.comes_to_rest()
    return cell


def _make(cell: Simulated, move: tuple[object, ...]) -> None:
    match move:
        case ("item", str(digest), str(state)):
            cell.comes(cell.item(digest, state))  # type: ignore[arg-type]
        case ("item in a step", str(digest), str(state), int(halves)):
            cell.coming, cell.comes_in = cell.item(digest, state), halves  # type: ignore[arg-type]
        case ("fault", str(name), bool(on)):
            _fault(cell, name, on=on)
        case ("policy", version):
            cell.policy = version  # type: ignore[assignment]
            cell.reconsider()
        case ("signed", str(why)):
            cell.signed = why
            cell.reconsider()
        case ("time", float(seconds)):
            cell.passes(seconds)
        case ("kill", int(halves)):
            cell.kill_in = halves
        case ("restart",):
            cell._forget()
        case ("gone",):
            cell.gone()


def _fault(cell: Simulated, name: str, *, on: bool) -> None:
    setattr(cell, name, on)
    if name == "down":
        cell.reconsider()  # the watches tell that it is back; nobody tells of the others
