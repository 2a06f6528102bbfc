"""What ``make demo ONCE=1`` found, and whether all of it is what it must be.

Nothing here is a constant of success: a key that no scene has filled in is missing, and a missing key fails.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_REFUSED = _ROOT / "examples" / "refused"
_RULES = _ROOT / "policies" / "starter" / "rules"
#: Has a key of its own: no cell breaks it by what is written in it.
PROOF = "starter/isolation/proof"
REQUIRED_DRIFT = frozenset(
    {
        "image changed",
        "sidecar added",
        "Service deleted",
        "allow-all rule added to a NetworkPolicy",
        "NetworkPolicy deleted",
    }
)


REQUIRED_TAMPERING = frozenset({"one byte changed", "one record dropped", "two records swapped", "the end cut off"})


def _is_true(value: Any) -> bool:
    return value is True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _equals(wanted: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value == wanted


def _at_most(bound: float) -> Callable[[Any], bool]:
    return lambda value: _positive(value) and value <= bound


def _each_rule_meant(value: Any) -> bool:
    """``value``: file name → ``{"meant": rule, "refused_by": [rules]}``; exactly the rule meant refused it.

    Every file of the examples and every rule of the starter bundle that a cell can break must be there.
    """
    if not isinstance(value, dict) or set(value) != {file.name for file in _REFUSED.glob("*.yaml")}:
        return False
    meant = all(entry["refused_by"] == [entry["meant"]] for entry in value.values())
    return meant and {entry["meant"] for entry in value.values()} == starter_rules() - {PROOF}


def starter_rules() -> set[str]:
    """Ids of all rules of the starter bundle, as their METADATA has them."""
    text = "".join(file.read_text() for file in sorted(_RULES.glob("*.rego")))
    return set(re.findall(r"^#   id: (\S+)$", text, re.MULTILINE))


def _each_under_five_seconds(value: Any) -> bool:
    found = value if isinstance(value, dict) else {}
    return set(found) >= REQUIRED_DRIFT and all(_positive(ms) and ms < 5000 for ms in found.values())


def _each_detected(value: Any) -> bool:
    found = value if isinstance(value, dict) else {}
    return set(found) >= REQUIRED_TAMPERING and all(detected is True for detected in found.values())


CONDITIONS: Mapping[str, Callable[[Any], bool]] = {
    "seconds": _positive,
    "setup_seconds": lambda value: _number(value) and value >= 0,
    "nodes": lambda value: value in {"simulated", "real"},
    "programs": lambda value: value in {"simulated", "stand-in", "public"},
    "clusters": _equals(2),
    "agents_connected": _equals(2),
    "cells_ready": _equals(8),
    "isolation": lambda value: isinstance(value, dict) and len(value) == 8,
    "isolation_edges": lambda value: (
        isinstance(value, dict) and value.get("wrong") == 0 and _number(value.get("tried"))
    ),
    "refused_by_policy": _each_rule_meant,
    "forged_bundle_refused": _is_true,
    "replayed_bundle_refused": _is_true,
    "unsigned_release_refused": _is_true,
    "older_deployment_refused": _is_true,
    "relabelled_cluster_refused": _is_true,
    "unknown_field_refused": _is_true,
    "unproved_isolation_refused": _is_true,
    "dry_run_signs_nothing": _is_true,
    "fallback_not_chosen_by_hub": _is_true,
    "order_not_chosen_by_hub": _is_true,
    "join_line_is_inert": _is_true,
    "foreign_certificate_refused": _is_true,
    "lock_cuts_ms": _at_most(1000),
    "repair_not_blocked": _is_true,
    "labels_open_nothing": _is_true,
    "drift_repaired_ms": _each_under_five_seconds,
    "hub_down_ms": _positive,
    "audit_records_while_down": _positive,
    "audit_records": _positive,
    "audit_gaps": _equals(0),
    "audit_duplicates": _equals(0),
    "audit_verified": _is_true,
    "tampered_audit_detected": _each_detected,
    "metrics_series": _positive,
}


class Summary:
    """Collects what the scenes measured."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        """Fill in one key of the table; an unknown key is a mistake of ours."""
        if key not in CONDITIONS:
            raise KeyError(key)
        self._found[key] = value

    def wrong(self) -> list[str]:
        """One sentence for each key that is missing or not what it must be."""
        sentences = []
        for key, holds in CONDITIONS.items():
            if key not in self._found:
                sentences.append(f"{key}: no scene filled it in")
            elif not holds(self._found[key]):
                sentences.append(f"{key}: {json.dumps(self._found[key])}")
        wanted = {"real": "enforced", "simulated": "unknown"}.get(str(self._found.get("nodes")))
        isolation: Any = self._found.get("isolation")
        if wanted and CONDITIONS["isolation"](isolation) and set(isolation.values()) != {wanted}:
            sentences.append(f"isolation: {json.dumps(isolation)}, on {self._found.get('nodes')} nodes")
        edges: Any = self._found.get("isolation_edges")
        if wanted and CONDITIONS["isolation_edges"](edges) and (edges["tried"] > 0) != (wanted == "enforced"):
            sentences.append(f"isolation_edges: {json.dumps(edges)}, on {self._found.get('nodes')} nodes")
        whole: Any = self._found.get("seconds")
        part: Any = self._found.get("setup_seconds")
        if _number(whole) and _number(part) and whole < part:
            sentences.append(f"seconds: {whole} is less than the setup_seconds in it, {part}")
        return sentences

    def line(self) -> str:
        """The JSON object; refused_by_policy shows the rules that refused, as they were seen."""
        shown = dict(self._found)
        refused = shown.get("refused_by_policy")
        if isinstance(refused, dict):
            shown["refused_by_policy"] = {name: ", ".join(entry["refused_by"]) for name, entry in refused.items()}
        return json.dumps({key: shown.get(key) for key in CONDITIONS})
