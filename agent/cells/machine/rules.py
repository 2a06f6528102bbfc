"""The machine: what follows from what.

``step`` takes a life and an event and returns the next life with the effects to carry out. At rest, ``Look``
chooses the next thing to do, the most urgent first (``_look``). Work goes through its stages in one order::

    an item  → withholding (hold, quarantine)
             → withholding (lift) → verifying → waiting (its turn) → deciding → isolating → proving → [deciding]
                                → dry-running → applying → settling → settled
             → withholding (lift) → verifying → waiting (its turn) → ending → ended
    a failed rollout → rolling back → waiting (its turn) → deciding → … → applying

Anything may fail at each of them; then the work is over, and what stands in the way is an obstacle of the newest item
(``_obstructed``) or trouble of what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.audit.interfaces import RefusalText
from agent.cells.errors import HELD, UNHEALTHY
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine.rollout import timed, verdict
from agent.cells.machine.state import Answer, Hold, Life, Obstacle, Purpose, Stage, Work
from agent.verify.refusals import refusal_of
from cellward.wire.codec import DesiredItem

Step = tuple[Life, tuple[do.Effect, ...]]

#: Refusals by the cluster itself, which somebody may mend there without signing anything; asked again now and then.
MAY_HEAL: Final = ("kube/", "cell/namespace-not-ours", "cell/object-not-ours")
HEAL_SECONDS: Final = 60.0
#: What the API server says when a quota of the namespace is used up.
KUBE_QUOTA: Final = "kube/quota"
#: Refusals that may be another answer when cluster or inventory changed.
ON_GROUND: Final = (
    *MAY_HEAL,
    "apply/prune-needs-confirmation",
    "apply/needs-replace",
    "apply/data-not-replaced",
    "policy/denied",
)
#: Longest first delay after a failure, and longest of all, seconds; any delay is a part of them by chance.
_BASE: Final = 0.5
_CAP: Final = 30.0


def step(life: Life, event: on.Event) -> Step:
    """Return what becomes of a life by an event, and what is to be done."""
    life = timed(replace(life, kept=event.seen.kept), event.seen)
    life, effects = _RULES[type(event)](life, event)
    return _plan_finish(life, event.seen), effects


def due_at(life: Life) -> float | None:
    """Return the monotonic time at which to look again, None while only an event can tell."""
    times = [life.timers.retry, life.timers.finish]
    if life.timed.over_at is not None:
        times.append(life.timers.judge or life.timed.over_at)
    if life.owed.answers or life.timers.beside:
        times.append(life.timers.beside)
    return min((time for time in times if time is not None), default=None)


def must_stop(life: Life) -> bool:
    """Whether what is being done makes way for the item that came.

    What changes nothing of the cell makes way for any; a release that is being written only for narrowing.
    """
    if life.fresh is None or life.work is None:
        return False
    before = {Stage.VERIFYING, Stage.ROLLING_BACK, Stage.WAITING}
    return life.work.stage in before or life.fresh.hub_state != "run"


# -- what comes from outside -------------------------------------------------------------------------------------------


def _loaded(life: Life, event: on.Loaded) -> Step:
    life = replace(life, accepted=event.accepted, owed=replace(life.owed, documents=life.kept.documents))
    if life.unfinished:
        life = replace(life, timers=replace(life.timers, finish=event.seen.at))
    return _narrowing_due(life, event.seen), ()


def _item_came(life: Life, event: on.ItemCame) -> Step:
    return replace(life, fresh=event.item, tries=0), ()


def _reconsider(life: Life, event: on.Reconsider) -> Step:
    life = _narrowing_due(life, event.seen)
    return (_again(life) if life.obstacle is not None else life), ()


def _narrowing_due(life: Life, seen: on.Sight) -> Life:
    """Note that signatures make something else of a cell than what is in force.

    Without an item nobody knows what the hub wants of the cell, so that nothing is lifted then.
    """
    signed, item = bool(seen.quarantine), life.item
    # Of a cell of which nothing stands yet, nothing is isolated, and the item is withheld all the same.
    isolated = life.kept.quarantined or life.hold is Hold.QUARANTINE
    wanted = signed or (item is not None and item.hub_state == "quarantine")
    changes = wanted != isolated and (wanted or item is not None)
    return replace(life, owed=replace(life.owed, narrow=True)) if changes else life


def _again(life: Life) -> Life:
    """Take the newest item up once more."""
    return replace(life, fresh=life.fresh or life.item, timers=replace(life.timers, retry=None))


# -- at rest: what is done next ----------------------------------------------------------------------------------------


def _look(life: Life, event: on.Look) -> Step:
    if life.work is not None:
        return life, ()
    life = _timers_passed(replace(life, edges=event.outlook.edges), event.seen)
    life = _ground_changed(life, event.seen)
    if life.timers.retry is not None and life.timers.retry <= event.seen.at:
        life = _again(life)
    item = life.fresh
    if life.owed.narrow:
        # A cell that no hub names any more is isolated all the same.
        item = item or life.item or life.in_force
        life = replace(life, owed=replace(life.owed, narrow=False))
    if item is not None:
        # Without a digest it is none of the hub's: nothing was ever accepted, and what there is is isolated.
        return _begin(_take(life, item) if item.deployment_digest else life, item, event.seen)
    if _finish_due(life, event.seen):
        return _begin(life, life.in_force, event.seen)
    for choose in (_choose_verdict, _choose_beside):
        chosen = choose(life, event)
        if chosen is not None:
            return chosen
    return life, ()


def _ground_changed(life: Life, seen: on.Sight) -> Life:
    """Plan another try when what a refusal was judged on is another; not at once, it may go on changing."""
    obstacle = life.obstacle
    if obstacle is None or obstacle.ground is None or obstacle.ground == _judged_on(obstacle.refusals, seen):
        return life
    return _retry_later(replace(life, obstacle=replace(obstacle, ground=None)), seen)


def _timers_passed(life: Life, seen: on.Sight) -> Life:
    """Forget which times of waiting are over, so that none of them wakes the driver again."""
    timers = life.timers
    judge = timers.judge if timers.judge > seen.at else 0.0
    beside = timers.beside if timers.beside > seen.at else 0.0
    return replace(life, timers=replace(timers, judge=judge, beside=beside))


def _finish_due(life: Life, seen: on.Sight) -> bool:
    """Whether to go on with what was accepted, whatever became of a newer item: half a release is nothing to stay with.

    An end waits for what was deleted, and for nothing else. It goes on when some of that is gone: what an earlier
    release left behind, and does not go, is not waited for by everything else.
    """
    if not life.unfinished:
        return False
    gone = life.kept.going < life.awaits_gone
    return gone or (life.timers.finish is not None and life.timers.finish <= seen.at)


def _take(life: Life, item: DesiredItem) -> Life:
    """Take up the newest item; what was said of others than it and what is in force is forgotten."""
    wanted = {item.deployment_digest, life.kept.deployment}
    said = tuple(one for one in life.said if one[0] in wanted)
    return replace(life, fresh=None, item=item, said=said, timers=replace(life.timers, retry=None))


def _choose_verdict(life: Life, event: on.Look) -> Step | None:
    """Settle a rollout that became healthy; return to the fallback from one that did not."""
    seen = event.seen
    if life.timers.judge:
        return None
    found = verdict(life, event.outlook)
    if found is None:
        return None
    if found.later:
        return _judge_later(life, seen, found.later), ()
    if found.ready:
        return replace(life, judge_tries=0), (do.CloseRollout("done"),)
    if life.kept.fallback:
        return _no_way_back(life, found.reason, (), seen.correlation)
    work = Work(Stage.ROLLING_BACK, life.in_force, Purpose.RETURN, seen.correlation, reason=found.reason)
    return replace(life, work=work), (do.Recall(work),)


def _choose_beside(life: Life, event: on.Look) -> Step | None:
    """Do what is owed beside the work."""
    if life.timers.beside:
        return None
    if event.outlook.jobs_done:
        return life, (do.RememberJobs(),)
    if life.owed.answers:
        return life, (do.Send(life.owed.answers[0]),)
    if event.outlook.edges_differ:
        return life, (do.JudgeEdges(),)
    if life.owed.documents != life.kept.documents:
        documents = life.kept.documents
        return replace(life, owed=replace(life.owed, documents=documents)), (do.DropDocuments(documents),)
    return None


# -- an item -----------------------------------------------------------------------------------------------------------


def _begin(life: Life, item: DesiredItem, seen: on.Sight) -> Step:
    """Carry out an item, or go on with the accepted one; signatures may withhold more than the hub does."""
    hold = Hold.QUARANTINE if seen.quarantine else Hold(item.hub_state)
    asked = replace(item, hub_state=hold.value)
    work = Work(Stage.WITHHOLDING, asked, Purpose.RELEASE, seen.correlation)
    life = replace(life, work=work, awaits_gone=0)
    if item.deployment_digest == life.kept.deployment:
        life = replace(life, timers=replace(life.timers, finish=None))
    if hold is not Hold.RUN:
        return life, (do.Narrow(work),)
    return replace(life, hold=Hold.RUN, held=()), (do.Lift(work),)


def _narrowed(life: Life, event: on.Narrowed) -> Step:
    work = _work(life)
    hold = Hold(work.item.hub_state)
    if hold is Hold.HOLD and life.kept.applied and work.item.deployment_digest == life.kept.deployment:
        return _done(replace(life, hold=Hold.RUN, held=()))
    text = "the hub quarantines the cell" if hold is Hold.QUARANTINE else "the hub holds this deployment"
    why = refusal_of(HELD(event.seen.quarantine or text), work.item.deployment_digest)
    return replace(life, work=None, hold=hold, held=(why,), obstacle=None), ()


def _lifted(life: Life, event: on.Lifted) -> Step:
    work = _work(life)
    in_force = event.in_force and work.item.deployment_digest == life.kept.deployment
    if in_force and life.kept.applied:
        return _done(life)
    told = (do.Report(),) if life.obstacle is None else ()
    if in_force and life.kept.fallback:
        work = replace(work, stage=Stage.ROLLING_BACK, purpose=Purpose.FALLBACK)
        return replace(life, work=work), (*told, do.Recall(work))
    life, effects = _next(life, Stage.VERIFYING, do.Verify)
    return life, (*told, *effects)


def _verified_release(life: Life, _: on.VerifiedRelease) -> Step:
    work = _work(life)
    if work.purpose is Purpose.RETURN:
        life = replace(life, trouble=(_unhealthy(life, work.reason),))
        # The rollout ends by that of the fallback, not before: an interruption would leave the failed release.
        if life.owed.failure != (life.kept.release, life.kept.rollout_started):
            return _next(life, Stage.ROLLING_BACK, do.RecordFailure)
    return _next(life, Stage.WAITING, do.TakeTurn)


def _verified_end(life: Life, _: on.VerifiedEnd) -> Step:
    return _next(life, Stage.WAITING, do.TakeTurn, purpose=Purpose.END)


def _no_fallback(life: Life, event: on.NoFallback) -> Step:
    work = _work(life)
    if work.purpose is Purpose.RETURN:
        return _no_way_back(replace(life, work=None), work.reason, event.why, work.correlation)
    return _next(life, Stage.VERIFYING, do.Verify, purpose=Purpose.RELEASE)


def _failure_recorded(life: Life, _: on.FailureRecorded) -> Step:
    failure = (life.kept.release, life.kept.rollout_started)
    return _next(replace(life, owed=replace(life.owed, failure=failure)), Stage.WAITING, do.TakeTurn)


# -- the release, in its turn ------------------------------------------------------------------------------------------


def _turn_taken(life: Life, _: on.TurnTaken) -> Step:
    if _work(life).purpose is Purpose.END:
        return _next(life, Stage.ENDING, do.Remove, turn=True)
    return _next(life, Stage.DECIDING, do.Decide, turn=True)


def _allowed(life: Life, event: on.Allowed) -> Step:
    if _work(life).proved:
        return _next(life, Stage.DRY_RUNNING, do.TryOut)
    return _next(life, Stage.ISOLATING, do.Isolate, proof_decides=event.if_proved)


def _isolated(life: Life, _: on.Isolated) -> Step:
    return _next(life, Stage.PROVING, do.Prove)


def _proved(life: Life, event: on.Proved) -> Step:
    if event.changed or _work(life).proof_decides:
        return _next(life, Stage.DECIDING, do.Decide, proved=True)
    return _next(life, Stage.DRY_RUNNING, do.TryOut, proved=True)


def _dry_run(life: Life, _: on.DryRun) -> Step:
    return _next(life, Stage.APPLYING, do.Apply)


def _accepted(life: Life, event: on.Accepted) -> Step:
    return replace(life, accepted=event.item), ()


def _applied(life: Life, _: on.Applied) -> Step:
    return _done(life)


def _ended(life: Life, _: on.Ended) -> Step:
    return _done(life)


def _end_waits(life: Life, event: on.EndWaits) -> Step:
    """Wait without a turn: a watch tells when what was deleted is gone."""
    work = _work(life)
    life = _obstructed(replace(life, work=None), work.item, event.refusals, event.seen, waiting=True)
    return replace(life, awaits_gone=life.kept.going), ()


# -- how work ends -----------------------------------------------------------------------------------------------------


def _denied(life: Life, event: on.Denied) -> Step:
    return _refused(life, event.refusals, event.seen)


def _failed(life: Life, event: on.Failed) -> Step:
    work = life.work
    if work is None:
        return _later(life, event.seen), ()
    if work.purpose is Purpose.RETURN and event.passing:
        return _judge_later(replace(life, work=None), event.seen), ()
    if event.passing:
        life = replace(life, work=None)
        return _obstructed(life, work.item, event.refusals, event.seen, waiting=True), ()
    return _refused(life, event.refusals, event.seen)


def _broken(life: Life, event: on.Broken) -> Step:
    obstacle = Obstacle(waiting=False, refusals=event.refusals)
    return _later(replace(life, work=None, obstacle=obstacle), event.seen), ()


def _superseded(life: Life, _: on.Superseded) -> Step:
    return replace(life, work=None), ()


def _done(life: Life) -> Step:
    """The work came through; what there is to say all the same: a fallback is not what was deployed."""
    work = _work(life)
    life = replace(life, work=None)
    if work.purpose is Purpose.RETURN:
        return _returned(life, work, (), None)
    life = replace(life, tries=0, obstacle=None if life.is_newest(work.item) else life.obstacle)
    if not life.kept.fallback and not life.kept.failed:
        life = replace(life, trouble=())
    else:
        # Also when it is listed again, and when a restart forgot what was still to be said.
        said = tuple(one for one in life.trouble if one.code == UNHEALTHY.code)
        what = "; its fallback runs" if life.kept.fallback else " in its time"
        life = replace(life, trouble=said or (_unhealthy(life, f"the release did not become healthy{what}"),))
    return _owe(life, Answer(work.item, life.trouble, work.correlation)), ()


def _refused(life: Life, refusals: tuple[RefusalText, ...], seen: on.Sight) -> Step:
    work = _work(life)
    life = replace(life, work=None)
    if work.purpose is Purpose.RETURN:
        return _returned(life, work, refusals, seen)
    life = _obstructed(life, work.item, refusals, seen, waiting=False)
    return _owe(life, Answer(work.item, refusals, work.correlation)), ()


def _obstructed(
    life: Life, item: DesiredItem, refusals: tuple[RefusalText, ...], seen: on.Sight, *, waiting: bool
) -> Life:
    """Say what stands in the way, and plan the next try; what is accepted is finished in any case."""
    if life.is_newest(item):
        obstacle = Obstacle(waiting, refusals, None if waiting else _judged_on(refusals, seen))
        life = replace(life, obstacle=obstacle)
    else:
        life = replace(life, trouble=refusals)
    if life.unfinished and item.deployment_digest == life.kept.deployment:
        return life
    if waiting:
        return _retry_later(life, seen)
    if refusals[0].code.startswith(MAY_HEAL):
        return replace(life, timers=replace(life.timers, retry=seen.at + HEAL_SECONDS))
    return life


def _judged_on(refusals: tuple[RefusalText, ...], seen: on.Sight) -> object:
    """Return what refusals by cluster and inventory are judged on, None for any others.

    How much of a quota is used changes with every pod: it is looked at for what a quota refused, and for nothing else.
    """
    codes = {one.code for one in refusals}
    if KUBE_QUOTA in codes:
        return seen.ground, seen.quota
    return seen.ground if any(code.startswith(ON_GROUND) for code in codes) else None


def _no_way_back(life: Life, reason: str, why: tuple[RefusalText, ...], correlation: str) -> Step:
    """Nothing to go back to: the cell stays as it is, and says so."""
    unhealthy = _unhealthy(life, reason)
    life = replace(life, trouble=(unhealthy, *why))
    answer = Answer(life.in_force, life.trouble, correlation)
    return _owe(life, answer), (do.CloseRollout("failed", unhealthy.reason),)


def _returned(life: Life, work: Work, why: tuple[RefusalText, ...], seen: on.Sight | None) -> Step:
    """The fallback was gone, or something stands in it; that is part of the trouble."""
    life = replace(life, trouble=(*life.trouble, *why))
    if not why and life.is_newest(work.item):
        life = replace(life, obstacle=None)
    life = _owe(life, Answer(work.item, life.trouble, work.correlation))
    if life.kept.fallback or not why or seen is None:
        return life, ()  # also when only a part of it is applied yet: it is finished like everything accepted
    if why[0].code.startswith(MAY_HEAL):
        return _judge_later(life, seen, HEAL_SECONDS), ()
    return life, (do.CloseRollout(),)


# -- beside the work ---------------------------------------------------------------------------------------------------


def _answered(life: Life, event: on.Answered) -> Step:
    answer, digest = event.answer, event.answer.item.deployment_digest
    left = tuple(one for one in life.owed.answers if one != answer)
    said = (*(one for one in life.said if one[0] != digest), (digest, answer.about))
    return replace(life, owed=replace(life.owed, answers=left), said=said), ()


def _owe(life: Life, answer: Answer) -> Life:
    """Owe an answer, unless the same was said last; a refusal that waits for its record is not lost by it."""
    digest = answer.item.deployment_digest
    owed = [one for one in life.owed.answers if one.about[1:] != answer.about[1:]]
    others = any(one.item.deployment_digest == digest for one in owed)
    if others or dict(life.said).get(digest) != answer.about:
        owed.append(answer)
    return replace(life, owed=replace(life.owed, answers=tuple(owed)))


def _noted(life: Life, _: on.Noted) -> Step:
    return life, ()


# -- helpers -----------------------------------------------------------------------------------------------------------


def _work(life: Life) -> Work:
    assert life.work is not None, "an outcome without work"
    return life.work


def _next(life: Life, stage: Stage, effect: Callable[[Work], do.Effect], **changes: Any) -> Step:
    work = replace(_work(life), stage=stage, **changes)
    return replace(life, work=work), (effect(work),)


def _unhealthy(life: Life, reason: str) -> RefusalText:
    subject = f"Cell/{life.kept.place}"
    return refusal_of(UNHEALTHY(reason, object=subject), subject)


def _delay(tries: int, seen: on.Sight) -> float:
    return seen.chance * min(_CAP, _BASE * 2.0 ** min(tries, 10))


def _retry_later(life: Life, seen: on.Sight) -> Life:
    timers = replace(life.timers, retry=seen.at + _delay(life.tries, seen))
    return replace(life, timers=timers, tries=life.tries + 1)


def _judge_later(life: Life, seen: on.Sight, seconds: float | None = None) -> Life:
    """Judge again later: what the verdict asked for did not come through."""
    delay = _delay(life.judge_tries, seen) if seconds is None else seconds
    tries = life.judge_tries + 1 if seconds is None else life.judge_tries
    return replace(life, timers=replace(life.timers, judge=seen.at + delay), judge_tries=tries)


def _later(life: Life, seen: on.Sight) -> Life:
    """What is done beside the work is not tried at once again: a full disk stays full for a while."""
    life = _judge_later(life, seen)
    return replace(life, timers=replace(life.timers, beside=life.timers.judge))


def _plan_finish(life: Life, seen: on.Sight) -> Life:
    """Plan when to go on with what was accepted, once nothing is being done."""
    if life.work is not None:
        return life
    if not life.unfinished:
        return replace(life, timers=replace(life.timers, finish=None))
    if life.timers.finish is not None:
        return life
    if life.awaits_gone:
        return replace(life, timers=replace(life.timers, finish=seen.at + _CAP))
    timers = replace(life.timers, finish=seen.at + _delay(life.tries, seen))
    return replace(life, timers=timers, tries=life.tries + 1)


_RULES: Final[Mapping[type[on.Event], Callable[[Life, Any], Step]]] = {
    on.Loaded: _loaded,
    on.ItemCame: _item_came,
    on.Reconsider: _reconsider,
    on.Look: _look,
    on.Narrowed: _narrowed,
    on.Lifted: _lifted,
    on.VerifiedRelease: _verified_release,
    on.VerifiedEnd: _verified_end,
    on.NoFallback: _no_fallback,
    on.FailureRecorded: _failure_recorded,
    on.TurnTaken: _turn_taken,
    on.Allowed: _allowed,
    on.Denied: _denied,
    on.Isolated: _isolated,
    on.Proved: _proved,
    on.DryRun: _dry_run,
    on.Accepted: _accepted,
    on.Applied: _applied,
    on.EndWaits: _end_waits,
    on.Ended: _ended,
    on.Answered: _answered,
    on.Noted: _noted,
    on.Failed: _failed,
    on.Broken: _broken,
    on.Superseded: _superseded,
}
