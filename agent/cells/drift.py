"""Repairs what was marked, with patience for whoever fights back, and records each repair.

No object waits for another one that cannot be repaired: what failed before is tried beside the others. The one thing
that waits is a workload that is gone, for as long as its cell is not isolated (V9).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.keeping import Keeping
from agent.cells.slots import Slots
from agent.kube.interfaces import ObjectRef
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster, not_gone
from agent.objects.errors import FOREIGN_NAMESPACE, NOT_GONE
from agent.objects.mending import unrepaired
from agent.objects.model import OwnedObject, Role
from agent.objects.order import apply_rank
from agent.objects.patience import TOLD_AFTER, TOLD_LATE, Fight
from agent.objects.repair import DELETED, Repair, Repairer
from agent.stamps.errors import PENDING
from agent.verify.refusals import unexpected
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of
from cellward.telemetry.metrics import AGENT_DRIFT_FAILURES, AGENT_DRIFT_REPAIRS, AGENT_DRIFT_SECONDS

_log = structlog.get_logger()

_LONGEST_WAIT: Final = 60.0
#: Longest wait for the ground of a cell, its namespace, isolation and rights: patience there would be an open door.
_LONGEST_GROUND_WAIT: Final = 1.0

#: What a repair of a namespace says of one that somebody else made.
_NOT_OURS: Final = frozenset({FOREIGN_NAMESPACE.code, PENDING.code})
_STRANGER: Final = "a policy that is not of this cell"


class DriftControl:
    """The drift of one cell: what is marked, since when, and how often it came back."""

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
        self._cluster = cluster
        self._repairer = repairer
        self._recorder = recorder
        self._keeping = keeping
        self._metrics = metrics
        self._timer = timer
        self._cell = cell
        self._slots = slots
        self._marked: dict[ObjectRef, float] = {}
        self._news = asyncio.Event()
        self._strangers: dict[ObjectRef, str] = {}
        self._fights: dict[ObjectRef, Fight] = {}
        #: What is being looked at now, and what of it is tried again, beside the others.
        self._looking: set[ObjectRef] = set()
        self._trying: dict[ObjectRef, asyncio.Task[None]] = {}
        #: The namespace, while somebody else's stands in its place: nothing is to run in that one.
        self._not_ours: set[ObjectRef] = set()
        # Why what is being written now is written, until that is recorded.
        self._owed: dict[ObjectRef, str] = {}
        self._unsaved = False

    def mark(self, ref: ObjectRef) -> None:
        """Note that an object may have drifted; the time of the first mark counts."""
        self._marked.setdefault(ref, self._timer.monotonic())
        self._news.set()

    def mark_deleted(self, ref: ObjectRef) -> None:
        """Note that an object is gone; what was deleted and waited for is looked at at once."""
        if self._cell.record.going_at(ref) is not None and ref in self._fights:
            self._fights[ref].forgive()
        self.mark(ref)

    def mark_stranger(self, ref: ObjectRef, uid: str) -> None:
        """Note a NetworkPolicy in the cell that is none of ours."""
        self._strangers[ref] = uid
        self.mark(ref)

    def forgive(self) -> None:
        """Look again at once at what could not be repaired: the API server is back, or its roles are read."""
        for fight in self._fights.values():
            fight.forgive()

    def due_at(self) -> float | None:
        """Return the monotonic time at which the next marked object may be looked at."""
        return min((self._fight(ref).not_before for ref in self._marked), default=None)

    async def repair_due(self) -> None:
        """Look at every marked object whose time has come, and return when that is done.

        One after the other, the ground first, all of it before any workload (V9); what failed before beside them.
        """
        try:
            while True:
                self._news.clear()
                fresh = sorted(self._due(), key=self._rank)
                for ref in [ref for ref in fresh if self._fight(ref).failed]:
                    fresh.remove(ref)
                    self._trying[ref] = asyncio.create_task(self._again(ref), name=f"again-{ref}")
                if fresh:
                    await self._look(fresh[0], self._slots.repair)
                elif self._trying:
                    await first_of(*self._trying.values(), self._news.wait())
                else:
                    break
                self._trying = {ref: task for ref, task in self._trying.items() if not task.done()}
        finally:
            await self._stop()
        if self._unsaved:
            await self._save()

    def _due(self) -> list[ObjectRef]:
        now = self._timer.monotonic()
        return [ref for ref in self._marked if self._fight(ref).not_before <= now and not self._is_looked_at(ref)]

    def _is_looked_at(self, ref: ObjectRef) -> bool:
        return ref in self._looking or ref in self._trying

    async def _stop(self) -> None:
        tasks, self._trying = tuple(self._trying.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, ref: ObjectRef) -> None:
        try:
            await self._look(ref, self._slots.again)
        except Exception:  # noqa: BLE001 - V16: that a failure cannot even be recorded must not stop the others
            _log.exception("drift-failure-not-recorded", object=str(ref))

    async def _look(self, ref: ObjectRef, slot: asyncio.Semaphore) -> None:
        with self._taken(ref) as since:
            async with slot:
                try:
                    await self._repair(ref, since)
                except CellwardError as error:
                    await self._postpone(ref, since, error)
                except Exception as error:  # noqa: BLE001 - V16: whatever it is, it stays marked and is tried again
                    _log.exception("drift-repair-crashed", object=str(ref))
                    await self._postpone(ref, since, unexpected(error))

    @contextlib.contextmanager
    def _taken(self, ref: ObjectRef) -> Iterator[float]:
        """Take the mark off before looking, an event that comes meanwhile sets it again; yield since when it was on."""
        since = self._marked.pop(ref)
        self._looking.add(ref)
        try:
            yield since
        except BaseException:
            self._marked.setdefault(ref, since)
            raise
        finally:
            self._looking.discard(ref)

    def _rank(self, ref: ObjectRef) -> tuple[bool, int, ObjectRef]:
        return self._follows(ref), apply_rank(ref.kind), ref

    def _follows(self, ref: ObjectRef) -> bool:
        """Whether it comes after the ground: an object of the release; a policy of a stranger goes at once."""
        return self._role(ref) is Role.OBJECT and ref not in self._strangers

    def _role(self, ref: ObjectRef) -> Role:
        owned = self._cell.record.by_ref().get(ref)
        return owned.role if owned is not None else Role.OBJECT

    def _isolated(self) -> bool:
        """Whether nothing is known to be wrong with the isolation of the cell, and its namespace is its own."""
        if self._not_ours:
            return False
        doubtful = {*self._marked, *self._looking}
        return not any(ref in self._strangers or self._role(ref) is Role.ISOLATION for ref in doubtful)

    def _longest_wait(self, ref: ObjectRef) -> float:
        return _LONGEST_WAIT if self._follows(ref) else _LONGEST_GROUND_WAIT

    def follow(self) -> None:
        """Look after what was deleted until it is gone."""
        for going in self._cell.record.going:
            self.mark(going.ref)

    async def _see_off(self, going: OwnedObject) -> None:
        """Take what was deleted off the record once it is gone; raises apply/deletion-pending before."""
        left = await self._cluster.let_go(going)
        if left is not None:
            raise not_gone(going.ref, left)
        self._cell.record = self._cell.record.without_going(going.ref)
        self._unsaved = True
        entry = Entry("object.delete", str(going.ref), "done", reason="it is gone", details=self._labels)
        await self._recorder.record_or_count(entry)

    async def _repair(self, ref: ObjectRef, since: float) -> None:
        going = self._cell.record.going_at(ref)
        if going is not None:
            await self._see_off(going)
        owned = self._cell.record.by_ref().get(ref)
        if owned is None and ref in self._strangers:
            await self._owe(ref, _STRANGER)
            removed = await self._repairer.remove_foreign_policy(ref, self._strangers[ref])
            self._strangers.pop(ref, None)
            if removed:
                await self._note(ref, _STRANGER, since, exact=True)
        if owned is None or not self._wanted(owned):
            self._well(ref)
            return
        if self._cell.is_done(owned):
            await self._repairer.clear_done(self._cell.record, owned, lambda cause: self._owe(ref, cause))
            if ref in self._owed:
                await self._note(ref, self._owed[ref], since, exact=True)
            self._well(ref)
            return
        repair = await self._repairer.check(
            self._cell.record, owned, lambda cause: self._owe(ref, cause), isolated=self._isolated()
        )
        if repair is not None:
            await self._take(repair, since)
        elif ref in self._owed:
            # A write that seemed to fail came through after all.
            await self._note(ref, self._owed[ref], since, exact=True)
        self._well(ref)

    def _wanted(self, owned: OwnedObject) -> bool:
        """Whether the object is to be there; what was never applied is the rollout's business."""
        if self._cell.record.ending == "all" or owned.retained or owned.found or not owned.uid:
            return False
        if self._cell.record.ending and owned.role is Role.OBJECT:
            return False
        # While a release is applied, its turn comes: what it needs is written before it.
        return not (self._cell.applying and not owned.baseline and owned.role is Role.OBJECT)

    async def _take(self, repair: Repair, since: float) -> None:
        known = self._cell.record.by_ref()[repair.owned.ref]
        self._cell.record = self._cell.record.with_object(repair.owned)
        self._unsaved = True
        if repair.owned.role is not Role.OBJECT:
            # That something could not be put back on other ground says nothing any more.
            self.forgive()
        if repair.owned.role is Role.NAMESPACE and repair.owned.uid != known.uid:
            self._fights.clear()  # what was in it went with it
        cause = self._owed.get(repair.owned.ref, repair.cause)
        await self._note(repair.owned.ref, cause, since, exact=repair.exact)

    async def _note(self, ref: ObjectRef, cause: str, since: float, *, exact: bool) -> None:
        """Count, time and record a repair; a full spool never blocks it (V13)."""
        now = self._timer.monotonic()
        fight = self._fight(ref)
        fight.repaired(now, self._longest_wait(ref))
        self._cell.repairs += 1
        self._metrics.increment(AGENT_DRIFT_REPAIRS, kind=ref.kind, **self._labels)
        self._metrics.observe(AGENT_DRIFT_SECONDS, now - since)
        _log.warning("drift-repaired", object=str(ref), cause=cause, exact=exact)
        entry = Entry(
            "drift.repair",
            str(ref),
            "done" if exact else "finding",
            reason=cause if exact else f"{cause}; the API server keeps changing it",
            details={**self._labels, "durationMs": str(round((now - since) * 1000)), "count": str(fight.count)},
        )
        self._owed.pop(ref, None)
        await self._recorder.record_or_count(entry, owed=_debt(ref))

    @property
    def _labels(self) -> dict[str, str]:
        record = self._cell.record
        return {"project": record.project, "cell": record.cell, "environment": record.environment}

    async def _owe(self, ref: ObjectRef, cause: str) -> None:
        """Note that a repair is to be recorded before it is begun: an agent may be killed in between (V13)."""
        if self._owed.get(ref) == cause or (cause == DELETED and ref in self._owed):
            return  # that it is gone by now is our own doing
        self._owed[ref] = cause
        entry = Entry("drift.repair", str(ref), "done", reason=cause, details=self._labels)
        await self._recorder.owe(_debt(ref), entry)

    def _fight(self, ref: ObjectRef) -> Fight:
        fight = self._fights.setdefault(ref, Fight())
        fight.rest(self._timer.monotonic())
        return fight

    def _well(self, ref: ObjectRef) -> None:
        self._fight(ref).well()
        self._not_ours.discard(ref)
        self._cell.unrepaired.pop(ref, None)

    async def _postpone(self, ref: ObjectRef, since: float, error: CellwardError) -> None:
        """Try again later, beside the others; what fails twice is told of (V15)."""
        self._marked.setdefault(ref, since)
        if error.code in _NOT_OURS:
            self._not_ours.add(ref)
        fight = self._fight(ref)
        fight.refused(self._timer.monotonic(), self._longest_wait(ref))
        self._metrics.increment(AGENT_DRIFT_FAILURES, kind=ref.kind, **self._labels)
        _log.warning("drift-repair-failed", object=str(ref), code=error.code, reason=error.message)
        if fight.failed < (TOLD_LATE if error.code == NOT_GONE.code else TOLD_AFTER):
            return
        condition = unrepaired(ref, self._owed.get(ref, ""), error, self._cell.record.namespace)
        self._cell.unrepaired[ref] = condition
        if fight.told:
            return
        fight.told = True
        self._owed.pop(ref, None)
        _log.error("drift-not-repaired", object=str(ref), code=error.code, reason=condition.message)
        action = "drift.repair" if self._cell.record.going_at(ref) is None else "object.delete"
        entry = Entry(
            action, str(ref), "failed", code=condition.code, rule=error.details.get("rule", ""),
            reason=condition.message, details={**self._labels, "count": str(fight.failed)},
        )  # fmt: skip
        await self._recorder.record_or_count(entry, owed=_debt(ref))

    async def _save(self) -> None:
        try:
            await self._keeping.save(self._cell, self._cell.record)
        except CellwardError as error:
            # The repair itself stands; the record is written when there is space again.
            _log.error("record-not-saved", namespace=self._cell.record.namespace, code=error.code)
        else:
            self._unsaved = False


def _debt(ref: ObjectRef) -> str:
    return f"drift/{ref}"
