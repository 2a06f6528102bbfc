"""What the driver is to do. Each effect but ``Report`` is answered by one event."""

from __future__ import annotations

from dataclasses import dataclass

from agent.cells.machine import state


@dataclass(frozen=True, slots=True)
class Effect:
    """Anything to be done."""


@dataclass(frozen=True, slots=True)
class Report(Effect):
    """Tell the hub the state, if it changed."""


@dataclass(frozen=True, slots=True)
class WorkEffect(Effect):
    """One step of the work."""

    work: state.Work


@dataclass(frozen=True, slots=True)
class Narrow(WorkEffect):
    """Put hold or quarantine in force → Narrowed."""


@dataclass(frozen=True, slots=True)
class Lift(WorkEffect):
    """Return to the isolation that was released → Lifted."""


@dataclass(frozen=True, slots=True)
class Verify(WorkEffect):
    """Fetch and verify the documents → VerifiedRelease, VerifiedEnd."""


@dataclass(frozen=True, slots=True)
class Recall(WorkEffect):
    """Verify the fallback that was kept → VerifiedRelease, NoFallback."""


@dataclass(frozen=True, slots=True)
class RecordFailure(WorkEffect):
    """Put on record that the rollout failed → FailureRecorded."""


@dataclass(frozen=True, slots=True)
class TakeTurn(WorkEffect):
    """Wait for a turn among the cells → TurnTaken."""


@dataclass(frozen=True, slots=True)
class Decide(WorkEffect):
    """Plan the change and ask the policy, on what is known of isolation → Allowed, Denied."""


@dataclass(frozen=True, slots=True)
class Isolate(WorkEffect):
    """Write namespace, isolation and rights → Isolated."""


@dataclass(frozen=True, slots=True)
class Prove(WorkEffect):
    """Probe isolation → Proved."""


@dataclass(frozen=True, slots=True)
class TryOut(WorkEffect):
    """Dry run of every object → DryRun."""


@dataclass(frozen=True, slots=True)
class Apply(WorkEffect):
    """Raise the floor, write everything, prune, record → Applied."""


@dataclass(frozen=True, slots=True)
class Remove(WorkEffect):
    """Ask the policy, raise the floor, delete what comes next; waits for nothing → Denied, EndWaits, Ended."""


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Put an answer on record, then hand it to the link → Answered."""

    answer: state.Answer


@dataclass(frozen=True, slots=True)
class RememberJobs(Effect):
    """Save which jobs completed → Noted."""


@dataclass(frozen=True, slots=True)
class CloseRollout(Effect):
    """End the rollout; with its record where ``outcome`` (done, failed) is given → Noted."""

    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JudgeEdges(Effect):
    """Close and open edges → Noted."""


@dataclass(frozen=True, slots=True)
class DropDocuments(Effect):
    """Drop the documents of what was replaced → Noted."""

    documents: tuple[str, str, str]
