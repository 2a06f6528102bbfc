"""The pipeline of one Deployment on one cluster (V11).

Order: verify → render → prune limit → decide → namespace, isolation, rights, probe → decide on what was measured →
dry run → floor → ordered apply → prune → record. Up to the floor nothing of an existing cell has changed; a refusal
after isolation leaves an empty, isolated namespace and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.audit.interfaces import RefusalText
from agent.cells.adopt import Adoption
from agent.cells.apply import Applying, YieldPoint
from agent.cells.cell import Cell
from agent.cells.change import Change, Planner
from agent.cells.evidence import in_force, measured
from agent.cells.interfaces import Accepted
from agent.cells.journal import Journal
from agent.cells.keeping import Keeping
from agent.cells.ready import Ready
from agent.isolation.interfaces import Evidence, Prober
from agent.isolation.kept import bounded, wrong_of
from agent.kube.interfaces import ObjectRef
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster
from agent.objects.model import Role
from agent.spool.interfaces import Floors, Items
from agent.stamps.keeper import StampKeeper
from agent.verify.decide import Gate, decided, details_of, refusals_of
from agent.verify.intake import Intake, VerifiedCell
from cellward.documents.fields import format_time
from cellward.errors import CellwardError
from cellward.policy.model import Decision
from cellward.runtime.clock import Timer
from cellward.telemetry.metrics import AGENT_APPLY_SECONDS, AGENT_DECISION_SECONDS, AGENT_DECISIONS
from cellward.wire.codec import DesiredItem

#: What isolation is assumed to be when asking whether a release would be allowed if only it were proved.
_HOPED: Final = "enforced"


@dataclass(slots=True)
class Attempt:
    """One deployment on its way through the stages; what a stage found, the next ones go by.

    Attributes:
        item: what is carried out.
        verified: its documents.
        correlation_id: id that its records share.
        fallback: whether it is the automatic rollback.
        begun: monotonic time of the first decision.
        known: whether the deployment was accepted before.
        adopted: whether the cell was in the cluster and in no record.
        found: the change, once it is planned.
        existed: whether the namespace was there.
        decided_on: the state of isolation that the first decision went by.
        recreated: objects that must be recreated.
    """

    item: DesiredItem
    verified: VerifiedCell
    correlation_id: str
    fallback: bool = False
    begun: float = 0.0
    known: bool = False
    adopted: bool = False
    found: Change | None = None
    existed: bool = True
    decided_on: str = ""
    recreated: frozenset[ObjectRef] = frozenset()

    @property
    def change(self) -> Change:
        """The planned change; only after the first decision."""
        assert self.found is not None, "nothing was decided yet"
        return self.found


class Deciding:
    """Plans a deployment and asks the policy about it."""

    def __init__(
        self,
        ready: Ready,
        gate: Gate,
        adoption: Adoption,
        planner: Planner,
        journal: Journal,
        floors: Floors,
        metrics: AgentMetrics,
        timer: Timer,
    ) -> None:
        self._ready = ready
        self._gate = gate
        self._adoption = adoption
        self._planner = planner
        self._journal = journal
        self._floors = floors
        self._metrics = metrics
        self._timer = timer

    async def decide(self, cell: Cell, attempt: Attempt) -> tuple[tuple[RefusalText, ...], bool]:
        """Plan the change and ask the policy; return its refusals, and whether it asks for the proof of isolation.

        Raises everything else that stands in the way, see the errors of verify, objects and cells, and kube/*.
        """
        attempt.begun = self._timer.monotonic()
        item = attempt.item
        floor = await self._floors.get(*item.key)
        attempt.known = floor is not None and floor.digest == attempt.verified.deployment.digest
        self._ready.check(known=attempt.known)
        attempt.adopted = await self._adoption.run(cell, attempt.correlation_id)
        attempt.found = self._planner.plan(
            cell, item, attempt.verified, attempt.correlation_id, fallback=attempt.fallback
        )
        refusals, provisional = await self._decide(cell, attempt.change)
        attempt.decided_on = cell.isolation
        return refusals, provisional

    async def _decide(self, cell: Cell, change: Change) -> tuple[tuple[RefusalText, ...], bool]:
        """Decide on what is known of isolation; return refusals, and whether it is to be decided again.

        Refused only for want of proof: go on, isolate, measure, ask again. Else no cell could ever get its proof.
        """
        decision = await self._ask(change, cell.isolation)
        if not decision.allowed and (await self._ask(change, _HOPED)).allowed:
            why = "allowed if isolation is proved; it is measured next"
            await self._journal.note(change, change.entry("cell.isolate", "allow", reason=why))
            return (), True
        await self._record_decision(change, decision, cell.isolation)
        return (() if decision.allowed else refusals_of(decision)), False

    async def decide_again(self, cell: Cell, attempt: Attempt) -> tuple[RefusalText, ...]:
        """Ask the policy once more, on what was measured."""
        change = attempt.change
        decision = await self._ask(change, cell.isolation)
        await self._record_decision(change, decision, cell.isolation)
        if decision.allowed:
            return ()
        refusals = refusals_of(decision)
        return tuple(replace(one, next=_and_left(cell, change, one.next)) for one in refusals)

    async def _ask(self, change: Change, isolation: str) -> Decision:
        begun = self._timer.monotonic()
        hub: Mapping[str, object] = {"state": change.item.hub_state, "revision": change.item.revision}
        decision = await self._gate.decide(change.verified, change.rendered, change.item.environment, isolation, hub)
        self._metrics.observe(AGENT_DECISION_SECONDS, self._timer.monotonic() - begun)
        return decision

    async def _record_decision(self, change: Change, decision: Decision, isolation: str) -> None:
        self._metrics.increment(AGENT_DECISIONS, result="allow" if decision.allowed else "deny")
        details = details_of(decision, change.verified.policy, isolation)
        await self._journal.note(change, decided(change.entry("cell.decide", "allow", details=details), decision))


class Ground:
    """Makes the ground of a cell: namespace, isolation and rights, its proof, and the dry run of what stands on it."""

    def __init__(
        self,
        cluster: CellCluster,
        stamps: StampKeeper,
        prober: Prober,
        journal: Journal,
    ) -> None:
        self._cluster = cluster
        self._stamps = stamps
        self._prober = prober
        self._journal = journal

    async def isolate(self, cell: Cell, attempt: Attempt) -> None:
        """Make the namespace real, with isolation before anything else when it is new (V9)."""
        cluster, change = self._cluster, attempt.change
        wanted_namespace, check_proof = change.rendered.namespace_object, self._stamps.check_proof
        attempt.existed = await cluster.claim_namespace(cell.record, wanted_namespace, check_proof)
        isolated = any(owned.role is Role.ISOLATION and owned.uid for owned in cell.record.objects)
        first = attempt.adopted or not isolated or not attempt.existed
        wanted = {Role.NAMESPACE, Role.RIGHTS, *([Role.ISOLATION] if first else [])}
        ground = [owned for owned in change.objects if owned.role in wanted]
        if not attempt.existed:
            await self._journal.note(change, change.entry("namespace.create", "allow"))
        record = cell.record
        for owned in ground:
            record = record.with_object(owned)
        await self._journal.save(cell, change, record)
        for owned in ground:
            written = await cluster.write(cell.record, owned)
            cell.record = cell.record.with_object(written)

    async def measure(self, cell: Cell, attempt: Attempt) -> Evidence:
        """Measure isolation as it is about to be in force; changes nothing."""
        return await self._prober.probe(in_force(cell, attempt.change.rendered.network))

    async def prove(self, cell: Cell, attempt: Attempt, evidence: Evidence) -> bool:
        """Take note of what was measured; return whether it is another than what was decided on."""
        change = attempt.change
        evidence, before = bounded(evidence), cell.evidence
        cell.network, cell.evidence = change.rendered.network, evidence
        record = replace(cell.record, isolation=evidence.state, proof=evidence)
        news = evidence.state != attempt.decided_on or wrong_of(evidence) != wrong_of(before)
        if not attempt.existed or news:
            details = measured(cell, evidence).details
            entry = change.entry("isolation.probe", "done", reason=evidence.text, details=details)
            await self._journal.save_noted(cell, change, record, entry)
        else:
            await self._journal.save(cell, change, record)
        return cell.isolation != attempt.decided_on

    async def try_out(self, cell: Cell, attempt: Attempt, yield_point: YieldPoint) -> None:
        """Try everything without effect; what the cluster refuses leaves a new cell's namespace, and says so (V11)."""
        change = attempt.change
        objects = [owned for owned in change.objects if owned.role is Role.OBJECT]
        try:
            attempt.recreated = await self._cluster.preflight(
                cell.record, objects, yield_point, replace_allowed=change.verified.replace
            )
        except CellwardError as error:
            error.hint = _and_left(cell, change, error.hint)
            raise


class Accepting:
    """Takes a deployment into force; ``items`` are what was accepted, by cell."""

    def __init__(
        self,
        intake: Intake,
        journal: Journal,
        keeping: Keeping,
        items: Items,
        applying: Applying,
        metrics: AgentMetrics,
        timer: Timer,
    ) -> None:
        self._intake = intake
        self._journal = journal
        self._keeping = keeping
        self._items = items
        self._applying = applying
        self._metrics = metrics
        self._timer = timer

    async def run(self, cell: Cell, attempt: Attempt, yield_point: YieldPoint, accepted: Accepted) -> None:
        """Accept the change, write it, and record that it is applied."""
        change = attempt.change
        # Namespace, probe and dry run took their time: a key revoked meanwhile must not come through any more.
        self._intake.check_current(attempt.verified.policy)
        await self._accept(change, accepted, known=attempt.known)
        await self._applying.run(cell, change, attempt.recreated, yield_point)
        await self._settle(cell, change)
        self._metrics.observe(AGENT_APPLY_SECONDS, self._timer.monotonic() - attempt.begun)

    async def _accept(self, change: Change, accepted: Accepted, *, known: bool) -> None:
        """The point of no return: the floor is durable before the first object of the release is written.

        With it goes what the Deployment needs to be finished or undone, whatever becomes of hub and signatures.
        """
        deployment = change.verified.deployment
        if not known:
            details = {"sequence": str(deployment.document.sequence)}
            await self._journal.note(change, change.entry("document.accept", "allow", details=details))
        await self._journal.keep(change)
        if change.fallback:
            return
        back = change.verified.fallback
        await self._keeping.raise_floor(change.item, deployment, "" if back is None else back.digest)
        evidence = tuple(digest for digest in change.verified.envelopes if digest != deployment.digest)
        item = replace(change.item, evidence=evidence)
        await self._items.put(item)
        accepted(item)

    async def _settle(self, cell: Cell, change: Change) -> None:
        details = {
            "applied": str(len(change.objects)),
            "pruned": str(len(change.prune.delete)),
            "isolation": cell.isolation,
        }
        entry = change.entry("cell.fallback" if change.fallback else "cell.apply", "done", details=details)
        record = cell.record.applied(format_time(self._timer.now()))
        await self._journal.save_noted(cell, change, record, entry)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The stages of a deployment; each raises what stands in the way, and keeps what it found in the attempt."""

    deciding: Deciding
    ground: Ground
    accepting: Accepting


def _and_left(cell: Cell, change: Change, hint: str) -> str:
    """Say beside what to do next that the refusal leaves an empty namespace, where it does."""
    if cell.has_workloads():
        return hint
    return f"{hint} {change.rendered.namespace} is left as an empty, isolated namespace.".strip()
