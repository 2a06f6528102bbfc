"""The bindings target: parsing and building ``bindings/bindings.json`` (schema ``cellward.bindings/v1``), strictly.

All bindings are one target, so that a set is either wholly there or not at all. An unknown field or schema is refused
as too new: half a binding must never be enforced.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import cast

from cellward.documents import canonical
from cellward.documents.canonical import JSON
from cellward.documents.facts import Selector
from cellward.documents.fields import DIGEST, Fields
from cellward.documents.model import KINDS
from cellward.errors import CellwardError, TooNew
from cellward.policy.errors import BAD_BINDINGS, BINDINGS_TOO_NEW
from cellward.policy.model import BINDINGS_SCHEMA, Binding, BindingSet, Mode, OnStale

MAX_BINDINGS = 64
MAX_STALENESS = 366 * 86_400
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
    if isinstance(document, dict) and document.get("schema") != BINDINGS_SCHEMA:
        raise BINDINGS_TOO_NEW(f"schema {str(document.get('schema'))[:80]!r} is not {BINDINGS_SCHEMA}")
    top = _fields(document, _TOP, "the bindings")
    entries = top.raw("bindings")
    if not isinstance(entries, list) or len(entries) > MAX_BINDINGS:
        raise BAD_BINDINGS(f"bindings must be a list of at most {MAX_BINDINGS}")
    bindings = tuple(_binding(_fields(entry, _FIELDS, "a binding")) for entry in entries)
    names = [binding.name for binding in bindings]
    if len(set(names)) != len(names):
        raise BAD_BINDINGS("two bindings have one name")
    return BindingSet(
        realm=top.text("realm", DIGEST),
        bindings=bindings,
        prune_limit=top.integer("pruneLimit", 0, 10_000),
        thresholds=_thresholds(top.mapping("thresholds")),
        hub_attestation=_environments(top.mapping("hubAttestation")),
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


def _fields(value: JSON, known: Collection[str], what: str) -> Fields:
    return Fields(value, known, what, error=BAD_BINDINGS, unknown=BINDINGS_TOO_NEW)


def _binding(entry: Fields) -> Binding:
    try:
        selector = Selector.from_json(entry.raw("selector"))
    except CellwardError as error:
        if isinstance(error, TooNew):
            raise BINDINGS_TOO_NEW(f"a selector is newer than this version: {error.message}") from error
        raise BAD_BINDINGS(f"the selector of a binding is malformed: {error.message}") from error
    return Binding(
        name=entry.text("name", _NAME),
        bundle=entry.text("bundle", _TARGET),
        bundle_digest=entry.text("bundleDigest", DIGEST),
        selector=selector,
        mode=cast("Mode", entry.choice("mode", ("enforce", "warn", "shadow"))),
        staleness_seconds=entry.integer("stalenessSeconds", 0, MAX_STALENESS),
        on_stale=cast("OnStale", entry.choice("onStale", ("keep", "refuse-new"))),
        parameters=entry.mapping("parameters"),
    )


def _thresholds(value: dict[str, JSON]) -> dict[str, int]:
    # A threshold that is never asked for would be one signature where two were meant, so an unknown kind is too new.
    fields = _fields(value, KINDS, "thresholds")
    return {kind: fields.integer(kind, 1, 16) for kind in value}


def _environments(value: dict[str, JSON]) -> tuple[str, ...]:
    names = _fields(value, ("environments",), "hubAttestation").raw("environments")
    if not isinstance(names, list):
        raise BAD_BINDINGS("hubAttestation.environments must be a list")
    known = ("environment",)
    return tuple(_fields({known[0]: name}, known, "hubAttestation").text(known[0], _NAME) for name in names)
