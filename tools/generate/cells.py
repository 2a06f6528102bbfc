"""``cell-life.md``: what follows from what in the life of a cell; each row is a step that the machine takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.audit.interfaces import RefusalText
from agent.cells.machine import events as on
from agent.cells.machine.phase import stage_of
from agent.cells.machine.rules import due_at, must_stop, step
from agent.cells.machine.state import Answer, Hold, Kept, Life, Obstacle, Owed, Purpose, Stage, Timers, Work
from cellward.wire.codec import DesiredItem, HubState
from tools.generate.page import Page, code

_KEY = ("shop", "front", "dev")
_NOW = 1000.0
_WHY = (RefusalText("policy/denied", "why"),)
_BROKE = (RefusalText("kube/forbidden", "why"),)

#: A life, what it stands for, and what happens to it there.
_Case = tuple[str, Life, Sequence[tuple[str, Callable[[on.Sight], on.Event]]]]


def page(out: Path) -> None:
    """Write ``cell-life.md``."""
    page = Page("The life of a cell", "agent/cells/machine")
    page.text(
        "The agent keeps one machine for each cell: a pure function from what it is and what happens to what it is "
        "next and what is to be done ([ADR 0031](../adr/0031-the-life-of-a-cell-is-one-pure-machine.md)). Each row is "
        "one step, taken by the machine itself."
    )
    page.heading("Work, stage by stage")
    page.table(("stage", "what happens", "next stage", "to be done", "pending, and retried"), _rows(_working()))
    page.heading("What may end any work")
    page.table(("stage", "what happens", "next stage", "to be done", "pending, and retried"), _rows(_ending_work()))
    page.heading("At rest")
    page.table(("stage", "what happens", "next stage", "to be done", "pending, and retried"), _rows(_resting()))
    page.heading("What makes way for a newer item")
    page.text("A step is interrupted between two of its writes; what was accepted is finished later.")
    page.table(("stage", "for an item that runs", "for hold or quarantine"), _making_way())
    page.write(out, "cell-life.md")


def _rows(cases: Iterable[_Case]) -> Iterable[tuple[str, ...]]:
    for name, life, happenings in cases:
        for what, made in happenings:
            after, effects = step(life, made(_sight(life)))
            done = ", ".join(type(effect).__name__ for effect in effects)
            yield name, what, stage_of(after).value, code(done) if done else "", _left(after)


def _left(life: Life) -> str:
    """Say what is pending, what stands in the way, and whether time brings it on."""
    said = []
    if life.fresh is not None and life.work is None:
        said.append("item to take up")
    if life.owed.answers:
        said.append("receipt")
    if life.hold is not Hold.RUN:
        said.append(life.hold.value)
    if life.obstacle is not None:
        said.append("waits" if life.obstacle.waiting else "refused")
    if life.work is None and due_at(life) is not None:
        said.append("timer")
    return ", ".join(said)


def _working() -> Iterable[_Case]:
    new, kept = Kept(_KEY), _kept(applied=True)
    failed = replace(kept, rollout_started="then")
    yield "withholding (hold)", _life(new, Stage.WITHHOLDING, hub_state="hold"), [("in force", on.Narrowed)]
    yield (
        "withholding (quarantine)",
        _life(kept, Stage.WITHHOLDING, hub_state="quarantine"),
        [("in force", on.Narrowed)],
    )
    yield "withholding (lift)", _life(new, Stage.WITHHOLDING), [("lifted, a new item", _lifted(in_force=False))]
    yield "withholding (lift)", _life(kept, Stage.WITHHOLDING), [("lifted, it is in force", _lifted(in_force=True))]
    half_back = replace(_kept(), fallback=True)
    yield (
        "withholding (lift)",
        _life(half_back, Stage.WITHHOLDING),
        [("lifted, half a fallback", _lifted(in_force=True))],
    )
    verified = [("a release holds", on.VerifiedRelease), ("a tombstone holds", on.VerifiedEnd)]
    yield "verifying", _life(new, Stage.VERIFYING), verified
    back = [("the fallback holds", on.VerifiedRelease), ("there is none", on.NoFallback)]
    rolling = _life(failed, Stage.ROLLING_BACK, Purpose.RETURN, reason="not healthy")
    yield "rolling back", rolling, [*back, ("the failure is on record", on.FailureRecorded)]
    yield "waiting for its turn", _life(new, Stage.WAITING), [("it has its turn", on.TurnTaken)]
    yield "waiting for its turn (end)", _life(kept, Stage.WAITING, Purpose.END), [("it has its turn", on.TurnTaken)]
    denied = ("denied", lambda seen: on.Denied(seen, _WHY))
    proof = ("allowed if isolation is proved", lambda seen: on.Allowed(seen, if_proved=True))
    yield "deciding", _life(new, Stage.DECIDING), [("allowed", on.Allowed), proof, denied]
    yield "isolating", _life(new, Stage.ISOLATING), [("isolated", on.Isolated)]
    proved = [("as decided on", _proved(changed=False)), ("another state", _proved(changed=True))]
    yield "proving", _life(new, Stage.PROVING), proved
    yield "deciding (on the proof)", _life(new, Stage.DECIDING, proved=True), [("allowed", on.Allowed), denied]
    yield "dry-running", _life(new, Stage.DRY_RUNNING), [("the API server would take it", on.DryRun)]
    yield "applying", _life(failed, Stage.APPLYING), [("applied", on.Applied)]
    yield (
        "applying (fallback)",
        _life(replace(failed, fallback=True), Stage.APPLYING, Purpose.RETURN),
        [("applied", on.Applied)],
    )
    ending = replace(_kept(), ending="cell", going=2)
    waits = ("what was deleted is there", lambda seen: on.EndWaits(seen, _BROKE))
    yield "ending", _life(ending, Stage.ENDING, Purpose.END), [waits]
    ended = replace(ending, applied=True, going=0)
    yield "ending", _life(ended, Stage.ENDING, Purpose.END), [("nothing is left", on.Ended), denied]


def _ending_work() -> Iterable[_Case]:
    ways = [
        ("it fails and may pass", lambda seen: on.Failed(seen, _BROKE, passing=True)),
        ("it is refused", lambda seen: on.Failed(seen, _WHY, passing=False)),
        ("the cluster refuses it", lambda seen: on.Failed(seen, _BROKE, passing=False)),
        ("it makes way", on.Superseded),
        ("something unexpected", lambda seen: on.Broken(seen, _WHY)),
    ]
    yield "before it is accepted", _life(Kept(_KEY), Stage.DRY_RUNNING), ways
    yield "in the middle of applying", _life(_kept(), Stage.APPLYING), ways
    failed = replace(_kept(applied=True), rollout_started="then")
    yield "on the fallback", _life(failed, Stage.APPLYING, Purpose.RETURN, reason="not healthy"), ways


def _resting() -> Iterable[_Case]:
    kept, item = _kept(applied=True), _item()
    settled = _rest(kept)
    yield "waiting for an item", Life(Kept(_KEY)), [("an item comes", lambda seen: on.ItemCame(seen, item))]
    yield "waiting for an item", Life(Kept(_KEY), fresh=item), [("look: an item", _look())]
    held = replace(settled, owed=replace(settled.owed, narrow=True))
    yield "settled", held, [("look: signatures isolate it, or no longer do", _look())]
    yield "settled", settled, [("look: nothing", _look())]
    open_ = replace(kept, rollout_started="then", deadline=0)
    late = on.Outlook(unhealthy=("Deployment/web: not ready",))
    yield "settling", _rest(open_), [("look: healthy", _look()), ("look: not healthy in its time", _look(late))]
    yield "settling (fallback)", _rest(replace(open_, fallback=True)), [("look: not healthy in its time", _look(late))]
    half = replace(_rest(_kept()), timers=Timers(finish=_NOW))
    yield "applying (interrupted)", half, [("look: its time has come", _look())]
    ending = replace(_rest(replace(_kept(), ending="cell")), awaits_gone=2)
    yield "ending (waits)", ending, [("look: all is gone", _look())]
    some = replace(ending, kept=replace(ending.kept, going=1))
    yield "ending (waits)", some, [("look: some of it is gone", _look())]
    refused = replace(_rest(kept), item=item, obstacle=Obstacle(waiting=False, refusals=_WHY, ground="before"))
    again = ("policy, guards or view changed", on.Reconsider)
    yield "settled (newest refused)", refused, [("look: what it was judged on changed", _look()), again]
    waiting = replace(settled, item=item, obstacle=Obstacle(waiting=True, refusals=_BROKE), timers=Timers(retry=_NOW))
    yield "waiting (obstacle)", waiting, [("look: its time has come", _look()), again]
    owing = replace(settled, owed=replace(settled.owed, answers=(Answer(item, (), "c"),)))
    yield "settled (receipt pending)", owing, [("look", _look())]
    yield (
        "settled",
        settled,
        [
            ("look: a job completed", _look(on.Outlook(jobs_done=True))),
            ("look: an edge is to be closed or opened", _look(on.Outlook(edges_differ=True))),
        ],
    )
    yield "settled", replace(settled, owed=Owed()), [("look: documents are superseded", _look())]
    yield "applying (interrupted)", Life(_kept()), [("the agent starts", on.Loaded)]


def _making_way() -> Iterable[tuple[str, ...]]:
    for stage in Stage:
        if stage in {Stage.SETTLING, Stage.SETTLED, Stage.ENDED}:
            continue
        life = _life(_kept(), stage)
        states: tuple[HubState, ...] = ("run", "quarantine")
        yield stage.value, *("yes" if must_stop(replace(life, fresh=_item(state))) else "no" for state in states)


def _kept(*, applied: bool = False) -> Kept:
    return Kept(_KEY, "digest", "release", applied=applied)


def _item(state: HubState = "run") -> DesiredItem:
    return DesiredItem(1, *_KEY, "digest", (), state)


def _rest(kept: Kept) -> Life:
    return Life(kept, accepted=_item(), owed=Owed(documents=kept.documents))


def _life(
    kept: Kept, stage: Stage, purpose: Purpose = Purpose.RELEASE, hub_state: HubState = "run", *, reason: str = "",
    proved: bool = False,
) -> Life:  # fmt: skip
    return Life(kept, work=Work(stage, _item(hub_state), purpose, "c", reason=reason, proved=proved))


def _sight(life: Life) -> on.Sight:
    return on.Sight(at=_NOW, chance=1.0, correlation="c", kept=life.kept, view=10.0, ground="now")


def _look(outlook: on.Outlook | None = None) -> Callable[[on.Sight], on.Event]:
    return lambda seen: on.Look(seen, outlook or on.Outlook())


def _lifted(*, in_force: bool) -> Callable[[on.Sight], on.Event]:
    return lambda seen: on.Lifted(seen, in_force)


def _proved(*, changed: bool) -> Callable[[on.Sight], on.Event]:
    return lambda seen: on.Proved(seen, changed)
