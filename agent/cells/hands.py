"""Carries out the effects of a cell's machine; each returns how the event of its outcome is made of a sight.

Nothing is decided here: which effect comes next, and what becomes of a failure, is the machine's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from agent.cells.account import Account
from agent.cells.cell import Cell
from agent.cells.ending import Ending
from agent.cells.interfaces import Accepted
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine.state import Purpose, Work
from agent.cells.outcomes import Outcome
from agent.cells.pace import Pace
from agent.cells.papers import Papers
from agent.cells.rollout import Attempt, Rollout
from agent.cells.withholding import Withholding
from agent.objects.errors import NOT_GONE
from agent.verify.intake import VerifiedCell, VerifiedEnd
from agent.verify.refusals import is_passing, refusal_of
from cellward.errors import CellwardError


class Hands:
    """What is being done for one cell; documents and plan are kept here from step to step."""

    def __init__(
        self,
        cell: Cell,
        pace: Pace,
        papers: Papers,
        rollout: Rollout,
        ending: Ending,
        withholding: Withholding,
        account: Account,
        accepted: Accepted,
    ) -> None:
        self._cell = cell
        self._pace = pace
        self._papers = papers
        self._rollout = rollout
        self._ending = ending
        self._accepted = accepted
        self._account = account
        self._attempt: Attempt | None = None
        self._end: VerifiedEnd | None = None
        self._steps: Mapping[type[do.Effect], Callable[[Any], Awaitable[Outcome]]] = {
            do.Narrow: withholding.narrow,
            do.Lift: withholding.lift,
            do.Verify: self._verify,
            do.Recall: self._recall,
            do.RecordFailure: account.record_failure,
            do.TakeTurn: self._take_turn,
            do.Decide: self._decide,
            do.Isolate: self._isolate,
            do.Prove: self._prove,
            do.TryOut: self._try_out,
            do.Apply: self._apply,
            do.Remove: self._remove,
            do.Send: account.send,
            do.RememberJobs: account.remember_jobs,
            do.CloseRollout: account.close_rollout,
            do.JudgeEdges: withholding.judge_edges,
            do.DropDocuments: account.drop_documents,
        }

    async def carry_out(self, effect: do.Effect) -> Outcome:
        """Carry out one effect; raises what stands in the way."""
        return await self._steps[type(effect)](effect)

    async def keep_proof(self) -> None:
        """Make durable what was measured since the last turn."""
        await self._account.keep_proof()

    def forget(self) -> None:
        """The work is over."""
        self._attempt = self._end = None

    # -- documents ----------------------------------------------------------------------------------------------------

    async def _verify(self, effect: do.Verify) -> Outcome:
        verified = await self._papers.verify(effect.work)
        if isinstance(verified, VerifiedEnd):
            self._end = verified
            return on.VerifiedEnd
        return self._begin(effect.work, verified)

    async def _recall(self, effect: do.Recall) -> Outcome:
        """Verify the fallback; of a release that failed, only what may be applied now counts as one."""
        work = effect.work
        try:
            verified = await self._papers.recall(work)
        except CellwardError as obstacle:
            if work.purpose is not Purpose.RETURN or is_passing(obstacle):
                raise
            return partial(on.NoFallback, why=(refusal_of(obstacle, f"Cell/{self._cell.record.namespace}"),))
        if verified is None:
            return on.NoFallback
        self._papers.check_return(work)
        return self._begin(work, verified)

    def _begin(self, work: Work, verified: VerifiedCell) -> Outcome:
        fallback = work.purpose in {Purpose.FALLBACK, Purpose.RETURN}
        self._attempt = Attempt(work.item, verified, work.correlation, fallback)
        return on.VerifiedRelease

    # -- the release, in its turn -------------------------------------------------------------------------------------

    async def _take_turn(self, _: do.TakeTurn) -> Outcome:
        await self._pace.take_turn()
        return on.TurnTaken

    async def _decide(self, effect: do.Decide) -> Outcome:
        if effect.work.proved:
            refusals, if_proved = await self._rollout.deciding.decide_again(self._cell, self._found), False
        else:
            refusals, if_proved = await self._rollout.deciding.decide(self._cell, self._found)
        return partial(on.Denied, refusals=refusals) if refusals else partial(on.Allowed, if_proved=if_proved)

    async def _isolate(self, _: do.Isolate) -> Outcome:
        await self._rollout.ground.isolate(self._cell, self._found)
        return on.Isolated

    async def _prove(self, _: do.Prove) -> Outcome:
        ground = self._rollout.ground
        evidence = await self._pace.beside(ground.measure(self._cell, self._found))
        changed = await ground.prove(self._cell, self._found, evidence)
        return partial(on.Proved, changed=changed)

    async def _try_out(self, _: do.TryOut) -> Outcome:
        await self._rollout.ground.try_out(self._cell, self._found, self._pace.yield_point)
        return on.DryRun

    async def _apply(self, _: do.Apply) -> Outcome:
        await self._rollout.accepting.run(self._cell, self._found, self._pace.yield_point, self._accepted)
        return on.Applied

    async def _remove(self, effect: do.Remove) -> Outcome:
        assert self._end is not None, "an end without its documents"
        work = effect.work
        try:
            refusals = await self._ending.run(self._cell, work.item, self._end, work.correlation, self._accepted)
        except CellwardError as error:
            if error.code != NOT_GONE.code:
                raise
            return partial(on.EndWaits, refusals=(refusal_of(error, work.item.deployment_digest),))
        return partial(on.Denied, refusals=refusals) if refusals else on.Ended

    @property
    def _found(self) -> Attempt:
        assert self._attempt is not None, "a step without its documents"
        return self._attempt
