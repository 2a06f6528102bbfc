"""The end of a cell, by a signed Tombstone.

Workloads end first, then the rest; data and namespace only when it says so, isolation last of all.
"""

from __future__ import annotations

from dataclasses import replace

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.cells.adopt import Adoption
from agent.cells.cell import Cell
from agent.cells.documents import KeptDocuments
from agent.cells.interfaces import Accepted
from agent.cells.keeping import Keeping
from agent.cells.leaving import Leaving
from agent.cells.leftovers import Leftovers
from agent.cells.plan import is_doubtful
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster
from agent.objects.model import Role
from agent.objects.order import DATA, is_workload, removal
from agent.spool.interfaces import StateDb
from agent.verify.decide import Gate, decided, details_of, refusals_of
from agent.verify.intake import Intake, VerifiedEnd
from cellward.documents.names import CellKey
from cellward.telemetry.metrics import AGENT_DECISIONS
from cellward.wire.codec import DesiredItem


class EndJudge:
    """Says whether a cell may end, and accepts that it does."""

    def __init__(
        self,
        gate: Gate,
        intake: Intake,
        recorder: RecorderPort,
        state: StateDb,
        documents: KeptDocuments,
        keeping: Keeping,
        metrics: AgentMetrics,
    ) -> None:
        self._gate = gate
        self._intake = intake
        self._recorder = recorder
        self._state = state
        self._documents = documents
        self._keeping = keeping
        self._metrics = metrics

    async def decide(self, cell: Cell, item: DesiredItem, end: VerifiedEnd, entry: Entry) -> tuple[RefusalText, ...]:
        """Ask the policy; nothing new on a stale one, least of all what cannot be undone: keys may be revoked (V8)."""
        floor = await self._state.floors.get(*item.key)
        self._gate.check_fresh(known=floor is not None and floor.digest == end.tombstone.digest)
        hub = {"state": item.hub_state, "revision": item.revision}
        decision = await self._gate.decide_end(end, item.environment, cell.isolation, hub)
        self._metrics.increment(AGENT_DECISIONS, result="allow" if decision.allowed else "deny")
        details = {**entry.details, **details_of(decision, end.policy, cell.isolation)}
        await self._recorder.record(decided(replace(entry, action="cell.decide", details=details), decision))
        self._intake.check_current(end.policy)
        return () if decision.allowed else refusals_of(decision)

    async def accept(self, item: DesiredItem, end: VerifiedEnd, entry: Entry) -> DesiredItem:
        """Pass the point of no return, durable before anything of the cell goes; return the item as it is kept."""
        await self._recorder.record(entry)
        self._documents.need(CellKey(*item.key), end.envelopes)
        for digest, envelope in end.envelopes.items():
            await self._state.blobs.put(digest, envelope)
        await self._keeping.raise_floor(item, end.tombstone)
        accepted = replace(item, evidence=tuple(end.envelopes))
        await self._state.accepted.put(accepted)
        return accepted


class Removal:
    """Takes away what a cell has."""

    def __init__(self, cluster: CellCluster, adoption: Adoption, keeping: Keeping) -> None:
        self._cluster = cluster
        self._keeping = keeping
        self._leaving = Leaving(cluster, keeping)
        self._leftovers = Leftovers(cluster, adoption, self._leaving)

    async def run(self, cell: Cell, *, with_data: bool) -> None:
        """Go as far as it goes now; raises apply/deletion-pending while something is not gone yet."""
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
                await self._cluster.delete(cell.record, owned)
        await self._leftovers.check_gone(cell)
        await self._keeping.save(cell, replace(cell.record, objects=()))


class Ending:
    """Carries out Tombstones."""

    def __init__(self, adoption: Adoption, judge: EndJudge, removal: Removal, keeping: Keeping) -> None:
        self._adoption = adoption
        self._judge = judge
        self._removal = removal
        self._keeping = keeping

    async def run(
        self, cell: Cell, item: DesiredItem, end: VerifiedEnd, correlation_id: str, accepted: Accepted
    ) -> tuple[RefusalText, ...]:
        """Carry out a Tombstone as far as it goes now; call it again when what it deleted is gone.

        Calls ``accepted`` past the point of no return; returns why the policy refused it. Raises apply/deletion-pending
        while something is not gone yet; nothing is waited for here, because an end that nobody lets come through must
        not take the turn of a release.
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
            refusals = await self._judge.decide(cell, item, end, entry)
            if refusals:
                return refusals
            accepted(await self._judge.accept(item, end, entry))
            ending = replace(
                cell.record, deployment_digest=end.tombstone.digest, release_digest="", version="", ending=kind,
                settled_release="", offers=(), needs=(), shut=(), settled=False, rollout_started="",
                fallback_active=False,
            )  # fmt: skip
            await self._keeping.save(cell, ending)
        await self._removal.run(cell, with_data=tombstone.delete_data)
        await self._keeping.save_recorded(cell, replace(cell.record, settled=True), replace(entry, decision="done"))
        return ()
