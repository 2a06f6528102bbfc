"""The bindings target: parsing and building ``bindings/bindings.json`` (schema ``cellward.bindings/v1``), strictly.

All bindings are one target, so that a set is either wholly there or not at all. An unknown field or schema is refused
as too new: half a binding must never be enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from cellward.documents import canonical
from cellward.documents.facts import Selector
from cellward.documents.model import KINDS
from cellward.errors import CellwardError, TooNew
from cellward.policy.errors import BAD_BINDINGS, BINDINGS_TOO_NEW
from cellward.policy.model import BINDINGS_SCHEMA, Binding, BindingSet, Mode, OnStale

MAX_BINDINGS = 64
MAX_STALENESS = 366 * 86_400
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_TARGET = re.compile(r"bundles/[a-z0-9][a-z0-9-]*-[0-9A-Za-z][0-9A-Za-z.+-]*\.tar\.gz\Z")
_TOP = {"schema", "realm", "bindings", "pruneLimit", "thresholds", "hubAttestation"}
_FIELDS = {
    "name", "bundle", "bundleDigest", "selector", "mode", "stalenessSeconds", "onStale", "parameters",
}  # fmt: skip


def parse_bindings(data: bytes) -> BindingSet:
    """Parse the target's bytes.

    Raises policy/bad-bindings, or policy/bindings-too-new for a schema or field that is not known.
    """
    try:
        document = canonical.decode(data)
    except CellwardError as error:
        raise BAD_BINDINGS(f"the bindings are not canonical JSON: {error.message}") from error
    top = _object(document, "the bindings")
    if top.get("schema") != BINDINGS_SCHEMA:
        raise BINDINGS_TOO_NEW(f"schema {str(top.get('schema'))[:80]!r} is not {BINDINGS_SCHEMA}")
    _known(top, _TOP, "the bindings")
    entries = top.get("bindings")
    if not isinstance(entries, list) or len(entries) > MAX_BINDINGS:
        raise BAD_BINDINGS(f"bindings must be a list of at most {MAX_BINDINGS}")
    bindings = tuple(_binding(_object(entry, "a binding")) for entry in entries)
    names = [binding.name for binding in bindings]
    if len(set(names)) != len(names):
        raise BAD_BINDINGS("two bindings have one name")
    return BindingSet(
        realm=_text(top, "realm", _DIGEST),
        bindings=bindings,
        prune_limit=_number(top, "pruneLimit", 0, 10_000),
        thresholds=_thresholds(top.get("thresholds")),
        hub_attestation=_environments(top.get("hubAttestation")),
    )


def dump_bindings(bindings: BindingSet) -> bytes:
    """Return the canonical bytes of the target; :func:`parse_bindings` reads them back unchanged."""
    document = {
        "schema": BINDINGS_SCHEMA,
        "realm": bindings.realm,
        "bindings": [_binding_json(binding) for binding in bindings.bindings],
        "pruneLimit": bindings.prune_limit,
        "thresholds": dict(bindings.thresholds),
        "hubAttestation": {"environments": list(bindings.hub_attestation)},
    }
    data = canonical.encode(cast("canonical.JSON", document))
    parse_bindings(data)
    return data


def _binding_json(binding: Binding) -> dict[str, object]:
    return {
        "name": binding.name,
        "bundle": binding.bundle,
        "bundleDigest": binding.bundle_digest,
        "selector": binding.selector.to_json(),
        "mode": binding.mode,
        "stalenessSeconds": binding.staleness_seconds,
        "onStale": binding.on_stale,
        "parameters": dict(binding.parameters),
    }


def _binding(entry: Mapping[str, object]) -> Binding:
    _known(entry, _FIELDS, "a binding")
    try:
        selector = Selector.from_json(cast("canonical.JSON", entry.get("selector")))
    except CellwardError as error:
        if isinstance(error, TooNew):
            raise BINDINGS_TOO_NEW(f"a selector is newer than this version: {error.message}") from error
        raise BAD_BINDINGS(f"the selector of a binding is malformed: {error.message}") from error
    return Binding(
        name=_text(entry, "name", _NAME),
        bundle=_text(entry, "bundle", _TARGET),
        bundle_digest=_text(entry, "bundleDigest", _DIGEST),
        selector=selector,
        mode=cast("Mode", _choice(entry, "mode", ("enforce", "warn", "shadow"))),
        staleness_seconds=_number(entry, "stalenessSeconds", 0, MAX_STALENESS),
        on_stale=cast("OnStale", _choice(entry, "onStale", ("keep", "refuse-new"))),
        parameters=_object(entry.get("parameters"), "parameters of a binding"),
    )


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BAD_BINDINGS(f"{what} must be an object")
    return value


def _known(value: Mapping[str, object], fields: set[str], what: str) -> None:
    unknown = sorted(set(value) - fields)
    if unknown:
        raise BINDINGS_TOO_NEW(f"{what} has fields this version does not know: {_listed(unknown)}")
    missing = sorted(fields - set(value))
    if missing:
        raise BAD_BINDINGS(f"{what} misses {', '.join(missing)}")


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names)[:200]


def _text(value: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not pattern.match(text):
        raise BAD_BINDINGS(f"{name} {str(text)[:80]!r} is malformed", field=name)
    return text


def _number(value: Mapping[str, object], name: str, low: int, high: int) -> int:
    number = value.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise BAD_BINDINGS(f"{name} must be a whole number from {low} to {high}", field=name)
    return number


def _choice(value: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str:
    text = value.get(name)
    if not isinstance(text, str) or text not in choices:
        raise BAD_BINDINGS(f"{name} must be one of {', '.join(choices)}", field=name)
    return text


def _thresholds(value: object) -> dict[str, int]:
    thresholds = _object(value, "thresholds")
    unknown = sorted(set(thresholds) - KINDS)
    if unknown:
        # A threshold that is never asked for would be one signature where two were meant.
        raise BINDINGS_TOO_NEW(f"thresholds name kinds this version does not know: {_listed(unknown)}")
    return {kind: _number(thresholds, kind, 1, 16) for kind in thresholds}


def _environments(value: object) -> tuple[str, ...]:
    attestation = _object(value, "hubAttestation")
    _known(attestation, {"environments"}, "hubAttestation")
    names = attestation["environments"]
    if not isinstance(names, list):
        raise BAD_BINDINGS("hubAttestation.environments must be a list")
    return tuple(_text({"environment": name}, "environment", _NAME) for name in names)
