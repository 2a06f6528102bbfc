"""Where the verified policy of an agent stands, as it is reported to the hub. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cellward.documents.facts import ClusterFacts
from cellward.policy.model import VerifiedSet


@dataclass(frozen=True, slots=True)
class PolicyPosition:
    """Versions of the verified policy set; zeros when there is none."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    snapshot_expires_unix: int = 0
    bundles: Mapping[str, str] = field(default_factory=dict)


def position_of(verified: VerifiedSet | None) -> PolicyPosition:
    """Versions for Hello and AgentStatus; zeros without a set."""
    if verified is None:
        return PolicyPosition()
    return PolicyPosition(
        root=verified.root_version,
        timestamp=verified.timestamp_version,
        snapshot=verified.snapshot_version,
        targets=verified.targets_version,
        snapshot_expires_unix=int(verified.snapshot_expires.timestamp()),
        bundles=dict(verified.digests),
    )


def authority_of(verified: VerifiedSet | None, facts: ClusterFacts) -> str:
    """``authors+hub`` where a signed binding admits the hub's attestation key: never where production is a fact."""
    admitted = verified is not None and bool(set(verified.binding_set.hub_attestation) & set(facts.environments))
    return "authors+hub" if admitted and not facts.production else "authors"
