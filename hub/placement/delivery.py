"""What a cluster is given: what its invite named it to be, and it says of itself, both. Pure.

A joined agent may lie in its Hello; an administrator named the cluster when inviting it. Invariants: no item, and no
document of one, is given for an environment or project that either side leaves out; a region or label counts where both
say the same; where the two disagree on production nothing is given; without an invite's facts nothing is given. What a
cluster *accepts* its own chart decides, never this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError


@dataclass(frozen=True, slots=True)
class Invited:
    """What the invite names a cluster to be; ``projects`` may be ``("*",)``."""

    environments: tuple[str, ...] = ()
    production: bool = False
    projects: tuple[str, ...] = ("*",)
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What is kept on the cluster's row."""
        return {
            "environments": sorted(set(self.environments)),
            "production": self.production,
            "projects": sorted(set(self.projects)),
            "region": self.region,
            "labels": dict(sorted(self.labels.items())),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Invited | None:
        """Read it back; None where nothing was named."""
        if not kept:
            return None
        return cls(
            tuple(kept["environments"]),
            bool(kept["production"]),
            tuple(kept["projects"]),
            # Invites of older hubs named neither.
            str(kept.get("region", "")),
            dict(kept.get("labels", {})),
        )


def reported(report: Mapping[str, Any]) -> ClusterFacts | None:
    """Facts in what an agent last said, None before; also None for what an older hub kept in another shape."""
    kept = report.get("facts")
    if kept is None:
        return None
    try:
        return ClusterFacts.from_json(kept)
    except CellwardError:
        return None


def deliverable(invited: Invited | None, said: ClusterFacts) -> ClusterFacts:
    """Return the facts that choose what the cluster is given."""
    if invited is None or invited.production is not said.production:
        return replace(said, environments=(), projects=(), region="", labels={})
    environments = tuple(name for name in said.environments if name in invited.environments)
    return replace(
        said,
        environments=environments,
        projects=_both(invited.projects, said.projects),
        region=said.region if said.region == invited.region else "",
        labels={key: value for key, value in said.labels.items() if invited.labels.get(key) == value},
    )


def withheld(invited: Invited | None, said: ClusterFacts | None, project: str, environment: str) -> bool:
    """Whether an item that was placed once is kept from the cluster, because its invite does not name it any more.

    What the cluster says of itself takes nothing back that it was given (V14): that is the agent's own to say. Nor does
    another region or other labels: a cluster that no selector matches any more keeps what was placed there.
    """
    if invited is None or said is None or invited.production is not said.production:
        return True
    return environment not in invited.environments or not {"*", project} & set(invited.projects)


def differences(invited: Invited | None, said: ClusterFacts) -> tuple[str, ...]:
    """Return in what the two disagree, one sentence each; empty when they agree."""
    if invited is None:
        return ("the invite names no environments",)
    found = [
        f"{name}: the invite says {_list(here)}, the agent {_list(there)}"
        for name, here, there in (
            ("environments", invited.environments, said.environments),
            ("projects", invited.projects, said.projects),
        )
        if set(here) != set(there)
    ]
    if invited.region != said.region:
        found.append(f"region: the invite says {invited.region or 'none'}, the agent {said.region or 'none'}")
    if dict(invited.labels) != dict(said.labels):
        found.append(f"labels: the invite says {_pairs(invited.labels)}, the agent {_pairs(said.labels)}")
    if invited.production is not said.production:
        found.append(f"production: the invite says {_word(invited.production)}, the agent {_word(said.production)}")
    return tuple(found)


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    if "*" in one:
        return other
    return one if "*" in other else tuple(name for name in other if name in one)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(sorted(set(names))) or "none"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


def _word(value: bool) -> str:
    return "yes" if value else "no"
