"""Narrowing: the quarantine of a cell and its lifting.

Quarantine closes isolation and touches nothing else; lifting it returns to what signatures allowed, never further.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.adopt import Adoption
from agent.cells.cell import Cell
from agent.cells.keeping import Keeping
from agent.isolation.driver import closed
from agent.kube.interfaces import ref_of
from agent.objects.cluster import CellCluster
from agent.objects.every import every
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.spool.interfaces import Closings
from cellward.cells.network import NetworkIntent, default_deny
from cellward.documents.fields import format_time
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.wire.codec import DesiredItem


class Narrowing:
    """Withholds from cells, and gives back."""

    def __init__(
        self,
        cluster: CellCluster,
        adoption: Adoption,
        keeping: Keeping,
        recorder: RecorderPort,
        closings: Closings,
        timer: Timer,
    ) -> None:
        self._cluster = cluster
        self._adoption = adoption
        self._keeping = keeping
        self._recorder = recorder
        self._closings = closings
        self._timer = timer

    async def quarantine(self, cell: Cell, item: DesiredItem, correlation_id: str) -> None:
        """Close the isolation of what runs; a full spool does not stand in the way (V13)."""
        if await self._adoption.run(cell, correlation_id):
            # What was open on a cluster that nobody watched is no released form to go back to.
            objects = tuple(_shut(owned) for owned in cell.record.objects)
            cell.record = replace(cell.record, objects=objects).with_object(_default_deny(cell.record))
        begun = cell.record.unrecorded or bool(half_written(cell.record))
        if not cell.record.objects or (cell.record.quarantined and not begun):
            return
        await self.rewrite(cell, quarantined=True)
        entry = Entry(
            "cell.quarantine", f"Cell/{cell.record.namespace}", "done", correlation_id=correlation_id,
            revision=item.revision, details={"hubState": item.hub_state},
        )  # fmt: skip
        # Saved with its record or its count: an agent killed before that closes it again and records it then.
        await self._keeping.save_counted(cell, replace(cell.record, unrecorded=False), entry)

    async def lift(self, cell: Cell, item: DesiredItem, correlation_id: str) -> None:
        """Return to the isolation that was released; recorded before it is done, it is no narrowing.

        Nothing is opened while everything ends: the namespace takes nothing new, and its isolation goes with it.
        """
        if cell.record.ending == "all" and cell.record.deployment_digest == item.deployment_digest:
            return
        if not cell.record.quarantined:
            if half_written(cell.record):
                await self.rewrite(cell, quarantined=False)
                await self._keeping.save(cell, cell.record)
            return
        entry = Entry(
            "cell.release", f"Cell/{cell.record.namespace}", "allow", correlation_id=correlation_id,
            revision=item.revision, details={"hubState": item.hub_state},
        )  # fmt: skip
        await self._recorder.record(entry)
        if cell.record.rollout_started:
            # What was cut off could not become healthy: the time it is given begins again.
            cell.record = replace(cell.record, rollout_started=format_time(self._timer.now()))
        await self.rewrite(cell, quarantined=False)
        await self._keeping.save(cell, cell.record)

    async def rewrite(self, cell: Cell, *, quarantined: bool) -> None:
        """Write the closed or the released form of every isolation object; saving what was written is the caller's.

        Edges that are shut stay so when quarantine is lifted. What closes a cell is durable before it is written.
        """
        changed, closes = _changed(cell.record, quarantined=quarantined)
        closing = closes or (quarantined and not cell.record.quarantined)
        record = replace(cell.record, quarantined=quarantined, unrecorded=quarantined)
        for owned in changed:
            record = record.with_object(owned)
        # In memory first: drift repair must not undo it while it is being written.
        cell.record = record
        self._keeping.reindex(cell)
        if closing:
            self._closings.add(record.namespace)
        if quarantined or closing:
            # An agent that is killed on the way closes the rest at its next start, with neither hub nor policy; that
            # the disk is full does not stand in the way (V13).
            with contextlib.suppress(CellwardError):
                await self._keeping.save(cell, record)
        if closing:
            await self._keeping.copy_closings()

        async def write(owned: OwnedObject) -> None:
            cell.record = cell.record.with_object(await self._cluster.write(cell.record, owned))

        # One that cannot be written must not leave the others open.
        await every(changed, write)


def _changed(record: CellRecord, *, quarantined: bool) -> tuple[list[OwnedObject], bool]:
    """Return the isolation objects that have another form to be written, and whether one of them closes."""
    changed: list[OwnedObject] = []
    closes = False
    for owned in record.objects:
        if owned.role is not Role.ISOLATION:
            continue
        # Without a baseline it is known to be not written yet, also to drift repair, until a write came through.
        close = quarantined or owned.ref.name in record.shut
        if close and not owned.opened:
            changed.append(replace(owned, manifest=closed(owned.manifest), opened=owned.manifest, baseline={}))
            closes = True
        elif not close and owned.opened:
            changed.append(replace(owned, manifest=owned.opened, opened={}, baseline={}))
        elif owned.uid and not owned.baseline:
            changed.append(owned)
    return changed, closes


def _default_deny(record: CellRecord) -> OwnedObject:
    """What closes a cell alone; nobody knows whether it is still there."""
    deny = default_deny(NetworkIntent(*record.key, ()))
    known = record.by_ref().get(ref_of(deny))
    return OwnedObject(deny, Role.ISOLATION, uid=known.uid if known is not None else "")


def _shut(owned: OwnedObject) -> OwnedObject:
    return replace(owned, manifest=closed(owned.manifest)) if owned.role is Role.ISOLATION else owned


def half_written(record: CellRecord) -> tuple[OwnedObject, ...]:
    """Return what narrowing or its lifting has not written yet: it was interrupted, or the API server refused."""
    return tuple(one for one in record.objects if one.role is Role.ISOLATION and one.uid and not one.baseline)
