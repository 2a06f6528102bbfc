"""Writes an accepted change object by object (V9, V11): isolation, then the rest in waves, then what goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from agent.cells.cell import Cell
from agent.cells.change import Change, carry_over
from agent.cells.journal import Journal
from agent.cells.keeping import Keeping
from agent.kube.interfaces import ObjectRef, ref_of
from agent.objects.cluster import CellCluster
from agent.objects.every import every
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import waves
from agent.objects.repair import Repairer
from agent.spool.interfaces import Closings
from cellward.cells.edges import needs_of, offers_of
from cellward.documents.fields import format_time
from cellward.runtime.clock import Timer

_DEFAULT_DEADLINE: Final = 600

#: Awaited between two steps; repairs what is due, and raises to make way for narrowing.
YieldPoint = Callable[[], Awaitable[None]]


class Applying:
    """Carries out one accepted change; may be interrupted anywhere and begun again."""

    def __init__(
        self,
        cluster: CellCluster,
        repairer: Repairer,
        keeping: Keeping,
        closings: Closings,
        timer: Timer,
        journal: Journal,
    ) -> None:
        self._cluster = cluster
        self._repairer = repairer
        self._keeping = keeping
        self._closings = closings
        self._timer = timer
        self._journal = journal

    async def run(self, cell: Cell, change: Change, recreated: frozenset[ObjectRef], yield_point: YieldPoint) -> None:
        """Write everything; what is no longer released is in the record until it is gone."""
        before = cell.record
        known = before.by_ref()
        objects = [carry_over(owned, known) for owned in change.objects]
        record = _begun(before, change, format_time(self._timer.now()))
        for owned in objects:
            record = record.with_object(owned)
        # Neither raises a floor: an old volume would bring back what failed, or open what is closed.
        closing = change.fallback or bool(set(change.shut) - set(before.shut))
        if closing:
            self._closings.add(before.namespace)
        await self._journal.save(cell, change, record)
        if closing:
            await self._keeping.copy_closings()
        await self._write(cell, change, before, objects, recreated, yield_point)

    async def _write(
        self,
        cell: Cell,
        change: Change,
        before: CellRecord,
        objects: Sequence[OwnedObject],
        recreated: frozenset[ObjectRef],
        yield_point: YieldPoint,
    ) -> None:
        for role in (Role.ISOLATION, Role.OBJECT):
            by_ref = {owned.ref: owned for owned in objects if owned.role is role}
            for manifests in waves(owned.manifest for owned in by_ref.values()):
                for manifest in manifests:
                    await yield_point()
                    ref = ref_of(manifest)
                    await self._one(cell, before, by_ref[ref], yield_point, recreated=ref in recreated)
                await self._journal.save(cell, change, cell.record)
            # What a policy of before still opens is closed before anything new runs behind it (V9, V10).
            await self._prune(cell, change, role)

    async def _one(
        self, cell: Cell, before: CellRecord, owned: OwnedObject, yield_point: YieldPoint, *, recreated: bool
    ) -> None:
        cluster = self._cluster
        old = before.by_ref().get(owned.ref)
        if recreated:
            going = await cluster.delete(cell.record, owned)
            await cluster.wait_gone([going] if going is not None else [], yield_point)
            owned = replace(owned, uid="")
        elif old is not None and not owned.opened and not old.opened:
            owned, done = await self._bring_up(cell, before, old, owned)
            if done:
                cell.record = cell.record.with_object(owned)
                return
        live = await cluster.write(cell.record, owned, force=bool(owned.uid) or owned.role is not Role.OBJECT)
        cell.record = cell.record.with_object(live)

    async def _bring_up(
        self, cell: Cell, before: CellRecord, old: OwnedObject, owned: OwnedObject
    ) -> tuple[OwnedObject, bool]:
        """Bring what stands back to what the record says of it; return the object, and whether that is all there is.

        Additions by others are taken back first, or they would become part of the new baseline. What is gone is not
        made as it was, only to be changed then: the new form is written as something new.
        """
        same, done = old.manifest == owned.manifest, cell.is_done(old)
        if same and done:
            return owned, True
        mine = await self._cluster.ours(before, old)
        if mine is None:
            return replace(owned, uid=""), False
        if done:
            return replace(owned, uid=mine.uid), False
        if old.found:
            # Nothing is known to bring it back to; to write a job that ran again is not ours to decide.
            return replace(owned, uid=mine.uid), False
        if not same and not old.baseline:
            # The record names what was never written: there is no such state to bring it back to first.
            fresh = replace(owned, uid=mine.uid, baseline={})
            repair = await self._repairer.check(cell.record, fresh)
            return (repair.owned, True) if repair is not None else (fresh, False)
        repair = await self._repairer.check(before, mine)
        if same:
            return (repair.owned if repair is not None else replace(owned, uid=mine.uid)), True
        return replace(owned, uid=repair.owned.uid if repair is not None else mine.uid), False

    async def _prune(self, cell: Cell, change: Change, role: Role) -> None:
        await every(
            [owned for owned in change.prune.delete if owned.role is role],
            lambda owned: self._drop(cell, change, owned),
        )
        for owned in change.prune.retain if role is Role.OBJECT else ():
            cell.record = cell.record.with_object(replace(owned, retained=True))
        for owned in change.prune.leave if role is Role.OBJECT else ():
            cell.record = cell.record.without(owned.ref)
            cell.forget(owned.ref)

    async def _drop(self, cell: Cell, change: Change, owned: OwnedObject) -> None:
        reason = "no longer part of the release"
        await self._journal.note(change, change.entry("object.delete", "allow", subject=str(owned.ref), reason=reason))
        going = await self._cluster.delete(cell.record, owned)
        if going is not None and await self._cluster.let_go(going) is not None:
            # It may run for as long as it is there: it stays on record, and the cell is not ready before it is gone.
            cell.record = cell.record.with_going(going)
        else:
            cell.record = cell.record.without(owned.ref)
        cell.forget(owned.ref)


def _begun(old: CellRecord, change: Change, now: str) -> CellRecord:
    """Return the record as it is while the change is applied; a rollout that is only gone on with keeps its start."""
    release, deployment = change.verified.release, change.verified.deployment
    again = (old.deployment_digest, old.release_digest) == (deployment.digest, release.digest) and not old.settled
    return replace(
        old,
        deployment_digest=deployment.digest,
        release_digest=release.digest,
        version=release.document.version,
        conditions=change.rendered.conditions,
        offers=offers_of(change.spec),
        needs=needs_of(change.spec),
        shut=change.shut,
        settled=False,
        ending="",
        fallback_active=change.fallback,
        rollout_started=old.rollout_started if again else now,
        deadline_seconds=deployment.document.rollout.get("deadlineSeconds", _DEFAULT_DEADLINE),
    )
