"""Carries out the repairs of one cell: what and when is the machine's to say (``machine.repairs``).

It hands marks and outcomes to the machine, looks at the objects it names, and records what became of them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.keeping import Keeping
from agent.cells.machine import repairs
from agent.cells.machine.repairs import STRANGER, Failure
from agent.cells.slots import Slots
from agent.kube.interfaces import ObjectRef
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster, not_gone
from agent.objects.errors import FOREIGN_NAMESPACE, NOT_GONE
from agent.objects.mending import unrepaired
from agent.objects.model import OwnedObject, Role
from agent.objects.repair import Repairer
from agent.stamps.errors import PENDING
from agent.verify.refusals import unexpected
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of
from cellward.telemetry.metrics import AGENT_DRIFT_FAILURES, AGENT_DRIFT_REPAIRS, AGENT_DRIFT_SECONDS

_log = structlog.get_logger()

#: What a failed repair says of what stands in its way.
_FAILURES: Final = {
    FOREIGN_NAMESPACE.code: Failure.NOT_OURS,
    PENDING.code: Failure.NOT_OURS,
    NOT_GONE.code: Failure.NOT_GONE,
}

#: A record that could not be saved is saved again after so many seconds.
_SAVE_AGAIN: Final = 2.0


class DriftControl:
    """The drift of one cell.

    Attributes:
        state: what the machine knows of it.
    """

    def __init__(
        self,
        cluster: CellCluster,
        repairer: Repairer,
        recorder: RecorderPort,
        keeping: Keeping,
        metrics: AgentMetrics,
        timer: Timer,
        cell: Cell,
        slots: Slots,
    ) -> None:
        self.state = repairs.State()
        self._cluster = cluster
        self._repairer = repairer
        self._recorder = recorder
        self._keeping = keeping
        self._metrics = metrics
        self._timer = timer
        self._cell = cell
        self._slots = slots
        self._news = asyncio.Event()
        self._beside: dict[ObjectRef, asyncio.Task[None]] = {}
        self._unsaved = False
        #: When the record is saved again after that failed, monotonic seconds.
        self._save_at: float | None = None

    # -- what comes from outside --------------------------------------------------------------------------------------

    def mark(self, ref: ObjectRef) -> None:
        """Note that an object may have drifted."""
        self._step(repairs.Marked(ref, self._timer.monotonic()))
        self._news.set()

    def mark_deleted(self, ref: ObjectRef) -> None:
        """Note that an object is gone; what was deleted and waited for is looked at at once."""
        awaited = self._cell.record.going_at(ref) is not None
        self._step(repairs.Gone(ref, self._timer.monotonic(), awaited=awaited))
        self._news.set()

    def mark_stranger(self, ref: ObjectRef, uid: str) -> None:
        """Note a NetworkPolicy in the cell that is none of ours."""
        self._step(repairs.StrangerSeen(ref, self._timer.monotonic(), uid))
        self._news.set()

    def follow(self) -> None:
        """Look after what was deleted until it is gone."""
        for going in self._cell.record.going:
            self.mark(going.ref)

    def forgive(self) -> None:
        """Look again at once at what could not be repaired: the API server is back, or its roles are read."""
        self._step(repairs.Forgive())

    def due_at(self) -> float | None:
        """Return the monotonic time at which a marked object may be looked at, or the record is saved again."""
        times = (self._save_at, repairs.due_at(self.state, self._timer.monotonic()))
        return min((time for time in times if time is not None), default=None)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def repair_due(self) -> None:
        """Look at every marked object whose time has come, and return when that is done."""
        try:
            while True:
                self._news.clear()
                found = self._step(repairs.Look(self._timer.monotonic(), self._roles))
                in_turn = self._begin(found)
                if in_turn is not None:
                    await self._look(in_turn, self._slots.repair)
                elif self._beside:
                    await first_of(*self._beside.values(), self._news.wait())
                else:
                    break
                self._beside = {ref: task for ref, task in self._beside.items() if not task.done()}
        finally:
            await self._stop()
        if self._unsaved:
            await self._save()

    def _begin(self, found: tuple[repairs.Effect, ...]) -> ObjectRef | None:
        """Begin what is tried beside; return what is looked at in turn."""
        in_turn = None
        for effect in found:
            assert isinstance(effect, repairs.Examine)
            if effect.beside:
                self._beside[effect.ref] = asyncio.create_task(self._again(effect.ref), name=f"again-{effect.ref}")
            else:
                in_turn = effect.ref
        return in_turn

    async def _stop(self) -> None:
        tasks, self._beside = self._beside, {}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for ref in tasks:
            # One that was cancelled before its first step said nothing itself.
            self._interrupted(ref)

    async def _again(self, ref: ObjectRef) -> None:
        try:
            await self._look(ref, self._slots.again)
        except Exception:  # noqa: BLE001 - V16: that a failure cannot even be recorded must not stop the others
            _log.exception("drift-failure-not-recorded", object=str(ref))

    async def _look(self, ref: ObjectRef, slot: asyncio.Semaphore) -> None:
        try:
            async with slot:
                try:
                    await self._carry_out(self._step(await self._repair(ref)))
                except CellwardError as error:
                    await self._failed(ref, error)
                except Exception as error:  # noqa: BLE001 - V16: whatever it is, it stays marked and is tried again
                    _log.exception("drift-repair-crashed", object=str(ref))
                    await self._failed(ref, unexpected(error))
        finally:
            self._interrupted(ref)

    def _interrupted(self, ref: ObjectRef) -> None:
        if ref in self.state.looked_at:
            self._step(repairs.Interrupted(ref))

    def _step(self, event: repairs.Event) -> tuple[repairs.Effect, ...]:
        self.state, effects = repairs.step(self.state, event)
        return effects

    @property
    def _roles(self) -> repairs.Roles:
        return {owned.ref: owned.role for owned in self._cell.record.objects}

    async def _repair(self, ref: ObjectRef) -> repairs.Event:
        """Look at an object, bring it back, and return what became of it."""
        going = self._cell.record.going_at(ref)
        if going is not None:
            await self._see_off(going)
        owned, stranger = self._cell.record.by_ref().get(ref), self.state.strangers.get(ref)
        if owned is None and stranger is not None:
            await self._owe(ref, STRANGER)
            removed = await self._repairer.remove_foreign_policy(ref, stranger)
            return repairs.StrangerRemoved(ref, self._timer.monotonic(), by_us=removed)
        if owned is None or not self._wanted(owned):
            return repairs.Unwanted(ref)
        if self._cell.is_done(owned):
            await self._repairer.clear_done(self._cell.record, owned, lambda cause: self._owe(ref, cause))
            return repairs.Well(ref, self._timer.monotonic(), owned.role)
        isolated = repairs.is_isolated(self.state, self._roles)
        repair = await self._repairer.check(
            self._cell.record, owned, lambda cause: self._owe(ref, cause), isolated=isolated
        )
        if repair is None:
            return repairs.Well(ref, self._timer.monotonic(), owned.role)
        made = repair.owned.uid != self._cell.record.by_ref()[ref].uid
        self._cell.record = self._cell.record.with_object(repair.owned)
        self._unsaved = True
        return repairs.Repaired(ref, self._timer.monotonic(), owned.role, repair.cause, exact=repair.exact, made=made)

    async def _see_off(self, going: OwnedObject) -> None:
        """Take what was deleted off the record once it is gone; raises apply/deletion-pending before."""
        left = await self._cluster.let_go(going)
        if left is not None:
            raise not_gone(going.ref, left)
        self._cell.record = self._cell.record.without_going(going.ref)
        self._unsaved = True
        entry = Entry("object.delete", str(going.ref), "done", reason="it is gone", details=self._labels)
        await self._recorder.record_or_count(entry)

    def _wanted(self, owned: OwnedObject) -> bool:
        """Whether the object is to be there; what was never applied is the rollout's business."""
        if self._cell.record.ending == "all" or owned.retained or owned.found or not owned.uid:
            return False
        if self._cell.record.ending and owned.role is Role.OBJECT:
            return False
        # While a release is applied, its turn comes: what it needs is written before it.
        return not (self._cell.applying and not owned.baseline and owned.role is Role.OBJECT)

    async def _owe(self, ref: ObjectRef, cause: str) -> None:
        """Note that a repair is to be recorded before it is begun: an agent may be killed in between (V13)."""
        await self._carry_out(self._step(repairs.Writing(ref, cause)))

    async def _failed(self, ref: ObjectRef, error: CellwardError) -> None:
        _log.warning("drift-repair-failed", object=str(ref), code=error.code, reason=error.message)
        owned = self._cell.record.by_ref().get(ref)
        role = owned.role if owned is not None else Role.OBJECT
        failure = _FAILURES.get(error.code, Failure.REFUSED)
        await self._carry_out(self._step(repairs.Failed(ref, self._timer.monotonic(), role, failure)), error)

    # -- what is done -------------------------------------------------------------------------------------------------

    async def _carry_out(self, effects: tuple[repairs.Effect, ...], error: CellwardError | None = None) -> None:
        """Do what the machine says; ``error`` is what a failure is reported with. A full spool blocks nothing (V13)."""
        for effect in effects:
            match effect:
                case repairs.Owe(ref, cause):
                    entry = Entry("drift.repair", str(ref), "done", reason=cause, details=self._labels)
                    await self._recorder.owe(_debt(ref), entry)
                case repairs.Record():
                    await self._record(effect)
                case repairs.CountFailure(ref):
                    self._metrics.increment(AGENT_DRIFT_FAILURES, kind=ref.kind, **self._labels)
                case repairs.Hide(ref):
                    self._cell.unrepaired.pop(ref, None)
                case repairs.Show(ref, cause) if error is not None:
                    self._cell.unrepaired[ref] = unrepaired(ref, cause, error, self._cell.record.namespace)
                case repairs.RecordFailure() if error is not None:
                    await self._record_failure(effect, error)
                case _:
                    raise NotImplementedError(type(effect).__name__)

    async def _record(self, done: repairs.Record) -> None:
        self._cell.repairs += 1
        self._metrics.increment(AGENT_DRIFT_REPAIRS, kind=done.ref.kind, **self._labels)
        self._metrics.observe(AGENT_DRIFT_SECONDS, done.seconds)
        _log.warning("drift-repaired", object=str(done.ref), cause=done.cause, exact=done.exact)
        entry = Entry(
            "drift.repair",
            str(done.ref),
            "done" if done.exact else "finding",
            reason=done.cause if done.exact else f"{done.cause}; the API server keeps changing it",
            details={**self._labels, "durationMs": str(round(done.seconds * 1000)), "count": str(done.count)},
        )
        await self._recorder.record_or_count(entry, owed=_debt(done.ref))

    async def _record_failure(self, failed: repairs.RecordFailure, error: CellwardError) -> None:
        ref, condition = failed.ref, self._cell.unrepaired[failed.ref]
        _log.error("drift-not-repaired", object=str(ref), code=error.code, reason=condition.message)
        action = "drift.repair" if self._cell.record.going_at(ref) is None else "object.delete"
        entry = Entry(
            action, str(ref), "failed", code=condition.code, rule=error.details.get("rule", ""),
            reason=condition.message, details={**self._labels, "count": str(failed.count)},
        )  # fmt: skip
        await self._recorder.record_or_count(entry, owed=_debt(ref))

    @property
    def _labels(self) -> dict[str, str]:
        record = self._cell.record
        return {"project": record.project, "cell": record.cell, "environment": record.environment}

    async def _save(self) -> None:
        try:
            await self._keeping.save(self._cell, self._cell.record)
        except CellwardError as error:
            # The repair itself stands; the record is written when there is space again, which nobody tells.
            self._save_at = self._timer.monotonic() + _SAVE_AGAIN
            _log.error("record-not-saved", namespace=self._cell.record.namespace, code=error.code)
        else:
            self._unsaved, self._save_at = False, None


def _debt(ref: ObjectRef) -> str:
    return f"drift/{ref}"
