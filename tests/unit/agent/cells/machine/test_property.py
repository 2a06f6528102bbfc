"""Whatever happens to a cell, in whatever order: no invariant breaks, and it comes to rest (V1, V8, V9, V11, V13, V14).

Items, documents that are forged, denied or older, hold and quarantine by hub and by signature, a policy that goes or
changes, a full disk, an API server that is away, releases that break in the middle or never become healthy, ends that
wait; the agent is killed between any effect and its save, and newer items come there. See ``simulated``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent.cells.machine.moves import MOVES, SCENARIOS, Moves, play
from tests.unit.agent.cells.machine.simulated import DOCUMENTS, Simulated

#: Sequences of one run: a few seconds in `make test`, many in `make soak`.
EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "300"))


@pytest.mark.timeout(60 + EXAMPLES // 5)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(MOVES, max_size=25))
def test_v1_v8_v9_v11_v13_v14_whatever_happens(moves: Moves) -> None:
    """After each half of each effect, and at rest."""
    play(moves)


@pytest.mark.parametrize("moves", SCENARIOS, ids=lambda moves: " ".join(str(one[-1]) for one in moves))
def test_v1_v11_v13_v14_what_chance_finds_late(moves: Moves) -> None:
    """Sequences by hand, each once."""
    play(moves)


@pytest.mark.parametrize("first", sorted(DOCUMENTS))
@pytest.mark.parametrize("halves", range(1, 25))
def test_v1_v11_killed_at_every_half_of_a_release_and_of_the_newer_one(first: str, halves: int) -> None:
    """An interrupted release is followed by a newer one, with the restart in between."""
    cell = Simulated()
    cell.comes(cell.item("one"))
    cell.turn()
    cell.broken = True
    cell.kill_in = halves
    cell.comes(cell.item(first))
    cell.turn()
    cell.kill_in = halves
    cell.comes(cell.item("new"))
    cell.turn()
    cell.comes_to_rest()
    assert (cell.cluster.runs, cell.receipts[-1]) == ("new-release", ("new", True))
