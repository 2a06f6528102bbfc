"""Where a cell stands, from its life and nothing else: one function for the stage, one for the phase."""

from __future__ import annotations

from enum import StrEnum

from agent.cells.machine.events import Outlook
from agent.cells.machine.state import Hold, Life, Stage


class Phase(StrEnum):
    """Where a cell stands, as the hub and ``status`` show it."""

    VERIFYING = "verifying"
    REFUSED = "refused"
    APPLYING = "applying"
    PROGRESSING = "progressing"
    READY = "ready"
    DEGRADED = "degraded"
    REMOVED = "removed"
    HELD = "held"


def stage_of(life: Life) -> Stage:
    """Return what is being done, or in what the cell rests."""
    kept = life.kept
    if life.work is not None:
        return life.work.stage
    if kept.ending:
        return Stage.ENDED if kept.applied else Stage.ENDING
    if not kept.deployment or (life.obstacle is not None and life.obstacle.waiting):
        return Stage.WAITING
    if not kept.applied:
        return Stage.APPLYING
    return Stage.SETTLING if kept.rollout_started else Stage.SETTLED


def phase_of(life: Life, outlook: Outlook) -> Phase:
    """Return the phase."""
    kept = life.kept
    standing = _standing(life)
    if standing is not None:
        return standing
    if kept.ending:
        return Phase.REMOVED if kept.applied else Phase.APPLYING
    if not kept.release:
        return Phase.VERIFYING
    if not kept.applied:
        return Phase.APPLYING
    if kept.fallback or life.edges or outlook.failed or outlook.unrepaired:
        return Phase.DEGRADED
    if not outlook.unhealthy:
        return Phase.PROGRESSING if kept.going else Phase.READY
    return Phase.PROGRESSING if kept.rollout_started else Phase.DEGRADED


def _standing(life: Life) -> Phase | None:
    """Return the phase that what stands in the way of the newest item makes; an end that waits is in flight."""
    if life.obstacle is not None and not life.awaits_gone:
        return Phase.VERIFYING if life.obstacle.waiting else Phase.REFUSED
    return Phase.HELD if life.hold is not Hold.RUN else None
