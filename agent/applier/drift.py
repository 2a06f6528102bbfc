"""Repairs what was marked, with patience for whoever fights back, and records each repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from agent.applier.cell import Cell
from agent.applier.model import OwnedObject, Role
from agent.applier.order import apply_rank
from agent.applier.parts import Parts
from agent.applier.repair import Repair
from agent.audit.interfaces import Entry
from agent.kube.interfaces import ObjectRef
from cellward.errors import CellwardError
from cellward.telemetry.metrics import AGENT_DRIFT_REPAIRS, AGENT_DRIFT_SECONDS

_log = structlog.get_logger()

#: So many repairs of one object come at once; after that each waits twice as long as the one before, seconds.
_FREE_REPAIRS: Final = 5
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 60.0
#: Longest wait for the ground of a cell, its namespace, isolation and rights: patience there would be an open door.
_LONGEST_GROUND_WAIT: Final = 1.0
#: An object left alone for so long starts anew, seconds.
_FORGIVEN_AFTER: Final = 180.0

_STRANGER: Final = "a policy that is not of this cell"


@dataclass(slots=True)
class _Fight:
    count: int = 0
    last: float = 0.0
    not_before: float = 0.0
    #: Whether the API server refused or was away, so that nobody fought us.
    postponed: bool = False


class DriftControl:
    """The drift of one cell: what is marked, since when, and how often it came back."""

    def __init__(self, parts: Parts, cell: Cell) -> None:
        self._parts = parts
        self._cell = cell
        self._marked: dict[ObjectRef, float] = {}
        self._strangers: dict[ObjectRef, str] = {}
        self._fights: dict[ObjectRef, _Fight] = {}
        # Why what is being written now is written, until that is recorded.
        self._owed: dict[ObjectRef, str] = {}
        self._unsaved = False

    def mark(self, ref: ObjectRef) -> None:
        """Note that an object may have drifted; the time of the first mark counts."""
        self._marked.setdefault(ref, self._parts.timer.monotonic())

    def mark_stranger(self, ref: ObjectRef, uid: str) -> None:
        """Note a NetworkPolicy in the cell that is none of ours."""
        self._strangers[ref] = uid
        self.mark(ref)

    def forgive(self) -> None:
        """Look again at once at what could not be repaired: the API server is back, or its roles are read."""
        for fight in self._fights.values():
            if fight.postponed:
                fight.not_before, fight.postponed = 0.0, False

    def due_at(self) -> float | None:
        """Return the monotonic time at which the next marked object may be looked at."""
        waiting = [ref for ref in self._marked if not (self._ground() and self._follows(ref))]
        return min((self._fight(ref).not_before for ref in waiting), default=None)

    async def repair_due(self) -> None:
        """Look at every marked object whose time has come: the ground first, all of it before any workload (V9)."""
        now = self._parts.timer.monotonic()
        due = sorted((ref for ref in self._marked if self._fight(ref).not_before <= now), key=self._rank)
        for ref in due:
            if self._follows(ref) and self._ground():
                # Also when that part of the ground has to wait: nothing runs in a namespace that is not closed.
                break
            await self._look(ref)
        if self._unsaved:
            await self._save()

    async def _look(self, ref: ObjectRef) -> None:
        # Taken off before looking: an event that comes meanwhile marks it again.
        since = self._marked.pop(ref)
        try:
            await self._repair(ref, since)
        except CellwardError as error:
            self._postpone(ref, since, error.code, error.message)
        except Exception as error:  # noqa: BLE001 - V16: whatever it is, the object stays marked and is tried again
            _log.exception("drift-repair-crashed", object=str(ref))
            self._postpone(ref, since, "", type(error).__name__)

    def _rank(self, ref: ObjectRef) -> tuple[bool, int, ObjectRef]:
        return self._follows(ref), apply_rank(ref.kind), ref

    def _follows(self, ref: ObjectRef) -> bool:
        """Whether it comes after the ground: an object of the release; a policy of a stranger goes at once."""
        return self._role(ref) is Role.OBJECT and ref not in self._strangers

    def _role(self, ref: ObjectRef) -> Role:
        owned = self._cell.record.by_ref().get(ref)
        return owned.role if owned is not None else Role.OBJECT

    def _ground(self) -> tuple[ObjectRef, ...]:
        """Return what is marked of namespace, isolation and rights."""
        return tuple(ref for ref in self._marked if self._role(ref) is not Role.OBJECT)

    def _longest_wait(self, ref: ObjectRef) -> float:
        return _LONGEST_WAIT if self._follows(ref) else _LONGEST_GROUND_WAIT

    async def _repair(self, ref: ObjectRef, since: float) -> None:
        owned = self._cell.record.by_ref().get(ref)
        if owned is None and ref in self._strangers:
            await self._owe(ref, _STRANGER)
            removed = await self._parts.repairer.remove_foreign_policy(ref, self._strangers[ref])
            self._strangers.pop(ref, None)
            if removed:
                await self._note(ref, _STRANGER, since, exact=True)
        if owned is None or not self._wanted(owned):
            return
        repair = await self._parts.repairer.check(self._cell.record, owned, lambda cause: self._owe(ref, cause))
        if repair is not None:
            await self._take(repair, since)
        elif ref in self._owed:
            # A write that seemed to fail came through after all.
            await self._note(ref, self._owed[ref], since, exact=True)

    def _wanted(self, owned: OwnedObject) -> bool:
        """Whether the object is to be there; what was never applied is the rollout's business."""
        if self._cell.record.ending == "all" or owned.retained or not owned.uid:
            return False
        if self._cell.record.ending and owned.role is Role.OBJECT:
            return False
        if self._cell.applying and not owned.baseline and owned.role is Role.OBJECT:
            return False  # its turn comes: what it needs is written before it
        return not self._cell.is_done(owned)

    async def _take(self, repair: Repair, since: float) -> None:
        self._cell.record = self._cell.record.with_object(repair.owned)
        self._unsaved = True
        if repair.owned.role is Role.NAMESPACE:
            # What was in it went with it; that it could not be put back before says nothing any more.
            self._fights.clear()
        await self._note(repair.owned.ref, repair.cause, since, exact=repair.exact)

    async def _note(self, ref: ObjectRef, cause: str, since: float, *, exact: bool) -> None:
        """Count, time and record a repair; a full spool never blocks it (V13)."""
        now = self._parts.timer.monotonic()
        fight = self._fight(ref)
        fight.count, fight.last, fight.postponed = fight.count + 1, now, False
        if fight.count > _FREE_REPAIRS:
            wait = _FIRST_WAIT * 2 ** min(10, fight.count - _FREE_REPAIRS)
            fight.not_before = now + min(self._longest_wait(ref), wait)
        record = self._cell.record
        self._cell.repairs += 1
        labels = {"project": record.project, "cell": record.cell, "environment": record.environment}
        self._parts.metrics.increment(AGENT_DRIFT_REPAIRS, kind=ref.kind, **labels)
        self._parts.metrics.observe(AGENT_DRIFT_SECONDS, now - since)
        _log.warning("drift-repaired", object=str(ref), cause=cause, exact=exact)
        entry = Entry(
            "drift.repair",
            str(ref),
            "done" if exact else "finding",
            reason=cause if exact else f"{cause}; the API server keeps changing it",
            details={**labels, "durationMs": str(round((now - since) * 1000)), "count": str(fight.count)},
        )
        self._owed.pop(ref, None)
        await self._parts.recorder.record_or_count(entry, owed=_debt(ref))

    async def _owe(self, ref: ObjectRef, cause: str) -> None:
        """Note that a repair is to be recorded before it is begun: an agent may be killed in between (V13)."""
        if self._owed.get(ref) == cause:
            return
        record = self._cell.record
        labels = {"project": record.project, "cell": record.cell, "environment": record.environment}
        self._owed[ref] = cause
        await self._parts.recorder.owe(
            _debt(ref), Entry("drift.repair", str(ref), "done", reason=cause, details=labels)
        )

    def _fight(self, ref: ObjectRef) -> _Fight:
        fight = self._fights.setdefault(ref, _Fight())
        if fight.count and self._parts.timer.monotonic() - fight.last > _FORGIVEN_AFTER:
            fight.count, fight.not_before = 0, 0.0
        return fight

    def _postpone(self, ref: ObjectRef, since: float, code: str, reason: str) -> None:
        self._marked.setdefault(ref, since)
        fight, now = self._fight(ref), self._parts.timer.monotonic()
        fight.count, fight.last, fight.postponed = fight.count + 1, now, True
        fight.not_before = now + min(self._longest_wait(ref), 0.1 * 2 ** min(10, fight.count))
        _log.warning("drift-repair-failed", object=str(ref), code=code, reason=reason)

    async def _save(self) -> None:
        try:
            await self._parts.save(self._cell, self._cell.record)
        except CellwardError as error:
            # The repair itself stands; the record is written when there is space again.
            _log.error("record-not-saved", namespace=self._cell.record.namespace, code=error.code)
        else:
            self._unsaved = False


def _debt(ref: ObjectRef) -> str:
    return f"drift/{ref}"
