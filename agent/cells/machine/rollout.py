"""Whether what was rolled out became what was wanted in its time, judged only on what was really seen; pure.

Time counts on the monotonic clock and only while the cluster is in view: neither an agent that was down, nor an API
server that was, nor a step of the wall clock makes a release fail. The start of an agent gives it its time again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent.cells.machine.events import Outlook, Sight
from agent.cells.machine.state import Hold, Life, Timed

#: How long to wait for what was not seen yet once everything else is decided, seconds.
LOOK_AGAIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ready``; or, with the reason, failed; or to be judged again ``later``, seconds."""

    ready: bool = False
    reason: str = ""
    later: float = 0.0


def timed(life: Life, seen: Sight) -> Life:
    """Return the life with the clock of its rollout set by what is seen now.

    What is applied in the end has its whole time to become healthy. Under quarantine nothing becomes healthy, and
    narrowing must not lead back to older content (§2); what the hub holds in the middle is not late.
    """
    kept, view = life.kept, seen.view
    withheld = kept.quarantined or (life.hold is not Hold.RUN and not kept.applied)
    about = (kept.deployment, kept.release, kept.rollout_started, kept.applied, withheld)
    before = life.timed
    if view is None or withheld or kept.ending or not kept.rollout_started:
        return replace(life, timed=Timed(about if about == before.about else (), before.since))
    since = before.since if about == before.about else view
    watched = view - since
    over_at = seen.at + max(0.0, kept.deadline - watched)
    return replace(life, timed=Timed(about, since, watched, over_at))


def verdict(life: Life, outlook: Outlook) -> Verdict | None:
    """Return the outcome of the rollout, None while it is open or nobody can tell."""
    watched = life.timed.watched
    if watched is None:
        return None
    over = watched >= life.kept.deadline
    if not life.kept.applied:
        why = "; ".join(one.reason for one in life.complaints[:3])
        return Verdict(reason=f"not applied in time: {why}") if over else None
    if not outlook.unhealthy:
        return Verdict(ready=True)
    if not over and not outlook.failed:
        return None
    if outlook.unseen:
        return Verdict(later=LOOK_AGAIN)
    return Verdict(reason=f"not healthy: {'; '.join(outlook.unhealthy[:5])}")
