"""The pipeline of one Deployment on one cluster (V11).

Order: verify → render → brake → decide → namespace, isolation, rights, probe → decide on what was measured → dry run →
floor → ordered apply → prune → record. Up to the floor nothing of an existing cell has changed; a refusal after
isolation leaves an empty, isolated namespace and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.applier.cell import Cell
from agent.applier.decide import details_of, refusals_of
from agent.applier.intake import VerifiedCell
from agent.applier.model import CellRecord, OwnedObject, Role
from agent.applier.order import waves
from agent.applier.parts import Parts
from agent.applier.plan import Prune, check_brake, plan_prune
from agent.audit.interfaces import Entry, RefusalText
from agent.kube.interfaces import JSONObject, ObjectRef, ref_of
from cellward.cells.render import RenderedCell, render
from cellward.documents.fields import format_time
from cellward.documents.floors import Floor
from cellward.policy.model import Decision
from cellward.telemetry.metrics import AGENT_APPLY_SECONDS, AGENT_DECISION_SECONDS, AGENT_DECISIONS
from cellward.wire.codec import DesiredItem

#: What isolation is assumed to be when asking whether a release would be allowed if only it were proved.
_HOPED: Final = "enforced"
_DEFAULT_DEADLINE: Final = 600


@dataclass(frozen=True, slots=True)
class Change:
    """One deployment on its way: what was asked, verified and rendered, and what it does to the inventory."""

    item: DesiredItem
    verified: VerifiedCell
    rendered: RenderedCell
    objects: tuple[OwnedObject, ...]
    prune: Prune
    correlation_id: str
    fallback: bool = False

    @property
    def details(self) -> dict[str, str]:
        """What every record about it says."""
        return {
            "project": self.item.project,
            "cell": self.item.cell,
            "environment": self.item.environment,
            "deploymentDigest": self.verified.deployment.digest,
            "releaseDigest": self.verified.release.digest,
            "version": self.verified.release.document.version,
        }


class Rollout:
    """Carries deployments out; keeps nothing between two of them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run(
        self, cell: Cell, item: DesiredItem, verified: VerifiedCell, correlation_id: str, *, fallback: bool = False
    ) -> tuple[RefusalText, ...]:
        """Carry out one deployment; return why the policy refused it, or nothing when every object is applied.

        Raises everything else that stands in the way, see ``agent.applier.errors`` and ``agent.kube.errors``.
        """
        begun = self._parts.timer.monotonic()
        floor = await self._parts.state.floors.get(*item.key)
        known = floor is not None and floor.digest == verified.deployment.digest
        self._parts.gate.check_fresh(known=known)
        self._parts.fence.check()
        change = self._plan(cell, item, verified, correlation_id, fallback=fallback)
        refusals, provisional = await self._decide(cell, change)
        if refusals:
            return refusals
        refusals = await self._prepare(cell, change, provisional=provisional)
        if refusals:
            return refusals
        applied = [owned for owned in change.objects if owned.role is Role.OBJECT]
        anew = await self._parts.cluster.preflight(
            cell.record, applied, replace_allowed=verified.release.document.replace
        )
        # Namespace, probe and dry run took their time: a key revoked meanwhile must not come through any more.
        self._parts.intake.check_current(verified.policy)
        await self._accept(change)
        await self._apply(cell, change, anew)
        await self._settle(cell, change)
        self._parts.metrics.observe(AGENT_APPLY_SECONDS, self._parts.timer.monotonic() - begun)
        return ()

    def _plan(
        self, cell: Cell, item: DesiredItem, verified: VerifiedCell, correlation_id: str, *, fallback: bool
    ) -> Change:
        rendered = render(verified.release.document, self._parts.facts(), item.environment)
        known = cell.record.by_ref()
        wanted = [
            OwnedObject(rendered.namespace_object, Role.NAMESPACE),
            *(OwnedObject(policy, Role.ISOLATION) for policy in rendered.isolation),
            *self._parts.cluster.identity(rendered.namespace).rights(_cell_labels(rendered.namespace_object)),
            *(OwnedObject(manifest, Role.OBJECT) for manifest in rendered.objects),
        ]
        objects = tuple(_carry_over(owned, known) for owned in wanted)
        prune = plan_prune(cell.record, [owned.ref for owned in objects])
        check_brake(
            cell.record,
            prune,
            signed_limit=verified.policy.binding_set.prune_limit,
            # The way back was signed with the Deployment and removes only what that Deployment brought.
            confirmed=len(prune.delete) if fallback else verified.deployment.document.confirm_prune,
        )
        return Change(item, verified, rendered, objects, prune, correlation_id, fallback)

    # -- decision -----------------------------------------------------------------------------------------------------

    async def _decide(self, cell: Cell, change: Change) -> tuple[tuple[RefusalText, ...], bool]:
        """Decide on what is known of isolation; return refusals, and whether it is to be decided again.

        Refused only for want of proof: go on, isolate, measure, ask again. Else no cell could ever get its proof.
        """
        decision = await self._ask(change, cell.record.isolation)
        if not decision.allowed and (await self._ask(change, _HOPED)).allowed:
            why = "allowed if isolation is proved; it is measured next"
            await self._record(change, "cell.isolate", "allow", reason=why)
            return (), True
        await self._record_decision(change, decision, cell.record.isolation)
        return (() if decision.allowed else refusals_of(decision)), False

    async def _decide_again(self, cell: Cell, change: Change) -> tuple[RefusalText, ...]:
        decision = await self._ask(change, cell.record.isolation)
        await self._record_decision(change, decision, cell.record.isolation)
        if decision.allowed:
            return ()
        refusals = refusals_of(decision)
        if cell.has_workloads():
            return refusals
        left = f"{change.rendered.namespace} is left as an empty, isolated namespace."
        return tuple(replace(one, next=f"{one.next} {left}".strip()) for one in refusals)

    async def _ask(self, change: Change, isolation: str) -> Decision:
        begun = self._parts.timer.monotonic()
        hub: Mapping[str, object] = {"state": change.item.hub_state, "revision": change.item.revision}
        decision = await self._parts.gate.decide(
            change.verified, change.rendered, change.item.environment, isolation, hub
        )
        self._parts.metrics.observe(AGENT_DECISION_SECONDS, self._parts.timer.monotonic() - begun)
        return decision

    async def _record_decision(self, change: Change, decision: Decision, isolation: str) -> None:
        outcome = "allow" if decision.allowed else "deny"
        self._parts.metrics.increment(AGENT_DECISIONS, result=outcome)
        first = decision.violations[0] if decision.violations else None
        details = details_of(decision, change.verified.policy, isolation)
        entry = self._entry(
            change, "cell.decide", outcome, reason=first.reason if first else "", details=details
        )  # fmt: skip
        code = "" if decision.allowed else "policy/denied"
        await self._parts.recorder.record(replace(entry, code=code, rule=first.rule if first else ""))

    # -- namespace, isolation, rights ---------------------------------------------------------------------------------

    async def _prepare(self, cell: Cell, change: Change, *, provisional: bool) -> tuple[RefusalText, ...]:
        """Make the namespace real, with isolation before anything else when it is new, and measure it (V9)."""
        cluster, decided_on = self._parts.cluster, cell.record.isolation
        exists = await cluster.claim_namespace(cell.record, change.rendered.namespace_object)
        first = not any(owned.role is Role.ISOLATION and owned.uid for owned in cell.record.objects)
        wanted = {Role.NAMESPACE, Role.RIGHTS, *([Role.ISOLATION] if first or not exists else [])}
        ground = [owned for owned in change.objects if owned.role in wanted]
        if not exists:
            await self._record(change, "namespace.create", "allow")
        record = cell.record
        for owned in ground:
            record = record.with_object(owned)
        await self._parts.save(cell, record)
        for owned in ground:
            written = await cluster.write(cell.record, owned)
            cell.record = cell.record.with_object(written)
        evidence = await self._parts.prober.probe(change.rendered.namespace)
        measured = replace(cell.record, isolation=evidence.state)
        if not exists or evidence.state != decided_on:
            details = {"isolation": evidence.state, "namespace": change.rendered.namespace}
            entry = self._entry(change, "isolation.probe", "done", reason=evidence.text, details=details)
            await self._parts.save_recorded(cell, measured, entry)
        else:
            await self._parts.save(cell, measured)
        if provisional or evidence.state != decided_on:
            return await self._decide_again(cell, change)
        return ()

    # -- apply --------------------------------------------------------------------------------------------------------

    async def _accept(self, change: Change) -> None:
        """The point of no return: the floor is durable before the first object of the release is written."""
        deployment = change.verified.deployment
        if not change.fallback:
            details = {"sequence": str(deployment.document.sequence)}
            await self._record(change, "document.accept", "allow", details=details)
        # Only now: what is merely offered, however well signed, takes no room.
        for digest, envelope in change.verified.envelopes.items():
            await self._parts.state.blobs.put(digest, envelope)
        if change.fallback:
            return
        await self._parts.state.floors.set(*change.item.key, Floor(deployment.document.sequence, deployment.digest))
        await self._parts.state.accepted.put(change.item)

    async def _apply(self, cell: Cell, change: Change, anew: frozenset[ObjectRef]) -> None:
        """Write isolation, then the objects wave by wave; what is no longer released goes after each of the two."""
        known = cell.record.by_ref()
        objects = [_carry_over(owned, known) for owned in change.objects]
        release, deployment, old = change.verified.release, change.verified.deployment, cell.record
        again = (old.deployment_digest, old.release_digest) == (deployment.digest, release.digest) and not old.settled
        record = replace(
            old,
            deployment_digest=deployment.digest,
            release_digest=release.digest,
            version=release.document.version,
            conditions=change.rendered.conditions,
            settled=False,
            ending="",
            fallback_active=change.fallback,
            rollout_started=old.rollout_started if again else format_time(self._parts.timer.now()),
            deadline_seconds=deployment.document.rollout.get("deadlineSeconds", _DEFAULT_DEADLINE),
        )
        for owned in objects:
            record = record.with_object(owned)
        await self._parts.save(cell, record)
        for role in (Role.ISOLATION, Role.OBJECT):
            by_ref = {owned.ref: owned for owned in objects if owned.role is role}
            for manifests in waves(owned.manifest for owned in by_ref.values()):
                for manifest in manifests:
                    owned = by_ref[ref_of(manifest)]
                    await self._apply_one(cell, old, owned, anew=owned.ref in anew)
                await self._parts.save(cell, cell.record)
            # What a policy of before still opens is closed before anything new runs behind it (V9, V10).
            await self._prune(cell, change, role)

    async def _apply_one(self, cell: Cell, before: CellRecord, owned: OwnedObject, *, anew: bool) -> None:
        cluster = self._parts.cluster
        old = before.by_ref().get(owned.ref)
        if anew:
            await self._remove(cell, owned)
            owned, old = replace(owned, uid=""), None
        elif old is not None and not owned.opened and not old.opened:
            owned, done = await self._bring_up(cell, before, old, owned)
            if done:
                cell.record = cell.record.with_object(owned)
                return
        live = await cluster.write(cell.record, owned, force=bool(owned.uid) or owned.role is not Role.OBJECT)
        cell.record = cell.record.with_object(live)

    async def _remove(self, cell: Cell, owned: OwnedObject) -> None:
        going = await self._parts.cluster.delete(cell.record, owned)
        await self._parts.cluster.wait_gone([going] if going is not None else [])

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
        mine = await self._parts.cluster.ours(before, old)
        if mine is None:
            return replace(owned, uid=""), False
        if done:
            return replace(owned, uid=mine.uid), False
        repair = await self._parts.repairer.check(before, mine)
        if same:
            return (repair.owned if repair is not None else replace(owned, uid=mine.uid)), True
        return replace(owned, uid=repair.owned.uid if repair is not None else mine.uid), False

    async def _prune(self, cell: Cell, change: Change, role: Role) -> None:
        for owned in change.prune.delete:
            if owned.role is not role:
                continue
            await self._record(
                change, "object.delete", "allow", subject=str(owned.ref), reason="no longer part of the release"
            )
            await self._parts.cluster.delete(cell.record, owned)
            cell.record = cell.record.without(owned.ref)
            cell.forget(owned.ref)
        for owned in change.prune.retain if role is Role.OBJECT else ():
            cell.record = cell.record.with_object(replace(owned, retained=True))

    async def _settle(self, cell: Cell, change: Change) -> None:
        details = {
            "applied": str(len(change.objects)),
            "pruned": str(len(change.prune.delete)),
            "isolation": cell.record.isolation,
        }
        action = "cell.fallback" if change.fallback else "cell.apply"
        entry = self._entry(change, action, "done", details=details)
        await self._parts.save_recorded(cell, replace(cell.record, settled=True), entry)

    async def _record(
        self,
        change: Change,
        action: str,
        decision: str,
        *,
        subject: str = "",
        reason: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None:
        entry = self._entry(change, action, decision, subject=subject, reason=reason, details=details)
        await self._parts.recorder.record(entry)

    def _entry(
        self,
        change: Change,
        action: str,
        decision: str,
        *,
        subject: str = "",
        reason: str = "",
        details: Mapping[str, str] | None = None,
    ) -> Entry:
        return Entry(
            action,
            subject or f"Cell/{change.rendered.namespace}",
            decision,
            reason=reason,
            correlation_id=change.correlation_id,
            revision=change.item.revision,
            details={**change.details, **(details or {})},
        )


def _carry_over(owned: OwnedObject, known: Mapping[ObjectRef, OwnedObject]) -> OwnedObject:
    """Give a manifest the uid of the object that exists already, and its baseline while nothing changes.

    The old baseline of a changed manifest would make the object look as released when its write was interrupted. A
    completed job runs again if it changed.
    """
    old = known.get(owned.ref)
    if old is None:
        return owned
    same = old.manifest == owned.manifest
    return replace(owned, uid=old.uid, baseline=old.baseline if same else {}, done=old.done and same)


def _cell_labels(namespace: JSONObject) -> dict[str, str]:
    labels: Mapping[str, str] = namespace["metadata"]["labels"]
    return {name: value for name, value in labels.items() if name.startswith("cellward.dev/")}
