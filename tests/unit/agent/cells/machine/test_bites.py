"""The property finds each of these faults in a machine that has it: otherwise it would say nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine import rules
from agent.cells.machine.state import Answer, Hold, Kept, Life, Purpose, Stage
from tests.unit.agent.cells.machine.moves import MOVES, SCENARIOS, Moves, play

Patch = pytest.MonkeyPatch
Step = rules.Step


def _rule(patch: Patch, event: type[on.Event], rule: Callable[[Life, Any], Step]) -> None:
    patch.setattr(rules, "_RULES", {**rules._RULES, event: rule})


def _after(patch: Patch, name: str, change: Callable[[Life], Life]) -> None:
    """Change what a helper returns."""
    honest = getattr(rules, name)
    patch.setattr(rules, name, lambda life, *rest, **more: change(honest(life, *rest, **more)))


def v8_nobody_decides(patch: Patch) -> None:
    """A release is written as soon as it has its turn."""
    _rule(patch, on.TurnTaken, lambda life, _: rules._next(life, Stage.APPLYING, do.Apply, turn=True))


def v9_nobody_isolates(patch: Patch) -> None:
    """What is allowed is tried out and written."""
    _rule(patch, on.Allowed, lambda life, _: rules._next(life, Stage.DRY_RUNNING, do.TryOut))


def v9_nobody_proves(patch: Patch) -> None:
    """Isolation that was written is taken for enforced."""
    _rule(patch, on.Isolated, lambda life, _: rules._next(life, Stage.DRY_RUNNING, do.TryOut))


def v9_nobody_decides_on_the_proof(patch: Patch) -> None:
    """What the policy allows if isolation is proved is not asked again."""
    _rule(patch, on.Proved, lambda life, _: rules._next(life, Stage.DRY_RUNNING, do.TryOut, proved=True))


def v14_anything_ends_a_cell(patch: Patch) -> None:
    """A release is taken for a tombstone."""
    _rule(patch, on.VerifiedRelease, lambda life, _: rules._next(life, Stage.WAITING, do.TakeTurn, purpose=Purpose.END))


def v1_a_restart_forgets_what_was_accepted(patch: Patch) -> None:
    """Nothing is finished but what the hub lists again."""
    patch.setattr(rules, "_finish_due", lambda life, seen: False)
    patch.setattr(rules, "_plan_finish", lambda life, seen: life)


def v11_half_a_release_stays(patch: Patch) -> None:
    """A refusal in the middle of a release is the end of it."""
    _after(patch, "_plan_finish", lambda life: replace(life, timers=replace(life.timers, finish=None)))


def v11_no_way_back(patch: Patch) -> None:
    """A release that never becomes healthy stays."""
    patch.setattr(rules, "_choose_verdict", lambda life, event: None)


def v11_what_waits_is_not_tried_again(patch: Patch) -> None:
    """A document that was missing once is missing for ever."""
    patch.setattr(rules, "_retry_later", lambda life, seen: life)
    patch.setattr(rules, "_reconsider", lambda life, event: (life, ()))
    _rule(patch, on.Reconsider, lambda life, event: (life, ()))


def v13_a_refusal_is_not_answered(patch: Patch) -> None:
    """The hub never hears of it."""

    def owe(life: Life, answer: Answer) -> Life:
        return life if answer.refusals else rules_owe(life, answer)

    rules_owe = rules._owe
    patch.setattr(rules, "_owe", owe)


def v13_what_failed_is_accepted_when_it_is_listed_again(patch: Patch) -> None:
    """What is in force is well, whatever became of it; so is what a restart forgot to say."""
    patch.setattr(Kept, "failed", property(lambda kept: False))


def v13_a_failed_answer_is_dropped(patch: Patch) -> None:
    """What could not be recorded is not recorded later."""
    honest = rules._failed

    def failed(life: Life, event: on.Failed) -> Step:
        if life.work is None:
            life = replace(life, owed=replace(life.owed, answers=()))
        return honest(life, event)

    _rule(patch, on.Failed, failed)


def v13_answers_are_sent_for_ever(patch: Patch) -> None:
    """An answer that was sent stays owed."""
    _rule(patch, on.Answered, lambda life, event: (life, ()))


def v11_what_the_inventory_refused_is_never_judged_again(patch: Patch) -> None:
    """The prune limit counts what is gone by now."""
    patch.setattr(rules, "_ground_changed", lambda life, seen: life)


def v11_completed_jobs_are_not_remembered(patch: Patch) -> None:
    """They run again after a restart."""
    honest = rules._choose_beside
    patch.setattr(
        rules, "_choose_beside",
        lambda life, event: honest(life, replace(event, outlook=replace(event.outlook, jobs_done=False))),
    )  # fmt: skip


def v11_edges_are_not_judged(patch: Patch) -> None:
    """Whether what a cell calls is there changes nothing."""
    honest = rules._choose_beside
    patch.setattr(
        rules, "_choose_beside",
        lambda life, event: honest(life, replace(event, outlook=replace(event.outlook, edges_differ=False))),
    )  # fmt: skip


def v13_a_full_disk_makes_it_spin(patch: Patch) -> None:
    """What failed is tried again at once."""
    patch.setattr(rules, "_later", lambda life, seen: life)


def v13_narrowing_waits_for_a_release(patch: Patch) -> None:
    """Nothing makes way."""
    patch.setattr(rules, "must_stop", lambda life: False)


def v8_signed_quarantine_waits_for_the_hub(patch: Patch) -> None:
    """A newer signed set is looked at with the next item only."""
    patch.setattr(rules, "_narrowing_due", lambda life, seen: life)


def what_is_withheld_is_finished(patch: Patch) -> None:
    """Hold and quarantine do not stop what was accepted."""
    patch.setattr(Life, "unfinished", property(lambda life: bool(life.kept.deployment) and not life.kept.applied))
    patch.setattr(rules, "_begin", _begun_anyway)


def _begun_anyway(life: Life, item: Any, seen: on.Sight) -> Step:
    work = rules.Work(Stage.WITHHOLDING, replace(item, hub_state="run"), Purpose.RELEASE, seen.correlation)
    return replace(life, work=work, hold=Hold(item.hub_state)), (do.Lift(work),)


def v11_work_that_made_way_goes_on(patch: Patch) -> None:
    """What was interrupted is never over."""
    _rule(patch, on.Superseded, lambda life, event: (life, ()))


def v11_an_end_asks_again_at_once(patch: Patch) -> None:
    """It does not wait for what was deleted."""
    patch.setattr(rules, "_finish_due", lambda life, seen: life.unfinished)


def v11_an_end_waits_for_ever(patch: Patch) -> None:
    """Nor does it go on when that is gone."""
    honest = rules._finish_due
    patch.setattr(rules, "_finish_due", lambda life, seen: not life.kept.ending and honest(life, seen))
    _after(
        patch,
        "_plan_finish",
        lambda life: replace(life, timers=replace(life.timers, finish=None)) if life.kept.ending else life,
    )


def v16_an_item_is_taken_again_and_again(patch: Patch) -> None:
    """It is never taken off the mailbox."""
    _after(patch, "_take", lambda life: replace(life, fresh=life.item))


MUTANTS = (
    v8_nobody_decides,
    v9_nobody_isolates,
    v9_nobody_proves,
    v9_nobody_decides_on_the_proof,
    v14_anything_ends_a_cell,
    v1_a_restart_forgets_what_was_accepted,
    v11_half_a_release_stays,
    v11_no_way_back,
    v11_what_waits_is_not_tried_again,
    v13_a_refusal_is_not_answered,
    v13_what_failed_is_accepted_when_it_is_listed_again,
    v13_a_failed_answer_is_dropped,
    v13_answers_are_sent_for_ever,
    v11_what_the_inventory_refused_is_never_judged_again,
    v11_completed_jobs_are_not_remembered,
    v11_edges_are_not_judged,
    v13_a_full_disk_makes_it_spin,
    v13_narrowing_waits_for_a_release,
    v8_signed_quarantine_waits_for_the_hub,
    what_is_withheld_is_finished,
    v11_work_that_made_way_goes_on,
    v11_an_end_asks_again_at_once,
    v11_an_end_waits_for_ever,
    v16_an_item_is_taken_again_and_again,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_property_finds(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """A machine with one fault breaks an invariant, or does not come to rest."""
    mutant(monkeypatch)

    @settings(
        max_examples=500, deadline=None, derandomize=True, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.lists(MOVES, max_size=25))
    def whatever_happens(moves: Moves) -> None:
        play(moves)

    def all_of_it() -> None:
        for moves in SCENARIOS:
            play(moves)
        whatever_happens()

    with pytest.raises(AssertionError):
        all_of_it()
