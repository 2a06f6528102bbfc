"""A hub that lies may cost an agent an epoch now and then, never one after the other."""

from __future__ import annotations

from agent.audit.patience import Patience
from tests.fakes.clock import ManualClock


def test_at_once_and_then_ever_more_rarely() -> None:
    """The first is free; a hub that never stops gets about one a day in the end, and a quiet day forgets."""
    clock = ManualClock()
    patience = Patience(clock)
    allowed = []
    for minute in range(3 * 24 * 60):
        if patience.allows():
            allowed.append(minute)
        clock.advance(60)
    assert allowed[:5] == [0, 1, 3, 7, 15]
    assert len(allowed) < 16
    clock.advance(2 * 24 * 3600)
    assert patience.allows()
    clock.advance(60)
    assert patience.allows()
