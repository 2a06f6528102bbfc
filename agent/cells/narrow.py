"""Narrowing and ending: the hub's quarantine and its lifting, and the signed Tombstone.

Quarantine closes isolation and touches nothing else; lifting it returns to what signatures allowed, never further.
A Tombstone ends workloads first, then the rest; data and namespace only when it says so, isolation last of all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from agent.audit.interfaces import Entry, RefusalText
from agent.cells.adopt import Adoption
from agent.cells.cell import Cell
from agent.cells.leaving import Leaving
from agent.cells.leftovers import Leftovers
from agent.cells.parts import Parts
from agent.cells.plan import is_doubtful
from agent.isolation.driver import closed
from agent.kube.interfaces import ref_of
from agent.objects.every import every
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import DATA, is_workload, removal
from agent.verify.decide import decided, details_of, refusals_of
from agent.verify.intake import VerifiedEnd
from cellward.cells.network import NetworkIntent, default_deny
from cellward.documents.fields import format_time
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.telemetry.metrics import AGENT_DECISIONS
from cellward.wire.codec import DesiredItem


class Narrowing:
    """Quarantine and end of cells."""

    def __init__(self, parts: Parts, accepted: Callable[[DesiredItem], None]) -> None:
        self._parts = parts
        self._accepted = accepted
        self._adoption = Adoption(parts.cluster, parts.stamps, parts.repairer, parts.recorder, parts.keeping)
        self._leaving = Leaving(parts.cluster, parts.keeping)
        self._leftovers = Leftovers(parts.cluster, self._adoption, self._leaving)

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
        await self._parts.keeping.save_counted(cell, replace(cell.record, unrecorded=False), entry)

    async def lift(self, cell: Cell, item: DesiredItem, correlation_id: str) -> None:
        """Return to the isolation that was released; recorded before it is done, it is no narrowing.

        Nothing is opened while everything ends: the namespace takes nothing new, and its isolation goes with it.
        """
        if cell.record.ending == "all" and cell.record.deployment_digest == item.deployment_digest:
            return
        if not cell.record.quarantined:
            if half_written(cell.record):
                await self.rewrite(cell, quarantined=False)
                await self._parts.keeping.save(cell, cell.record)
            return
        entry = Entry(
            "cell.release", f"Cell/{cell.record.namespace}", "allow", correlation_id=correlation_id,
            revision=item.revision, details={"hubState": item.hub_state},
        )  # fmt: skip
        await self._parts.recorder.record(entry)
        if cell.record.rollout_started:
            # What was cut off could not become healthy: the time it is given begins anew.
            cell.record = replace(cell.record, rollout_started=format_time(self._parts.timer.now()))
        await self.rewrite(cell, quarantined=False)
        await self._parts.keeping.save(cell, cell.record)

    async def end(
        self, cell: Cell, item: DesiredItem, end: VerifiedEnd, correlation_id: str
    ) -> tuple[RefusalText, ...]:
        """Carry out a Tombstone as far as it goes now; call it again when what it deleted is gone.

        Returns why the policy refused it. Raises apply/deletion-pending while something is not gone yet; nothing is
        waited for here, because an end that nobody lets come through must not take the turn of a release.
        """
        await self._adoption.run(cell, correlation_id)
        tombstone = end.tombstone.document
        kind = "all" if tombstone.delete_data else "cell"
        details = {"deploymentDigest": end.tombstone.digest, "sequence": str(tombstone.sequence), "mode": kind}
        entry = Entry(
            "cell.remove", f"Cell/{cell.record.namespace}", "allow", correlation_id=correlation_id,
            revision=item.revision, details=details,
        )  # fmt: skip
        if cell.record.deployment_digest != end.tombstone.digest or cell.record.ending != kind:
            refusals = await self._decide(cell, item, end, entry)
            if refusals:
                return refusals
            await self._accept(item, end, entry)
            ending = replace(
                cell.record, deployment_digest=end.tombstone.digest, release_digest="", version="", ending=kind,
                settled_release="", offers=(), needs=(), shut=(), settled=False, rollout_started="",
                fallback_active=False,
            )  # fmt: skip
            await self._parts.keeping.save(cell, ending)
        await self._remove(cell, with_data=tombstone.delete_data)
        await self._parts.keeping.save_recorded(
            cell, replace(cell.record, settled=True), replace(entry, decision="done")
        )
        return ()

    async def _decide(self, cell: Cell, item: DesiredItem, end: VerifiedEnd, entry: Entry) -> tuple[RefusalText, ...]:
        """Ask the policy; nothing new on a stale one, least of all what cannot be undone: keys may be revoked (V8)."""
        floor = await self._parts.state.floors.get(*item.key)
        self._parts.gate.check_fresh(known=floor is not None and floor.digest == end.tombstone.digest)
        hub = {"state": item.hub_state, "revision": item.revision}
        decision = await self._parts.gate.decide_end(end, item.environment, cell.isolation, hub)
        self._parts.metrics.increment(AGENT_DECISIONS, result="allow" if decision.allowed else "deny")
        details = {**entry.details, **details_of(decision, end.policy, cell.isolation)}
        await self._parts.recorder.record(decided(replace(entry, action="cell.decide", details=details), decision))
        self._parts.intake.check_current(end.policy)
        return () if decision.allowed else refusals_of(decision)

    async def _accept(self, item: DesiredItem, end: VerifiedEnd, entry: Entry) -> None:
        """The point of no return: durable before anything of the cell goes."""
        await self._parts.recorder.record(entry)
        self._parts.documents.need(CellKey(*item.key), end.envelopes)
        for digest, envelope in end.envelopes.items():
            await self._parts.state.blobs.put(digest, envelope)
        await self._parts.keeping.raise_floor(item, end.tombstone)
        accepted = replace(item, evidence=tuple(end.envelopes))
        await self._parts.state.accepted.put(accepted)
        self._accepted(accepted)

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
        self._parts.keeping.reindex(cell)
        if closing:
            self._parts.state.closings.add(record.namespace)
        if quarantined or closing:
            # An agent that is killed on the way closes the rest at its next start, with neither hub nor policy; that
            # the disk is full does not stand in the way (V13).
            with contextlib.suppress(CellwardError):
                await self._parts.keeping.save(cell, record)
        if closing:
            await self._parts.keeping.copy_closings()

        async def write(owned: OwnedObject) -> None:
            cell.record = cell.record.with_object(await self._parts.cluster.write(cell.record, owned))

        # One that cannot be written must not leave the others open.
        await every(changed, write)

    async def _remove(self, cell: Cell, *, with_data: bool) -> None:
        for owned in cell.record.objects:
            if is_doubtful(owned):
                cell.record = cell.record.without(owned.ref)
                cell.forget(owned.ref)
        objects = [owned for owned in cell.record.objects if owned.role is Role.OBJECT]
        workloads = removal(owned for owned in objects if is_workload(owned))
        rest = removal(owned for owned in objects if not is_workload(owned) and owned.ref.kind not in DATA)
        data = [owned for owned in objects if owned.ref.kind in DATA]
        # To the last pod: while one still ends, its isolation must stand, also of an earlier release.
        await self._leaving.ask(cell, workloads, "Foreground")
        await self._leaving.check_gone(cell, workloads_only=True)
        await self._leaving.ask(cell, rest)
        await self._leaving.check_gone(cell)
        if not with_data:
            for owned in data:
                cell.record = cell.record.with_object(replace(owned, retained=True))
            await self._leftovers.end(cell)
            return
        await self._leaving.ask(cell, data)
        await self._leaving.check_gone(cell)
        await self._leaving.ask(cell, [owned for owned in cell.record.objects if owned.role is Role.NAMESPACE])
        await self._leaving.check_gone(cell)
        # Isolation and rights inside went with the namespace; the account lives elsewhere.
        for owned in cell.record.objects:
            if owned.role is Role.RIGHTS and owned.ref.namespace != cell.record.namespace:
                await self._parts.cluster.delete(cell.record, owned)
        await self._leftovers.check_gone(cell)
        await self._parts.keeping.save(cell, replace(cell.record, objects=()))


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
