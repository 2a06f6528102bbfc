"""Carries out the effects of a cell's machine; each returns how the event of its outcome is made of a sight.

Nothing is decided here: which effect comes next, and what becomes of a failure, is the machine's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from agent.audit.interfaces import Entry
from agent.cells.cell import Cell
from agent.cells.drift import DriftControl
from agent.cells.edges import Edges
from agent.cells.errors import UNHEALTHY
from agent.cells.interfaces import OnReceipt
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine.state import Purpose, Work
from agent.cells.narrow import Narrowing, half_written
from agent.cells.pace import Pace
from agent.cells.parts import Parts
from agent.cells.rollout import Attempt, Rollout
from agent.link.interfaces import ReceiptFacts
from agent.objects.errors import NOT_GONE
from agent.verify.intake import VerifiedCell, VerifiedEnd
from agent.verify.refusals import FINDINGS, action_of, is_passing, refusal_of
from cellward.errors import CellwardError
from cellward.wire.codec import DesiredItem

#: Makes the event of an outcome of what the driver sees then.
Outcome = Callable[[on.Sight], on.Event]


class Hands:
    """What is being done for one cell; documents and plan are kept here from step to step."""

    def __init__(
        self,
        parts: Parts,
        cell: Cell,
        pace: Pace,
        drift: DriftControl,
        narrowing: Narrowing,
        edges: Edges,
        on_receipt: OnReceipt,
        accepted: Callable[[DesiredItem], None],
    ) -> None:
        self._parts = parts
        self._cell = cell
        self._pace = pace
        self._drift = drift
        self._narrowing = narrowing
        self._edges = edges
        self._on_receipt = on_receipt
        self._rollout = Rollout(parts, accepted)
        self._attempt: Attempt | None = None
        self._end: VerifiedEnd | None = None
        self._steps: Mapping[type[do.Effect], Callable[[Any], Awaitable[Outcome]]] = {
            do.Narrow: self._narrow,
            do.Lift: self._lift,
            do.Verify: self._verify,
            do.Recall: self._recall,
            do.RecordFailure: self._record_failure,
            do.TakeTurn: self._take_turn,
            do.Decide: self._decide,
            do.Isolate: self._isolate,
            do.Prove: self._prove,
            do.TryOut: self._try_out,
            do.Apply: self._apply,
            do.Remove: self._remove,
            do.Send: self._send,
            do.RememberJobs: self._remember_jobs,
            do.CloseRollout: self._close_rollout,
            do.JudgeEdges: self._judge_edges,
            do.DropDocuments: self._drop_documents,
        }

    async def carry_out(self, effect: do.Effect) -> Outcome:
        """Carry out one effect; raises what stands in the way."""
        return await self._steps[type(effect)](effect)

    def forget(self) -> None:
        """The work is over."""
        self._attempt = self._end = None

    # -- what is withheld ---------------------------------------------------------------------------------------------

    async def _narrow(self, effect: do.Narrow) -> Outcome:
        """Withhold; what runs goes on running, under quarantine without any connection."""
        work = effect.work
        if work.item.hub_state != "quarantine":
            # Hold says nothing about isolation: a quarantine before it is lifted to what was released.
            await self._narrowing.lift(self._cell, work.item, work.correlation)
            return on.Narrowed
        try:
            await self._narrowing.quarantine(self._cell, work.item, work.correlation)
        except CellwardError:
            # What could not be closed is repaired from now on, at the pace of the ground.
            for owned in half_written(self._cell.record):
                self._drift.mark(owned.ref)
            raise
        return on.Narrowed

    async def _lift(self, effect: do.Lift) -> Outcome:
        work = effect.work
        await self._narrowing.lift(self._cell, work.item, work.correlation)
        # What is on record may be older than the floor, which decides.
        floor = await self._parts.state.floors.get(*work.item.key)
        return partial(on.Lifted, in_force=floor is None or floor.digest == work.item.deployment_digest)

    # -- documents ----------------------------------------------------------------------------------------------------

    async def _verify(self, effect: do.Verify) -> Outcome:
        work, record = effect.work, self._cell.record
        running = record.deployment_digest == work.item.deployment_digest
        if not running:
            self._parts.revoked.check_lock()
        verifying = self._parts.intake.verify(work.item, record.release_digest, record.settled_release)
        verified = await self._pace.fetch(verifying, accepted=running)
        if isinstance(verified, VerifiedEnd):
            self._end = verified
            return on.VerifiedEnd
        return self._begin(work, verified)

    async def _recall(self, effect: do.Recall) -> Outcome:
        """Verify the fallback; of a release that failed, only what may be applied now counts as one."""
        work = effect.work
        returning = work.purpose is Purpose.RETURN
        try:
            verified = await self._pace.fetch(self._parts.intake.fallback(work.item), accepted=True)
        except CellwardError as obstacle:
            if not returning or is_passing(obstacle):
                raise
            return partial(on.NoFallback, why=(refusal_of(obstacle, self._subject),))
        if returning and verified is not None:
            # A release is called failed only where its fallback may be applied; until then it may still get well.
            self._parts.gate.check_fresh(known=True)
            self._parts.fence.check()
        return on.NoFallback if verified is None else self._begin(work, verified)

    def _begin(self, work: Work, verified: VerifiedCell) -> Outcome:
        fallback = work.purpose in {Purpose.FALLBACK, Purpose.RETURN}
        self._attempt = Attempt(work.item, verified, work.correlation, fallback)
        return on.VerifiedRelease

    async def _record_failure(self, effect: do.RecordFailure) -> Outcome:
        entry = self._health_entry("failed", effect.work.reason)
        await self._parts.recorder.record_or_count(entry)
        return on.FailureRecorded

    # -- the release, in its turn -------------------------------------------------------------------------------------

    async def _take_turn(self, _: do.TakeTurn) -> Outcome:
        await self._pace.take_turn()
        return on.TurnTaken

    async def _decide(self, effect: do.Decide) -> Outcome:
        if effect.work.proved:
            refusals, if_proved = await self._rollout.decide_again(self._cell, self._found), False
        else:
            refusals, if_proved = await self._rollout.decide(self._cell, self._found)
        return partial(on.Denied, refusals=refusals) if refusals else partial(on.Allowed, if_proved=if_proved)

    async def _isolate(self, _: do.Isolate) -> Outcome:
        await self._rollout.isolate(self._cell, self._found)
        return on.Isolated

    async def _prove(self, _: do.Prove) -> Outcome:
        changed = await self._rollout.prove(self._cell, self._found)
        return partial(on.Proved, changed=changed)

    async def _try_out(self, _: do.TryOut) -> Outcome:
        await self._rollout.try_out(self._cell, self._found, self._pace.breathe)
        return on.DryRun

    async def _apply(self, _: do.Apply) -> Outcome:
        await self._rollout.apply(self._cell, self._found, self._pace.breathe)
        return on.Applied

    async def _remove(self, effect: do.Remove) -> Outcome:
        assert self._end is not None, "an end without its documents"
        work = effect.work
        try:
            refusals = await self._narrowing.end(self._cell, work.item, self._end, work.correlation)
        except CellwardError as error:
            if error.code != NOT_GONE.code:
                raise
            return partial(on.EndWaits, refusals=(refusal_of(error, work.item.deployment_digest),))
        return partial(on.Denied, refusals=refusals) if refusals else on.Ended

    @property
    def _found(self) -> Attempt:
        assert self._attempt is not None, "a step without its documents"
        return self._attempt

    # -- beside the work ----------------------------------------------------------------------------------------------

    async def _send(self, effect: do.Send) -> Outcome:
        """Record a refusal, then send the receipt (V13: durable first)."""
        answer = effect.answer
        item = answer.item
        for refusal in answer.refusals:
            action = action_of(refusal.code)
            if action == "cell.decide":
                continue  # the decision itself is on record
            entry = Entry(
                action,
                self._subject,
                "finding" if refusal.code in FINDINGS else "deny",
                code=refusal.code,
                rule=refusal.rule,
                reason=refusal.reason,
                correlation_id=answer.correlation,
                revision=item.revision,
                details={"deploymentDigest": item.deployment_digest},
            )
            await self._parts.recorder.record(entry)
        await self._on_receipt(
            ReceiptFacts(
                revision=item.revision,
                project=item.project,
                cell=item.cell,
                environment=item.environment,
                deployment_digest=item.deployment_digest,
                accepted=not answer.refusals,
                refusals=answer.refusals,
                correlation_id=answer.correlation,
            )
        )
        return partial(on.Answered, answer=answer)

    async def _remember_jobs(self, _: do.RememberJobs) -> Outcome:
        if self._cell.remember_done():
            await self._parts.keeping.save(self._cell, self._cell.record)
        return on.Noted

    async def _close_rollout(self, effect: do.CloseRollout) -> Outcome:
        """End the rollout. To say that it is over changes nothing in the cluster.

        Left open on a full disk, a release that has long been healthy could still be taken back: so it is counted.
        """
        ended = replace(self._cell.record, rollout_started="")
        if not effect.outcome:
            await self._parts.keeping.save(self._cell, ended)
            return on.Noted
        if effect.outcome == "done":
            ended = replace(ended, settled_release=ended.release_digest)
        await self._parts.keeping.save_counted(self._cell, ended, self._health_entry(effect.outcome, effect.reason))
        return on.Noted

    async def _judge_edges(self, _: do.JudgeEdges) -> Outcome:
        await self._edges.judge()
        return on.Noted

    async def _drop_documents(self, _: do.DropDocuments) -> Outcome:
        await self._parts.documents.supersede(self._cell.record)
        return on.Noted

    @property
    def _subject(self) -> str:
        return f"Cell/{self._cell.record.namespace}"

    def _health_entry(self, decision: str, reason: str) -> Entry:
        record = self._cell.record
        return Entry(
            "cell.health",
            self._subject,
            decision,
            code=UNHEALTHY.code if reason else "",
            reason=reason,
            details={"deploymentDigest": record.deployment_digest, "releaseDigest": record.release_digest},
        )
