"""Asks the policy of this cluster about one release, or the end of a cell, and turns its answer into refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from agent.audit.interfaces import Entry, RefusalText
from agent.verify.errors import POLICY_DENIED, POLICY_STALE
from agent.verify.intake import VerifiedCell, VerifiedEnd
from agent.verify.interfaces import PolicyView
from cellward.cells.gated import gate_images
from cellward.cells.render import RenderedCell
from cellward.documents.facts import ClusterFacts
from cellward.documents.fields import format_time
from cellward.documents.keyring import KeyringEntry, Verified
from cellward.documents.model import Approval
from cellward.policy.errors import ENGINE_UNAVAILABLE, UNDEFINED
from cellward.policy.model import Decision, DecisionInput, VerifiedSet, Violation
from cellward.runtime.clock import Clock

#: Code of every refusal by a rule.
DENIED: Final = POLICY_DENIED.code
#: Seconds for a decision as a whole; the evaluator has its own, shorter limit.
_LIMIT_SECONDS: Final = 30.0


class Gate:
    """The decision of this cluster about one release."""

    def __init__(self, *, policy: PolicyView, clock: Clock, facts: Callable[[], ClusterFacts], realm: str) -> None:
        self._policy = policy
        self._clock = clock
        self._facts = facts
        self._realm = realm

    def check_fresh(self, *, known: bool) -> None:
        """Raise apply/policy-stale unless the policy is fresh enough for this change (V8).

        ``known``: the deployment was accepted before, so it is no new one; then ``keep`` allows to finish it.
        """
        staleness = self._policy.staleness(self._clock.now())
        if staleness is None or staleness.verdict == "fresh" or (staleness.verdict == "keep" and known):
            return
        raise POLICY_STALE(
            f"the signed policy snapshot expired {staleness.seconds} s ago, {staleness.limit} s are allowed, and a "
            f"binding says onStale: {staleness.verdict}",
        )

    async def decide(
        self, cell: VerifiedCell, rendered: RenderedCell, environment: str, isolation: str, hub: Mapping[str, object]
    ) -> Decision:
        """Ask once, about all objects. Raises policy/no-verified-set, policy/engine-unavailable."""
        release, deployment = cell.release.document, cell.deployment.document
        return await self._ask(
            DecisionInput(
                time=self._clock.now(),
                realm=self._realm,
                facts=self._facts(),
                environment=environment,
                project=release.project,
                cell=release.cell,
                release={"digest": cell.release.digest, "version": release.version, "owner": release.owner},
                deployment={
                    "digest": cell.deployment.digest,
                    "sequence": deployment.sequence,
                    "environments": list(deployment.environments),
                    "approvals": _approvals(cell.approvals),
                },
                signers=(
                    *_signers("deployment", cell.deployment.signers),
                    *_signers("release", cell.release.signers),
                ),
                isolation=isolation,
                objects=(rendered.namespace_object, *rendered.isolation, *rendered.objects),
                hub=hub,
                gates=gate_images(rendered.objects),
            )
        )

    async def decide_end(
        self, end: VerifiedEnd, environment: str, isolation: str, hub: Mapping[str, object]
    ) -> Decision:
        """Ask once whether a cell may end: operation ``remove``, without objects. Raises as ``decide`` does."""
        tombstone = end.tombstone.document
        return await self._ask(
            DecisionInput(
                time=self._clock.now(),
                realm=self._realm,
                facts=self._facts(),
                environment=environment,
                project=tombstone.project,
                cell=tombstone.cell,
                release={},
                deployment={
                    "digest": end.tombstone.digest,
                    "sequence": tombstone.sequence,
                    "environments": list(tombstone.environments),
                    "deleteData": tombstone.delete_data,
                    "approvals": _approvals(end.approvals),
                },
                signers=_signers("tombstone", end.tombstone.signers),
                isolation=isolation,
                objects=(),
                hub=hub,
                operation="remove",
            )
        )

    async def _ask(self, request: DecisionInput) -> Decision:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                return await self._policy.evaluator.decide(request)
        except TimeoutError as error:
            raise ENGINE_UNAVAILABLE(f"no decision within {_LIMIT_SECONDS:.0f} s") from error


def refusals_of(decision: Decision) -> tuple[RefusalText, ...]:
    """Return one refusal per violation (V15)."""
    return tuple(_refusal(violation) for violation in decision.violations) or (
        RefusalText(DENIED, "the policy refuses the release without naming a rule", rule=UNDEFINED.code),
    )


def decided(entry: Entry, decision: Decision) -> Entry:
    """Return the record of a decision: its outcome, and the first rule that refused."""
    if decision.allowed:
        return replace(entry, decision="allow")
    first = decision.violations[0] if decision.violations else None
    return replace(
        entry, decision="deny", code=DENIED, rule=first.rule if first else "", reason=first.reason if first else ""
    )


def details_of(decision: Decision, policy: VerifiedSet, isolation: str) -> dict[str, str]:
    """Return what a record says of a decision: what decided, on what, and what would have been refused.

    ``rules`` are the first of those that only warn or watch; snapshot and targets name the signed set.
    """
    advice = [f"{mode} {one.rule}" for mode in ("warnings", "shadow") for one in getattr(decision, mode)]
    return {
        "decisionId": decision.decision_id,
        "isolation": isolation,
        "violations": str(len(decision.violations)),
        "warnings": str(len(decision.warnings)),
        "shadow": str(len(decision.shadow)),
        **({"rules": ", ".join(dict.fromkeys(advice))} if advice else {}),
        "bundleDigest": ", ".join(f"{name}@{digest}" for name, digest in sorted(decision.bundles.items())),
        "snapshot": str(policy.snapshot_version),
        "targets": str(policy.targets_version),
    }


def _refusal(violation: Violation) -> RefusalText:
    return RefusalText(
        code=DENIED,
        rule=violation.rule,
        object=violation.object,
        reason=violation.reason,
        next=violation.remediation or "Change what the rule names, or ask the security team for an exception.",
    )


def _signers(signed: str, entries: Sequence[KeyringEntry]) -> tuple[dict[str, object], ...]:
    return tuple(
        {"keyid": entry.keyid, "owner": entry.owner, "kinds": list(entry.kinds), "signed": signed} for entry in entries
    )


def _approvals(approvals: Sequence[Verified[Approval]]) -> list[dict[str, object]]:
    return [
        {
            "digest": approval.digest,
            "owners": [entry.owner for entry in approval.signers],
            "notAfter": format_time(approval.document.not_after),
        }
        for approval in approvals
    ]
