"""Decision types, bindings and the verified set: the words both sides use about policy.

Pure values. Times are aware datetimes in UTC, durations are seconds, digests are ``sha256:<64 hex>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from cellward.documents.revocations import NOTHING_REVOKED, Revocations

if TYPE_CHECKING:
    from cellward.documents.facts import ClusterFacts, Selector
    from cellward.documents.keyring import Keyring

DECISION_SCHEMA = "cellward.decision/v1"
BINDINGS_SCHEMA = "cellward.bindings/v1"
BINDINGS_TARGET = "bindings/bindings.json"
KEYRING_TARGET = "keyring/keyring.json"
REVOCATIONS_TARGET = "keyring/revocations.json"
KEYRING_ROLE = "keyring"

Mode = Literal["enforce", "warn", "shadow"]
OnStale = Literal["keep", "refuse-new"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason a policy gives (V15): rule id, object as "Kind/namespace/name", why, and what to do next."""

    rule: str
    reason: str
    remediation: str = ""
    severity: str = "error"
    object: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the bound bundles say about one release.

    ``violations`` come from bindings in mode enforce and make ``allowed`` false, ``warnings`` from mode warn,
    ``shadow`` from mode shadow. ``bundles`` maps bundle name to digest of what was evaluated; where two versions of one
    name were, the other one is under name and version. ``decision_id`` is the
    digest of input and bundles: the same question to the same bundles has the same id.
    """

    allowed: bool
    violations: tuple[Violation, ...]
    warnings: tuple[Violation, ...]
    bundles: Mapping[str, str]
    decision_id: str
    shadow: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Binding:
    """A bundle version bound to clusters by their facts; from the signed target ``bindings/bindings.json``.

    ``staleness_seconds`` counts from the expiry of the snapshot; past it, ``on_stale`` holds.
    """

    name: str
    bundle: str
    bundle_digest: str
    selector: Selector
    mode: Mode = "enforce"
    staleness_seconds: int = 86_400
    on_stale: OnStale = "refuse-new"
    parameters: Mapping[str, object] = field(default_factory=dict)

    def selects(self, facts: ClusterFacts, environment: str | None = None) -> bool:
        """Whether the binding holds for a cluster, or for one of its environments when that is given."""
        if environment is not None:
            facts = replace(facts, environments=(environment,))
        return self.selector.matches(facts)


@dataclass(frozen=True, slots=True)
class BindingSet:
    """All bindings, and the signed settings that travel with them.

    ``prune_limit`` is the number of objects one change may delete without a signed confirmation (V14);
    ``thresholds`` maps document kind to the number of distinct owners who must sign; ``hub_attestation`` names the
    environments where the hub's attestation key is admitted, never where the fact ``production`` is true.
    """

    realm: str
    bindings: tuple[Binding, ...]
    prune_limit: int = 10
    thresholds: Mapping[str, int] = field(default_factory=dict)
    hub_attestation: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """The question: what the agent verified, the rendered objects, and what the hub merely claims.

    ``gates`` are the images of the start gates among the objects: the agent put them there, by its installation.
    """

    time: datetime
    realm: str
    facts: ClusterFacts
    environment: str
    project: str
    cell: str
    release: Mapping[str, object]
    deployment: Mapping[str, object]
    signers: tuple[Mapping[str, object], ...]
    isolation: str
    objects: tuple[Mapping[str, object], ...]
    hub: Mapping[str, object] = field(default_factory=dict)
    operation: str = "deploy"
    gates: tuple[str, ...] = ()

    def to_json(self, binding: Binding | None = None) -> dict[str, object]:
        """Return the document a bundle sees (schema ``cellward.decision/v1``), without ``object``.

        The gate sets ``object`` to each of ``objects`` in turn and ``verified.binding`` to each binding.
        """
        verified: dict[str, object] = {
            "realm": self.realm,
            "cluster": self.facts.to_json(),
            "environment": self.environment,
            "project": self.project,
            "cell": self.cell,
            "release": dict(self.release),
            "deployment": dict(self.deployment),
            "signers": [dict(signer) for signer in self.signers],
            "isolation": self.isolation,
            "startGate": {"images": list(self.gates)},
        }
        if binding is not None:
            verified["binding"] = binding_view(binding)
        return {
            "schema": DECISION_SCHEMA,
            "operation": self.operation,
            "time": self.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "verified": verified,
            "objects": [dict(obj) for obj in self.objects],
            "hub": dict(self.hub),
        }


def binding_view(binding: Binding) -> dict[str, object]:
    """Return what a bundle sees of the binding that brought it: ``input.verified.binding``."""
    return {"name": binding.name, "mode": binding.mode, "parameters": dict(binding.parameters)}


class Evaluator(Protocol):
    """Answers decisions on the last verified set."""

    async def decide(self, request: DecisionInput) -> Decision:
        """Decide all objects of one release at once.

        Raises policy/no-verified-set when there is no set, policy/engine-unavailable when the engine does not answer
        in time. A bundle that gives no result is a violation of rule ``policy/undefined``.
        """
        ...


@dataclass(frozen=True, slots=True)
class VerifiedSet:
    """What was accepted last (V8): versions, expiry, keyring, bindings, and the bundles this cluster needs.

    ``keyring`` has every key that a signed revocation locks as compromised. ``bundles`` maps target path to bytes;
    ``digests`` maps every target path of the set to its digest.
    """

    realm: str
    root_version: int
    timestamp_version: int
    snapshot_version: int
    targets_version: int
    keyring_version: int
    snapshot_expires: datetime
    keyring: Keyring
    binding_set: BindingSet
    bundles: Mapping[str, bytes]
    digests: Mapping[str, str]
    revocations: Revocations = NOTHING_REVOKED

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All bindings, also those that do not select this cluster."""
        return self.binding_set.bindings


@dataclass(frozen=True, slots=True)
class Staleness:
    """How old the policy is: seconds past the snapshot's expiry, the strictest signed limit, and what then holds."""

    seconds: int
    limit: int
    verdict: Literal["fresh", "keep", "refuse-new"]


def staleness_of(verified: VerifiedSet, facts: ClusterFacts, now: datetime) -> Staleness:
    """Return how stale a set is on a cluster (V8); pure, for the gate.

    ``fresh``: everything is decided. ``keep``: what runs is still decided, no new deployment or exception.
    ``refuse-new``: also no object changes. The strictest of the bindings that select the cluster wins; with none,
    the limit is zero and the answer past expiry is ``refuse-new``.
    """
    past = int((now - verified.snapshot_expires) / timedelta(seconds=1))
    seconds = max(0, past)
    chosen = [binding for binding in verified.bindings if binding.selects(facts)]
    limit = min((binding.staleness_seconds for binding in chosen), default=0)
    exceeded = [binding for binding in chosen if past > binding.staleness_seconds]
    if past <= 0 or (chosen and not exceeded):
        return Staleness(seconds, limit, "fresh")
    refuse = not chosen or any(binding.on_stale == "refuse-new" for binding in exceeded)
    return Staleness(seconds, limit, "refuse-new" if refuse else "keep")
