"""Evidence as it is kept and reported: bounded, what is wrong first; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Final

from agent.isolation.interfaces import Evidence, MeasuredEdge

#: Most edges that are kept of one measurement; the rest is counted.
MAX_EDGES: Final = 200
#: Wrong edges that a record names, and characters for them.
_NAMED, _NAMED_TEXT = 3, 200


def wrong_of(evidence: Evidence | None) -> frozenset[MeasuredEdge]:
    """Return the wrong edges, without where they were found: nodes come and go."""
    return frozenset(replace(one, node="") for one in evidence.edges if one.wrong) if evidence else frozenset()


def bounded(evidence: Evidence) -> Evidence:
    """Return what is kept: wrong edges first, then what could not be tried, at most ``MAX_EDGES``."""
    edges = sorted(evidence.edges, key=lambda one: (not one.wrong, one.measured != "unknown", one))
    return replace(evidence, edges=tuple(edges[:MAX_EDGES]), cut=evidence.cut + max(0, len(edges) - MAX_EDGES))


def aged(evidence: Evidence, now: datetime, most_seconds: float) -> Evidence:
    """Return ``unknown`` of what is older than ``most_seconds``, or from the future by as much; else what was given."""
    if evidence.state == "unknown" or abs(now - evidence.at) <= timedelta(seconds=most_seconds):
        return evidence
    text = f"it was {evidence.state} at {evidence.at:%Y-%m-%dT%H:%M:%SZ}, which is too long ago to count"
    return replace(evidence, state="unknown", text=text)


def first_wrong(edges: Sequence[MeasuredEdge]) -> str:
    """Name the first wrong edges, in few words, each once, however many components and nodes it is wrong for."""
    named = dict.fromkeys(f"{one.direction} {one.peer} {one.protocol} {one.port}" for one in edges if one.wrong)
    return ", ".join([*named][:_NAMED])[:_NAMED_TEXT]


def to_json(evidence: Evidence) -> dict[str, Any]:
    """Return the durable shape."""
    return {
        "state": evidence.state,
        "at": evidence.at.isoformat(),
        "prober": evidence.prober,
        "text": evidence.text,
        "edges": [asdict(one) for one in evidence.edges],
        "egress_lag_seconds": evidence.egress_lag_seconds,
        "cut": evidence.cut,
    }


def from_json(value: Mapping[str, Any]) -> Evidence:
    """Read the durable shape; it is the agent's own."""
    edges = tuple(MeasuredEdge(**one) for one in value["edges"])
    return Evidence(**{**value, "at": datetime.fromisoformat(value["at"]), "edges": edges})
