"""The gate: an agent-owned Rego module that asks every bound bundle about every object in one query. Pure.

The module is generated from names that were checked when bundle and bindings were read. A bundle cannot replace it:
its package is outside every root a bundle may claim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cellward.errors import CellwardError, ErrorCode
from cellward.policy.bundle import Bundle, check_disjoint
from cellward.policy.errors import (
    ENVIRONMENT_NOT_HOSTED,
    MALFORMED_RESULT,
    NO_BINDING,
    NOT_EVALUATED,
    ROOTS_OVERLAP,
    UNDEFINED,
)
from cellward.policy.model import (
    Binding,
    Decision,
    DecisionInput,
    Violation,
    binding_view,
)

_HEAD = """package cellward_gate

import rego.v1

# A release without objects is still decided once, on an empty object.
objects := input.objects if count(input.objects) > 0

else := [{}]
"""

#: What a bundle sees besides ``verified`` and ``object``; see ``DecisionInput.to_json``.
_FIELDS = ("schema", "operation", "time", "objects", "hub")


@dataclass(frozen=True, slots=True)
class BoundBundle:
    """A binding that selects this cluster, and the bundle it names."""

    binding: Binding
    bundle: Bundle


#: Most engines for what only warns or watches, beside the one that may refuse.
MAX_ADVISORY = 2


def divide(bound: Sequence[BoundBundle]) -> tuple[tuple[BoundBundle, ...], ...]:
    """Return what each engine decides: first what may refuse, then what is only reported.

    They are apart so that a bundle in mode warn or shadow, whatever it does, refuses nothing; and so that one may stand
    beside the version of it that is enforced. Raises policy/roots-overlap for more than MAX_ADVISORY can hold.
    """
    enforced = tuple(entry for entry in bound if entry.binding.mode == "enforce")
    advisory: list[list[BoundBundle]] = []
    for entry in bound:
        if entry.binding.mode == "enforce":
            continue
        place = next((group for group in advisory if _fits(group, entry)), None)
        if place is not None:
            place.append(entry)
        elif len(advisory) < MAX_ADVISORY:
            advisory.append([entry])
        else:
            raise ROOTS_OVERLAP(
                f"binding {entry.binding.name} is one version too many: at most {MAX_ADVISORY} versions of the same "
                "roots can be bound in mode warn or shadow"
            )
    return (enforced, *map(tuple, advisory))


def _fits(group: Sequence[BoundBundle], entry: BoundBundle) -> bool:
    try:
        check_disjoint(distinct([*group, entry]))
    except CellwardError:
        return False
    return True


def distinct(bound: Sequence[BoundBundle]) -> list[Bundle]:
    """Return every bundle once, also when two bindings name it."""
    return list({entry.bundle.digest: entry.bundle for entry in bound}.values())


def gate_module(bound: Sequence[BoundBundle]) -> str:
    """Return the source of the gate for a set of bound bundles."""
    return _HEAD + "".join(_rule(entry) for entry in bound)


def _rule(entry: BoundBundle) -> str:
    name = json.dumps(entry.binding.name)
    reference = "data" + "".join(f"[{json.dumps(part)}]" for part in entry.bundle.entrypoint.split("/"))
    # The document is built again: `with input.object as item` alone would copy all objects once per object.
    fields = ", ".join(f'"{field}": input.{field}' for field in _FIELDS)
    return f"""
results[{name}] := {{format_int(i, 10): found |
	verified := object.union(input.verified, {{"binding": input.gate[{name}]}})
	some i, item in objects
	document := {{{fields}, "verified": verified, "object": item}}
	found := {reference} with input as document
}}
"""


def question(request: DecisionInput, bound: Sequence[BoundBundle]) -> dict[str, object]:
    """Return the engine's input: the decision document, and the bindings to ask under ``gate``."""
    document = request.to_json()
    document["gate"] = {entry.binding.name: binding_view(entry.binding) for entry in bound}
    return document


def decision_id(document: Mapping[str, object], bundles: Mapping[str, str]) -> str:
    """Return the digest of question and bundles: equal questions to equal bundles have equal ids."""
    text = json.dumps([document, dict(bundles)], sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def object_name(item: Mapping[str, object]) -> str:
    """Return "Kind/namespace/name" of an object, without the namespace when it has none."""
    metadata = item.get("metadata")
    facts = metadata if isinstance(metadata, Mapping) else {}
    parts = (item.get("kind"), facts.get("namespace"), facts.get("name"))
    return "/".join(str(part) for part in parts if part)


def decide(
    request: DecisionInput,
    bound: Sequence[BoundBundle],
    results: object,
    failed: Mapping[str, CellwardError] | None = None,
) -> Decision:
    """Make the decision out of the engines' answers; whatever is missing in them is a violation (deny by default).

    ``failed`` says why there is no answer for the bindings it names.
    """
    found: dict[str, list[Violation]] = {"enforce": [], "warn": [], "shadow": []}
    answers = results if isinstance(results, Mapping) else {}
    for entry in bound:
        violations, failure = found[entry.binding.mode], (failed or {}).get(entry.binding.name)
        if failure is not None:
            violations.append(_not_evaluated(request, entry, failure))
            continue
        for violation in _violations(request, entry, answers.get(entry.binding.name)):
            if violation not in violations:
                violations.append(violation)
    bundles = _evaluated(bound)
    denied = tuple(found["enforce"])
    identity = decision_id(question(request, bound), bundles)
    return Decision(not denied, denied, tuple(found["warn"]), bundles, identity, tuple(found["shadow"]))


def _evaluated(bound: Sequence[BoundBundle]) -> dict[str, str]:
    """Return digests by name; two versions of one name, by name and version."""
    names = {entry.bundle.name: entry.bundle.digest for entry in reversed(bound)}
    names |= {entry.bundle.name: entry.bundle.digest for entry in bound if entry.binding.mode == "enforce"}
    others = {
        f"{entry.bundle.name}-{entry.bundle.version}": entry.bundle.digest
        for entry in bound
        if names[entry.bundle.name] != entry.bundle.digest
    }
    return names | others


def _not_evaluated(request: DecisionInput, entry: BoundBundle, failure: CellwardError) -> Violation:
    broken = _broken(entry, NOT_EVALUATED, "was not evaluated", f"Cell/{request.project}/{request.cell}")
    return replace(
        broken, reason=f"{broken.reason}: {failure.message} [{failure.code}]"[:1000], remediation=failure.hint
    )


def refusal_without_bindings(request: DecisionInput) -> Decision | None:
    """Return the denial when the environment is not one of the cluster's own facts."""
    if request.environment in request.facts.environments:
        return None
    return _deny(
        request,
        ENVIRONMENT_NOT_HOSTED,
        f"environment {request.environment!r} is not among the environments of this cluster",
    )


def no_binding(request: DecisionInput) -> Decision:
    """Return the denial for a cluster that no binding selects: nobody decided, so nothing is allowed."""
    return _deny(
        request,
        NO_BINDING,
        f"no policy binding selects environment {request.environment!r} of this cluster",
    )


def _deny(request: DecisionInput, rule: ErrorCode, reason: str) -> Decision:
    subject = f"Cell/{request.project}/{request.cell}"
    violation = Violation(rule.code, reason, rule.hint, object=subject)
    return Decision(False, (violation,), (), {}, decision_id(request.to_json(), {}))  # noqa: FBT003 - allowed


def _violations(request: DecisionInput, entry: BoundBundle, answer: object) -> list[Violation]:
    items: Sequence[Mapping[str, object]] = request.objects or ({},)
    answers = answer if isinstance(answer, Mapping) else {}
    violations: list[Violation] = []
    for index, item in enumerate(items):
        name = object_name(item) or f"Cell/{request.project}/{request.cell}"
        found = answers.get(str(index))
        if not isinstance(found, list):
            violations.append(_broken(entry, UNDEFINED, "gives no result for this object", name))
            continue
        violations.extend(_violation(entry, element, name) for element in found)
    return violations


def _violation(entry: BoundBundle, element: object, name: str) -> Violation:
    if isinstance(element, str):
        return Violation(entry.bundle.entrypoint, element[:1000], object=name)
    if not isinstance(element, Mapping):
        return _broken(entry, MALFORMED_RESULT, "gives a result that is not an object", name)
    texts = {key: element.get(key) for key in ("rule", "reason", "remediation", "severity", "object")}
    if not isinstance(texts["rule"], str) or not isinstance(texts["reason"], str):
        return _broken(entry, MALFORMED_RESULT, "gives a result without rule and reason", name)
    remediation, severity, subject = texts["remediation"], texts["severity"], texts["object"]
    return Violation(
        rule=texts["rule"][:200],
        reason=texts["reason"][:1000],
        remediation=remediation[:1000] if isinstance(remediation, str) else "",
        severity=severity[:40] if isinstance(severity, str) else "error",
        object=subject[:400] if isinstance(subject, str) and subject else name,
    )


def _broken(entry: BoundBundle, rule: ErrorCode, what: str, name: str) -> Violation:
    reason = f"bundle {entry.bundle.name} {entry.bundle.version} (binding {entry.binding.name}) {what}"
    return Violation(rule.code, reason, rule.hint, object=name)
