"""One worker per cell: everything that changes a cell happens in its turn, one thing at a time.

A newer desired item replaces one that was not taken up yet, also while its documents are still being fetched. Drift is
repaired first, then the item is carried out, then what was accepted before it, then health is judged. Neither repairs
nor narrowing wait for a release, their own or another cell's: see ``pace``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import replace

import structlog

from agent.audit.interfaces import Entry, RefusalText
from agent.cells.cell import Cell
from agent.cells.drift import DriftControl
from agent.cells.edges import Edges
from agent.cells.errors import HELD, UNHEALTHY
from agent.cells.interfaces import OnReceipt, OnStatus
from agent.cells.judge import Judge
from agent.cells.narrow import Narrowing, half_written
from agent.cells.pace import Pace, SupersededError
from agent.cells.parts import Parts
from agent.cells.restamp import Restamping
from agent.cells.rollout import Rollout
from agent.cells.slots import Slots
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.objects.model import CellRecord, Phase
from agent.verify.intake import VerifiedCell, VerifiedEnd
from agent.verify.refusals import FINDINGS, action_of, is_passing, refusal_of, unexpected
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.tasks import is_being_cancelled
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()

#: Refusals by the cluster itself, which somebody may mend there without signing anything; asked again now and then.
_MAY_HEAL = ("kube/", "cell/namespace-not-ours", "cell/object-not-ours")
_HEAL_SECONDS = 60.0


class CellWorker:
    """Mailbox and turn of one cell."""

    def __init__(self, cell: Cell, parts: Parts, slots: Slots, on_receipt: OnReceipt, on_status: OnStatus) -> None:
        self.cell = cell
        self.drift = DriftControl(parts, cell, slots)
        self._parts = parts
        self._on_receipt = on_receipt
        self._on_status = on_status
        self._rollout = Rollout(parts)
        self._narrowing = Narrowing(parts)
        self._pace = Pace(parts.timer, slots, self.drift, Restamping(parts, cell, self.drift))
        #: When the item is tried again, and when what was accepted before it.
        self._retry_at: float | None = None
        self._finish_at: float | None = None
        self._judge = Judge(parts, cell)
        self._edges = Edges(parts, cell, self._narrowing)
        self._called_failed = ("", "")
        #: Deployment and releases whose documents are kept.
        record = cell.record
        self._in_force = (record.deployment_digest, record.release_digest, record.settled_release)
        self._untold: DesiredItem | None = None
        #: Whether a newer signed set isolates the cell, or no longer does.
        self._renarrow = False
        self._backoff = FullJitter(0.5, 30.0)
        self._reported: CellReport | None = None

    def offer(self, item: DesiredItem) -> None:
        """Take the newest item; one that was not taken up yet is replaced."""
        self._pace.pending = item
        self._backoff.reset()
        self.wake()

    def wake(self) -> None:
        """Ask for a turn."""
        self._pace.wake()

    def reconsider(self) -> None:
        """Try again what was refused or is waiting, repairs too; what is held stays held, unless signatures changed."""
        self.drift.forgive()
        if self._parts.revoked.changes(self.cell.item, self.cell.record):
            self._renarrow = True
            self.wake()
        if self.drift.due_at() is not None:
            self.wake()
        if self.cell.item is not None and self.cell.blocked in {Phase.REFUSED, Phase.VERIFYING}:
            self._pace.pending = self._pace.pending or self.cell.item
            self.wake()

    @property
    def is_over(self) -> bool:
        """Whether the cell ended, nothing is left of it, and nobody asks for anything else."""
        record, item = self.cell.record, self._pace.pending or self.cell.item
        ended = bool(record.ending) and record.settled and not record.objects and not record.going
        return ended and self._untold is None and (item is None or item.deployment_digest == record.deployment_digest)

    async def run(self) -> None:
        """Take turns for ever; ends only by cancellation."""
        if self._unfinished:
            self._finish_at = self._parts.timer.monotonic()
        if self._parts.revoked.changes(None, self.cell.record):
            self._renarrow = True
            self.wake()
        while True:
            await self._pace.sleep((self.drift.due_at(), self._retry_at, self._finish_at, self._judge.due_at()))
            try:
                await self._turn()
            except CellwardError as error:
                _log.warning("turn-interrupted", cell=self.cell.record.namespace, code=error.code, reason=error.message)
                self._retry_later()
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # What was waited for was cancelled, not this worker; passed on, its group would not notice the end.
                _log.exception("turn-cancelled", cell=self.cell.record.namespace)
                self._judge.postpone()
                self._retry_later()
            except Exception as error:  # noqa: BLE001 - V16: one cell's fault must not end the process
                _log.exception("turn-failed", cell=self.cell.record.namespace)
                self._block(Phase.REFUSED, (refusal_of(unexpected(error), self._subject),))
                self._judge.postpone()
                await self._report()
            self._plan_finish()

    @property
    def _subject(self) -> str:
        return f"Cell/{self.cell.record.namespace}"

    async def _turn(self) -> None:
        await self._pace.repair()
        if self._retry_at is not None and self._retry_at <= self._parts.timer.monotonic():
            self._retry_at = None
            self._pace.pending = self._pace.pending or self.cell.item
        item, self._pace.pending = self._pace.pending, None
        if self._renarrow:
            self._renarrow = False
            # A cell that no hub names any more is isolated all the same.
            item = item or self.cell.item or await self._accepted()
        if item is not None:
            self.cell.take(item)
            self._retry_at = None
            await self._carry_out(item)
        await self._finish()
        self.drift.follow()
        with contextlib.suppress(SupersededError):
            await self._judge_health()
        await self._edges.judge()
        await self._supersede()
        await self._report()

    async def _supersede(self) -> None:
        """Drop the documents of what was replaced: a full spool must not keep out what comes next."""
        record = self.cell.record
        in_force = (record.deployment_digest, record.release_digest, record.settled_release)
        if in_force != self._in_force:
            self._in_force = in_force
            await self._parts.documents.supersede(record)

    # -- items --------------------------------------------------------------------------------------------------------

    async def _carry_out(self, item: DesiredItem) -> None:
        """Carry out the newest item, or go on with the accepted one; say what became of it."""
        correlation_id = secrets.token_hex(8)
        if item.deployment_digest == self.cell.record.deployment_digest:
            self._finish_at = None
        try:
            refusals = await self._converge(item, correlation_id)
        except SupersededError:
            return
        except CellwardError as error:
            refusals = (refusal_of(error, item.deployment_digest),)
            if is_passing(error):
                self._obstructed(item, Phase.VERIFYING, refusals)
                _log.info("item-waits", cell=self.cell.record.namespace, code=error.code, reason=error.message)
                return
        if self.cell.blocked is Phase.HELD:
            return
        if refusals:
            self._obstructed(item, Phase.REFUSED, refusals)
        else:
            refusals = self._came_through(item)
        await self._answer(item, refusals, correlation_id)

    def _is_newest(self, item: DesiredItem) -> bool:
        return self.cell.item is None or self.cell.item.deployment_digest == item.deployment_digest

    def _obstructed(self, item: DesiredItem, phase: Phase, refusals: tuple[RefusalText, ...]) -> None:
        """Say what stands in the way, and plan the next try; what is accepted is finished in any case."""
        if self._is_newest(item):
            self._block(phase, refusals)
        else:
            self.cell.trouble = refusals
        if self._unfinished and item.deployment_digest == self.cell.record.deployment_digest:
            return
        if phase is Phase.VERIFYING:
            self._retry_later()
        elif refusals[0].code.startswith(_MAY_HEAL):
            self._retry_at = self._parts.timer.monotonic() + _HEAL_SECONDS

    def _came_through(self, item: DesiredItem) -> tuple[RefusalText, ...]:
        """Return what there is to say of it all the same: a fallback is not what was deployed."""
        cell = self.cell
        self._backoff.reset()
        if self._is_newest(item):
            cell.blocked, cell.refusals = None, ()
        if not cell.record.fallback_active:
            cell.trouble = ()
        else:
            error = UNHEALTHY("the release did not become healthy; its fallback runs", object=self._subject)
            said = tuple(one for one in cell.trouble if one.code == UNHEALTHY.code)
            cell.trouble = said or (refusal_of(error, self._subject),)
        return cell.trouble

    async def _converge(self, item: DesiredItem, correlation_id: str) -> tuple[RefusalText, ...]:
        cell, record = self.cell, self.cell.record
        running = record.deployment_digest == item.deployment_digest
        item = self._parts.revoked.narrowed(item, record)
        if item.hub_state != "run":
            await self._hold(item, correlation_id, running=running)
            return ()
        cell.blocked = None if cell.blocked is Phase.HELD else cell.blocked
        await self._narrowing.lift(cell, item, correlation_id)
        in_force = running and await self._is_in_force(item)
        if in_force and record.settled:
            return ()
        if not running:
            self._parts.revoked.check_lock()
        await self._report_progress()
        if in_force and record.fallback_active:
            back = await self._pace.fetch(self._parts.intake.fallback(item), accepted=True)
            if back is not None:
                return await self._release(item, back, correlation_id, fallback=True)
        verifying = self._parts.intake.verify(item, record.release_digest, record.settled_release)
        verified = await self._pace.fetch(verifying, accepted=running)
        if isinstance(verified, VerifiedEnd):
            async with self._pace.working():
                return await self._narrowing.end(cell, item, verified, correlation_id, self._pace.breathe)
        return await self._release(item, verified, correlation_id)

    async def _is_in_force(self, item: DesiredItem) -> bool:
        """Whether nothing else was accepted since; what is on record may be older than the floor, which decides."""
        floor = await self._parts.state.floors.get(*item.key)
        return floor is None or floor.digest == item.deployment_digest

    async def _release(
        self, item: DesiredItem, verified: VerifiedCell, correlation_id: str, *, fallback: bool = False
    ) -> tuple[RefusalText, ...]:
        async with self._pace.working():
            return await self._rollout.run(
                self.cell, item, verified, correlation_id, self._pace.breathe, fallback=fallback
            )

    async def _hold(self, item: DesiredItem, correlation_id: str, *, running: bool) -> None:
        """Withhold; what runs goes on running, under quarantine without any connection."""
        if item.hub_state == "quarantine":
            try:
                await self._narrowing.quarantine(self.cell, item, correlation_id)
            except CellwardError:
                # What could not be closed is repaired from now on, at the pace of the ground.
                for owned in half_written(self.cell.record):
                    self.drift.mark(owned.ref)
                raise
        else:
            # Hold says nothing about isolation: a quarantine before it is lifted to what was released.
            await self._narrowing.lift(self.cell, item, correlation_id)
        if running and item.hub_state == "hold" and self.cell.record.settled:
            self.cell.blocked, self.cell.refusals = None, ()
            return
        text = "the hub quarantines the cell" if item.hub_state == "quarantine" else "the hub holds this deployment"
        text = self._parts.revoked.why_quarantined(self.cell.record) or text
        self._block(Phase.HELD, (refusal_of(HELD(text), item.deployment_digest),))

    async def _answer(self, item: DesiredItem, refusals: tuple[RefusalText, ...], correlation_id: str) -> None:
        """Record a refusal, then send the receipt; never twice about the same (V13: durable first)."""
        about = (item.revision, item.deployment_digest, refusals)
        if about == self.cell.answered.get(item.deployment_digest):
            return
        for refusal in refusals:
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
                correlation_id=correlation_id,
                revision=item.revision,
                details={"deploymentDigest": item.deployment_digest},
            )
            await self._parts.recorder.record(entry)
        await self._send(item, refusals, correlation_id)
        # Only now: what could not be made durable is said again at the next try.
        self.cell.answered[item.deployment_digest] = about

    async def _send(self, item: DesiredItem, refusals: tuple[RefusalText, ...], correlation_id: str) -> None:
        await self._on_receipt(
            ReceiptFacts(
                revision=item.revision,
                project=item.project,
                cell=item.cell,
                environment=item.environment,
                deployment_digest=item.deployment_digest,
                accepted=not refusals,
                refusals=refusals,
                correlation_id=correlation_id,
            )
        )

    def _block(self, phase: Phase, refusals: tuple[RefusalText, ...]) -> None:
        self.cell.blocked, self.cell.refusals = phase, refusals

    def _retry_later(self) -> None:
        self._retry_at = self._parts.timer.monotonic() + self._backoff.next()

    # -- what was accepted --------------------------------------------------------------------------------------------

    @property
    def _unfinished(self) -> bool:
        """Whether something was accepted and is not wholly applied, and nobody withholds it."""
        record = self.cell.record
        withheld = self.cell.blocked is Phase.HELD or record.quarantined
        return bool(record.deployment_digest) and not record.settled and not withheld

    def _plan_finish(self) -> None:
        if not self._unfinished:
            self._finish_at = None
        elif self._finish_at is None:
            self._finish_at = self._parts.timer.monotonic() + self._backoff.next()

    async def _finish(self) -> None:
        """Go on with what was accepted, whatever became of a newer item: half a release is nothing to stay with."""
        if self._finish_at is None or not self._unfinished or self._finish_at > self._parts.timer.monotonic():
            return
        self._finish_at = None
        await self._carry_out(await self._accepted())

    async def _accepted(self) -> DesiredItem:
        """Return the item of what is in force; a newer one may have been refused since."""
        record, item = self.cell.record, self.cell.item
        if item is None or item.deployment_digest != record.deployment_digest:
            item = await self._parts.state.accepted.get(*record.key)
        if item is None or item.deployment_digest != record.deployment_digest:
            item = DesiredItem(0, *record.key, record.deployment_digest)
        return item

    async def _judge_health(self) -> None:
        """Settle a rollout that became healthy; return to the fallback from one that did not."""
        cell = self.cell
        try:
            if cell.remember_done():
                await self._parts.save(cell, cell.record)
            await self._tell()
            verdict = self._judge.verdict()
            if verdict is not None and verdict.ready:
                await self._end_rollout("done", "")
            elif verdict is not None:
                await self._fall_back(verdict.reason)
        except CellwardError as error:
            # Not at once again: a full disk stays full for a while.
            self._judge.postpone()
            if self._untold is not None:
                self._retry_later()
            _log.warning("rollout-stays-open", cell=cell.record.namespace, code=error.code, reason=error.message)

    async def _end_rollout(self, decision: str, reason: str) -> None:
        # To say that it is over changes nothing in the cluster; left open on a full disk, a release that has long been
        # healthy could still be taken back.
        entry = self._health_entry(decision, reason)
        ended = _without_rollout(self.cell)
        if decision == "done":
            ended = replace(ended, settled_release=ended.release_digest)
        await self._parts.save_counted(self.cell, ended, entry)

    def _health_entry(self, decision: str, reason: str) -> Entry:
        cell = self.cell
        return Entry(
            "cell.health",
            self._subject,
            decision,
            code=UNHEALTHY.code if reason else "",
            reason=reason,
            details={"deploymentDigest": cell.record.deployment_digest, "releaseDigest": cell.record.release_digest},
        )

    async def _fall_back(self, reason: str) -> None:
        """Go back to the release the Deployment names, once; without one stay degraded and say so."""
        cell, item = self.cell, await self._accepted()
        verified, why = (None, ()) if cell.record.fallback_active else await self._way_back(item)
        error = UNHEALTHY(reason, object=self._subject)
        cell.trouble = (refusal_of(error, self._subject), *why)
        if verified is None:
            await self._end_rollout("failed", error.message)
        else:
            # The rollout ends by that of the fallback, not before: an interruption would leave the failed release.
            about = (cell.record.release_digest, cell.record.rollout_started)
            if about != self._called_failed:
                await self._parts.recorder.record_or_count(self._health_entry("failed", error.message))
                self._called_failed = about
            await self._apply_fallback(item, verified)
        self._untold = item
        await self._tell()

    async def _way_back(self, item: DesiredItem) -> tuple[VerifiedCell | None, tuple[RefusalText, ...]]:
        """Return the fallback, or why what the Deployment names does not hold."""
        try:
            verified = await self._pace.fetch(self._parts.intake.fallback(item), accepted=True)
        except CellwardError as obstacle:
            if is_passing(obstacle):
                raise
            return None, (refusal_of(obstacle, self._subject),)
        # A release is called failed only where its fallback may be applied; until then it may still get well.
        self._parts.gate.check_fresh(known=True)
        self._parts.fence.check()
        return verified, ()

    async def _tell(self) -> None:
        """Answer for what was accepted and went wrong; until that is on record it is owed."""
        if self._untold is not None:
            await self._answer(self._untold, self.cell.trouble, secrets.token_hex(8))
            self._untold = None

    async def _apply_fallback(self, item: DesiredItem, verified: VerifiedCell) -> None:
        """Apply the fallback; what stands in the way of it is part of the trouble."""
        cell = self.cell
        try:
            why = await self._release(item, verified, secrets.token_hex(8), fallback=True)
        except CellwardError as obstacle:
            if is_passing(obstacle):
                raise
            why = (refusal_of(obstacle, self._subject),)
        cell.trouble = (*cell.trouble, *why)
        if self._is_newest(item) and not why:
            cell.blocked, cell.refusals = None, ()
        if cell.record.fallback_active:
            return  # also when only a part of it is applied yet: it is finished like everything accepted
        if why and why[0].code.startswith(_MAY_HEAL):
            self._judge.postpone(_HEAL_SECONDS)
        else:
            await self._parts.save(cell, _without_rollout(cell))

    # -- reports ------------------------------------------------------------------------------------------------------

    async def _report_progress(self) -> None:
        if self.cell.blocked is None:
            await self._report()

    async def _report(self) -> None:
        report = self.cell.report()
        if report != self._reported:
            self._reported = report
            await self._on_status(report)


def _without_rollout(cell: Cell) -> CellRecord:
    return replace(cell.record, rollout_started="")
