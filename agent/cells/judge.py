"""Whether what was rolled out became what was wanted in its time, judged only on what was really seen.

Time counts on the monotonic clock and only while the cluster is in view: neither an agent that was down, nor an API
server that was, nor a step of the wall clock makes a release fail. The start of an agent gives it its time anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.cells.cell import Cell
from agent.cells.parts import Parts
from agent.objects.model import Phase
from cellward.runtime.backoff import FullJitter

#: How long to wait for what was not seen yet once everything else is decided, seconds.
_LOOK_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ready`` or, with the reason, failed."""

    ready: bool
    reason: str = ""


class Judge:
    """Judges the rollout of one cell."""

    def __init__(self, parts: Parts, cell: Cell) -> None:
        self._parts = parts
        self._cell = cell
        #: Which rollout is timed, and the time in view at which that began.
        self._about: tuple[object, ...] = ()
        self._since = 0.0
        self._not_before = 0.0
        self._backoff = FullJitter(0.5, 30.0)

    def due_at(self) -> float | None:
        """Return the monotonic time at which there is something to judge, None while only an event can tell."""
        watched = self._watched()
        if watched is None:
            return None
        now = self._parts.timer.monotonic()
        if self._not_before > now:
            return self._not_before
        return now + max(0.0, self._cell.record.deadline_seconds - watched)

    def verdict(self) -> Verdict | None:
        """Return the outcome of the rollout, None while it is open or nobody can tell."""
        cell, now, watched = self._cell, self._parts.timer.monotonic(), self._watched()
        if watched is None or now < self._not_before:
            return None
        over = watched >= cell.record.deadline_seconds
        if not cell.record.settled:
            why = "; ".join(one.reason for one in cell.complaints[:3])
            return Verdict(ready=False, reason=f"not applied in time: {why}") if over else None
        unhealthy = cell.unhealthy()
        if not unhealthy:
            self._backoff.reset()
            return Verdict(ready=True)
        if not over and not cell.has_failed():
            return None
        if cell.unseen():
            self._not_before = now + _LOOK_AGAIN
            return None
        return Verdict(ready=False, reason=f"not healthy: {'; '.join(unhealthy[:5])}")

    def postpone(self, seconds: float | None = None) -> None:
        """Judge again later: what the verdict asked for did not come through."""
        delay = self._backoff.next() if seconds is None else seconds
        self._not_before = self._parts.timer.monotonic() + delay

    def _watched(self) -> float | None:
        """Return for how many seconds this rollout was in view, None while nothing may be judged.

        What is applied in the end has its whole time to become healthy. Under quarantine nothing becomes healthy, and
        narrowing must not lead back to older content (§2); what the hub holds in the middle is not late.
        """
        record = self._cell.record
        withheld = record.quarantined or (self._cell.blocked is Phase.HELD and not record.settled)
        about = (record.deployment_digest, record.release_digest, record.rollout_started, record.settled, withheld)
        view = self._parts.view()
        if view is None or withheld or record.ending or not record.rollout_started:
            self._about = about if about == self._about else ()
            return None
        if about != self._about:
            self._about, self._since = about, view
        return view - self._since
