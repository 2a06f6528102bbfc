"""The pipeline of one Deployment on one cluster (V11).

Order: verify → render → brake → decide → namespace, isolation, rights, probe → decide on what was measured → dry run →
floor → ordered apply → prune → record. Up to the floor nothing of an existing cell has changed; a refusal after
isolation leaves an empty, isolated namespace and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent.audit.interfaces import RefusalText
from agent.cells.adopt import Adoption
from agent.cells.apply import Applying, Breathe
from agent.cells.cell import Cell
from agent.cells.change import Change, plan
from agent.cells.journal import Journal
from agent.cells.parts import Parts
from agent.kube.interfaces import ObjectRef
from agent.objects.model import Role
from agent.verify.decide import decided, details_of, refusals_of
from agent.verify.intake import VerifiedCell
from cellward.errors import CellwardError
from cellward.policy.model import Decision
from cellward.telemetry.metrics import AGENT_APPLY_SECONDS, AGENT_DECISION_SECONDS, AGENT_DECISIONS
from cellward.wire.codec import DesiredItem

#: What isolation is assumed to be when asking whether a release would be allowed if only it were proved.
_HOPED: Final = "enforced"


class Rollout:
    """Carries deployments out; keeps nothing between two of them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._journal = Journal(parts)
        self._adoption = Adoption(parts)
        self._applying = Applying(parts, self._journal)

    async def run(
        self,
        cell: Cell,
        item: DesiredItem,
        verified: VerifiedCell,
        correlation_id: str,
        breathe: Breathe,
        *,
        fallback: bool = False,
    ) -> tuple[RefusalText, ...]:
        """Carry out one deployment; return why the policy refused it, or nothing when every object is applied.

        Raises everything else that stands in the way, see ``agent.cells.errors`` and ``agent.kube.errors``, and what
        ``breathe`` raises between two steps.
        """
        begun = self._parts.timer.monotonic()
        floor = await self._parts.state.floors.get(*item.key)
        known = floor is not None and floor.digest == verified.deployment.digest
        self._parts.gate.check_fresh(known=known)
        self._parts.fence.check()
        self._parts.stamps.check()
        adopted = await self._adoption.run(cell, correlation_id)
        change = plan(self._parts, cell, item, verified, correlation_id, fallback=fallback)
        refusals, provisional = await self._decide(cell, change)
        if refusals:
            return refusals
        refusals = await self._prepare(cell, change, provisional=provisional, adopted=adopted)
        if refusals:
            return refusals
        anew = await self._preflight(cell, change, breathe)
        # Namespace, probe and dry run took their time: a key revoked meanwhile must not come through any more.
        self._parts.intake.check_current(verified.policy)
        await self._accept(change, known=known)
        await self._applying.run(cell, change, anew, breathe)
        await self._settle(cell, change)
        self._parts.metrics.observe(AGENT_APPLY_SECONDS, self._parts.timer.monotonic() - begun)
        return ()

    # -- decision -----------------------------------------------------------------------------------------------------

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

    async def _decide_again(self, cell: Cell, change: Change) -> tuple[RefusalText, ...]:
        decision = await self._ask(change, cell.isolation)
        await self._record_decision(change, decision, cell.isolation)
        if decision.allowed:
            return ()
        refusals = refusals_of(decision)
        return tuple(replace(one, next=_and_left(cell, change, one.next)) for one in refusals)

    async def _ask(self, change: Change, isolation: str) -> Decision:
        begun = self._parts.timer.monotonic()
        hub: Mapping[str, object] = {"state": change.item.hub_state, "revision": change.item.revision}
        decision = await self._parts.gate.decide(
            change.verified, change.rendered, change.item.environment, isolation, hub
        )
        self._parts.metrics.observe(AGENT_DECISION_SECONDS, self._parts.timer.monotonic() - begun)
        return decision

    async def _record_decision(self, change: Change, decision: Decision, isolation: str) -> None:
        self._parts.metrics.increment(AGENT_DECISIONS, result="allow" if decision.allowed else "deny")
        details = details_of(decision, change.verified.policy, isolation)
        await self._journal.note(change, decided(change.entry("cell.decide", "allow", details=details), decision))

    # -- namespace, isolation, rights ---------------------------------------------------------------------------------

    async def _prepare(
        self, cell: Cell, change: Change, *, provisional: bool, adopted: bool
    ) -> tuple[RefusalText, ...]:
        """Make the namespace real, with isolation before anything else when it is new, and measure it (V9)."""
        cluster, decided_on = self._parts.cluster, cell.isolation
        wanted_namespace, check_proof = change.rendered.namespace_object, self._parts.stamps.check_proof
        exists = await cluster.claim_namespace(cell.record, wanted_namespace, check_proof)
        first = adopted or not any(owned.role is Role.ISOLATION and owned.uid for owned in cell.record.objects)
        wanted = {Role.NAMESPACE, Role.RIGHTS, *([Role.ISOLATION] if first or not exists else [])}
        ground = [owned for owned in change.objects if owned.role in wanted]
        if not exists:
            await self._journal.note(change, change.entry("namespace.create", "allow"))
        record = cell.record
        for owned in ground:
            record = record.with_object(owned)
        await self._journal.save(cell, change, record)
        for owned in ground:
            written = await cluster.write(cell.record, owned)
            cell.record = cell.record.with_object(written)
        evidence = await self._parts.prober.probe(change.rendered.namespace)
        measured = replace(cell.record, isolation=evidence.state)
        if not exists or evidence.state != decided_on:
            details = {"isolation": evidence.state, "namespace": change.rendered.namespace}
            entry = change.entry("isolation.probe", "done", reason=evidence.text, details=details)
            await self._journal.save_noted(cell, change, measured, entry)
        else:
            await self._journal.save(cell, change, measured)
        if provisional or cell.isolation != decided_on:
            return await self._decide_again(cell, change)
        return ()

    async def _preflight(self, cell: Cell, change: Change, breathe: Breathe) -> frozenset[ObjectRef]:
        """Try everything without effect; what the cluster refuses leaves a new cell's namespace, and says so (V11)."""
        objects = [owned for owned in change.objects if owned.role is Role.OBJECT]
        try:
            return await self._parts.cluster.preflight(
                cell.record, objects, breathe, replace_allowed=change.verified.replace
            )
        except CellwardError as error:
            error.hint = _and_left(cell, change, error.hint)
            raise

    # -- accept and settle --------------------------------------------------------------------------------------------

    async def _accept(self, change: Change, *, known: bool) -> None:
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
        await self._parts.raise_floor(change.item, deployment, "" if back is None else back.digest)
        evidence = tuple(digest for digest in change.verified.envelopes if digest != deployment.digest)
        await self._parts.state.accepted.put(replace(change.item, evidence=evidence))

    async def _settle(self, cell: Cell, change: Change) -> None:
        details = {
            "applied": str(len(change.objects)),
            "pruned": str(len(change.prune.delete)),
            "isolation": cell.isolation,
        }
        entry = change.entry("cell.fallback" if change.fallback else "cell.apply", "done", details=details)
        await self._journal.save_noted(cell, change, cell.record.applied(), entry)


def _and_left(cell: Cell, change: Change, hint: str) -> str:
    """Say beside what to do next that the refusal leaves an empty namespace, where it does."""
    if cell.has_workloads():
        return hint
    return f"{hint} {change.rendered.namespace} is left as an empty, isolated namespace.".strip()
