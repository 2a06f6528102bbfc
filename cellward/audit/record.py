"""The audit record: one canonical JSON object per thing that was done, decided or found (design §8).

Invariants: a record's identity is its exact bytes; details carry allow-listed keys only, and what is not on the list is
dropped and counted *before* hashing, so that nothing secret can hide behind a digest; an unknown field or schema is
refused, never half understood; text is cut to its bound rather than refused, because an action must not fail for a long
reason. State shapes: times are aware UTC with millisecond precision, digests ``sha256:<64 hex>``, ``seq`` starts at 1
in every epoch and the first ``prev`` of an epoch is ``NO_RECORD``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from cellward.audit.errors import BAD_RECORD, RECORD_TOO_NEW

SCHEMA: Final = "cellward.audit/v1"
#: ``prev`` of the first record of an epoch.
NO_RECORD: Final = "sha256:" + "0" * 64
#: Origin of the hub's own chain.
HUB_ORIGIN: Final = "hub"
#: Prefix of the origin of an agent's chain; the cluster uid follows.
AGENT_PREFIX: Final = "agent:"
#: Largest record, bytes; above what the bounds below allow, so that nothing a writer makes can be refused for its size.
MAX_RECORD: Final = 64 * 1024
#: Largest integer of canonical JSON.
MAX_INT: Final = 2**53 - 1

#: What may stand in ``decision``; empty where nothing was decided.
DECISIONS: Final = frozenset({"allow", "deny", "done", "failed", "finding", ""})

#: The closed list of what is recorded, ``subject.verb``. A reader takes an unknown name of this form, because the other
#: end may be one minor version newer; a test refuses a writer of ours that uses a name missing here.
ACTIONS: Final = frozenset(
    {
        # Writers about themselves.
        "agent.start",
        "agent.stop",
        "audit.checkpoint",
        "audit.epoch",
        "audit.fork",
        "audit.gap",
        "audit.lost",
        "audit.prune",
        "audit.rollback",
        "hub.restore",
        "hub.start",
        "hub.stop",
        "state.finding",
        # Identity.
        "certificate.recover",
        "certificate.renew",
        "cluster.command",
        "cluster.create",
        "cluster.join",
        "cluster.rekey",
        "cluster.remove",
        "identity.copy",
        "link.connect",
        "link.refuse",
        "lock.lift",
        "lock.set",
        "token.mint",
        "token.spend",
        # People and machines at the admin API.
        "api.login",
        "api.mutate",
        "api.refuse",
        "api-token.create",
        "api-token.revoke",
        "document.drop",
        "document.try",
        "document.upload",
        "realm.adopt",
        "store.backup",
        "store.check",
        # Policy.
        "policy.accept",
        "policy.activate",
        "policy.publish",
        "policy.refresh",
        "policy.refuse",
        "policy.stale",
        "timestamp.sign",
        # Cells.
        "cell.apply",
        "cell.approve",
        "cell.decide",
        "cell.fallback",
        "cell.health",
        "cell.hold",
        "cell.isolate",
        "cell.narrow",
        "cell.prune",
        "cell.quarantine",
        "cell.release",
        "cell.remove",
        "cell.render",
        "cell.verify",
        "desired.change",
        "document.accept",
        "document.refuse",
        "drift.repair",
        "drift.see",
        "fence.finding",
        "isolation.probe",
        "namespace.create",
        "object.apply",
        "object.delete",
        "object.refuse",
        "command.run",
        "facts.change",
        "time.finding",
    }
)

#: Keys that may stand in ``details``; every other key is dropped before hashing. Values are names, digests, counts and
#: states: never configuration, environment, manifests, tokens or free text of users.
ALLOWED_DETAILS: Final = frozenset(
    {
        "address",
        "after",
        "applied",
        "approvalDigest",
        "attempt",
        "authority",
        "before",
        "binding",
        "bundle",
        "bundleDigest",
        "causes",
        "cell",
        "changed",
        "cluster",
        "clusters",
        "command",
        "component",
        "count",
        "decisionId",
        "deleted",
        "deploymentDigest",
        "digest",
        "drift",
        "durationMs",
        "edge",
        "edges",
        "environment",
        "environments",
        "epoch",
        "evidence",
        "expected",
        "expires",
        "expiresAt",
        "factsDigest",
        "field",
        "fields",
        "first",
        "floor",
        "found",
        "generation",
        "head",
        "hubEpoch",
        "hubState",
        "isolation",
        "keyid",
        "kind",
        "last",
        "limit",
        "manager",
        "mode",
        "name",
        "namespace",
        "notAfter",
        "objects",
        "oldEpoch",
        "oldHead",
        "oldSeq",
        "operation",
        "outcome",
        "owner",
        "phase",
        "project",
        "projects",
        "protocol",
        "pruned",
        "ready",
        "release",
        "releaseDigest",
        "repaired",
        "replaced",
        "revision",
        "role",
        "root",
        "rules",
        "seen",
        "seq",
        "sequence",
        "serial",
        "shadow",
        "signers",
        "size",
        "snapshot",
        "snapshotExpires",
        "spkiSha256",
        "state",
        "status",
        "streamId",
        "subject",
        "suppressed",
        "targets",
        "timestamp",
        "total",
        "uid",
        "version",
        "violations",
        "warnings",
        "wrong",
    }
)

#: Bounds of text fields in characters; longer text is cut and ends in an ellipsis.
BOUNDS: Final[Mapping[str, int]] = {
    "realm": 71,
    "origin": 128,
    "cluster": 64,
    "prev": 71,
    "actor": 256,
    "action": 64,
    "object": 512,
    "decision": 16,
    "code": 128,
    "reason": 1024,
    "rule": 256,
    "correlationId": 128,
    "logRoot": 71,
}
#: Most characters of the value of a detail, and most details.
MAX_DETAIL: Final = 256
MAX_DETAILS: Final = 32
#: Most characters of a project's or cell's name that a record can be found by.
MAX_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One audit record.

    Attributes:
        realm: realm of the installation; empty only in the hub's chain before a realm was adopted.
        origin: whose chain it is in, ``agent:<uid>`` or ``hub``.
        cluster: name of the cluster it is about, empty for none.
        epoch: number of the chain's life, from 1; a new one begins when the writer lost its state.
        seq: place in the epoch, from 1, without gaps.
        prev: digest of the bytes of the record before it, ``NO_RECORD`` for the first of an epoch.
        time: the writer's clock, aware, UTC; cut to milliseconds.
        actor: SPIFFE ID, key owner, API subject or address of who acted.
        action: one of ``ACTIONS``.
        object: what it was done to, ``Kind/namespace/name`` for objects.
        decision: one of ``DECISIONS``.
        code: stable error code, where there is one.
        reason: one sentence for a person.
        rule: id of the policy rule that decided.
        correlation_id: ties records of one cause together, from CLI to cluster and back.
        revision: revision of the desired state it belongs to, 0 for none.
        details: further facts; keys of ``ALLOWED_DETAILS``.
        log_size: size of the last checkpoint of the hub's log that the writer accepted, 0 for none.
        log_root: root of that checkpoint as a digest, empty for none.
    """

    realm: str
    origin: str
    cluster: str
    epoch: int
    seq: int
    prev: str
    time: datetime
    actor: str
    action: str
    object: str
    decision: str
    code: str = ""
    reason: str = ""
    rule: str = ""
    correlation_id: str = ""
    revision: int = 0
    details: Mapping[str, str] = field(default_factory=dict)
    log_size: int = 0
    log_root: str = ""


_DIGEST = r"sha256:[0-9a-f]{64}\Z"
_SHAPES: Final[Mapping[str, re.Pattern[str]]] = {
    "realm": re.compile(r"(?:\Z|" + _DIGEST + ")"),
    "origin": re.compile(r"hub\Z|agent:[0-9A-Za-z][0-9A-Za-z._-]{0,63}\Z"),
    "prev": re.compile(_DIGEST),
    "action": re.compile(r"[a-z][a-z0-9]*(?:[.-][a-z0-9]+)*\Z"),
    "logRoot": re.compile(r"(?:\Z|" + _DIGEST + ")"),
}
_TEXTS: Final = tuple((name, bound, _SHAPES.get(name)) for name, bound in BOUNDS.items())
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})\.(\d{3})Z\Z", re.ASCII)
_CONTROLS: Final = dict.fromkeys([*range(32), *range(127, 160)], " ")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGERS: Final = ("epoch", "seq", "revision", "logSize")
_FIELDS: Final = frozenset({"schema", "time", "details", *BOUNDS, *_INTEGERS})
# RFC 8785 for what a record can hold: ASCII keys (their UTF-16 and code point order agree), strings and integers up to
# 2^53 - 1. The C encoder of the standard library writes exactly that, five times as fast; a property test compares the
# two, because ingest and export stand on this line.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def redact(details: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Return what of ``details`` may be recorded, cut to its bounds, and how many keys were dropped."""
    kept: dict[str, str] = {}
    for key in sorted(details):
        if key in ALLOWED_DETAILS and len(kept) < MAX_DETAILS:
            kept[key] = _cut(str(details[key]), MAX_DETAIL)
    return kept, len(details) - len(kept)


def encode_record(record: Record) -> bytes:
    """Return the canonical bytes of a record; details are redacted and text is cut here.

    How many details were dropped is part of the record (``dropped``), so that redaction is never silent.

    Raises audit/bad-record for values no writer may have: a naive time, a malformed digest, origin or action, an
    unknown decision, an integer out of range.
    """
    details, dropped = redact(record.details)
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "realm": record.realm,
        "origin": record.origin,
        "cluster": _cut(record.cluster, BOUNDS["cluster"]),
        "epoch": record.epoch,
        "seq": record.seq,
        "prev": record.prev,
        "time": _format_time(record.time),
        "actor": _cut(record.actor, BOUNDS["actor"]),
        "action": record.action,
        "object": _cut(record.object, BOUNDS["object"]),
        "decision": record.decision,
        "code": _cut(record.code, BOUNDS["code"]),
        "reason": _cut(record.reason, BOUNDS["reason"]),
        "rule": _cut(record.rule, BOUNDS["rule"]),
        "correlationId": _cut(record.correlation_id, BOUNDS["correlationId"]),
        "revision": record.revision,
        "details": details,
        "logSize": record.log_size,
        "logRoot": record.log_root,
    }
    if dropped:
        body["dropped"] = dropped
    _check(body)
    return _encode(body).encode("utf-8")


def parse_record(data: bytes) -> Record:
    """Return the record of exact bytes.

    Raises audit/bad-record (not JSON, not canonical, a field missing, malformed or out of bounds) and
    audit/record-too-new (another schema, an unknown field).
    """
    if len(data) > MAX_RECORD:
        raise BAD_RECORD(f"the record has {len(data)} bytes, at most {MAX_RECORD} are taken")
    try:
        body = json.loads(data)
        canonical = isinstance(body, dict) and _encode(body).encode("utf-8") == data
    except (ValueError, RecursionError) as error:
        raise BAD_RECORD("the record is not JSON in UTF-8") from error
    if not canonical:
        # Also how duplicate keys, floats, white space and escapes other than the canonical ones are refused.
        raise BAD_RECORD("the record is not a canonical JSON object")
    _check(body)
    if b"\\" in data or b"\x7f" in data or not data.isascii():
        _check_controls(body)
    details: dict[str, str] = body["details"]
    return Record(
        realm=body["realm"],
        origin=body["origin"],
        cluster=body["cluster"],
        epoch=body["epoch"],
        seq=body["seq"],
        prev=body["prev"],
        time=_parse_time(body["time"]),
        actor=body["actor"],
        action=body["action"],
        object=body["object"],
        decision=body["decision"],
        code=body["code"],
        reason=body["reason"],
        rule=body["rule"],
        correlation_id=body["correlationId"],
        revision=body["revision"],
        details=details,
        log_size=body["logSize"],
        log_root=body["logRoot"],
    )


def record_digest(data: bytes) -> str:
    """Return the digest of a record's exact bytes, as the next record's ``prev`` carries it."""
    return "sha256:" + sha256(data).hexdigest()


def cell_of(record: Record) -> tuple[str, str]:
    """Return project and cell a record is about, from its details or its object's namespace; empty for none.

    For searching only: nothing is decided by it. Cut to what a store keeps of a name.
    """
    return cell_named(record.object, record.details)


def cell_named(object: str, details: Mapping[str, str]) -> tuple[str, str]:  # noqa: A002 - the field's name
    """``cell_of`` for a record of which only these fields were read."""
    project, cell = details.get("project", "")[:MAX_NAME], details.get("cell", "")[:MAX_NAME]
    if cell:
        return project, cell
    for part in object.split("/"):
        names = part.split("--")
        if len(names) == 3 and all(names):
            return names[0][:MAX_NAME], names[1][:MAX_NAME]
    return project, cell


def _cut(text: str, bound: int) -> str:
    # A lone surrogate has no UTF-8 form and would make the record unwritable; control characters have no business in a
    # log that people read on terminals, and would take six bytes each.
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return text if len(text) <= bound else text[: bound - 1] + "…"


def _format_time(time: datetime) -> str:
    if time.tzinfo is None:
        raise BAD_RECORD("the time of a record must know its zone")
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z".zfill(24)


def _parse_time(text: str) -> datetime:
    match = _TIME.match(text)
    try:
        if match is not None:
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise BAD_RECORD(f"{text[:40]!r} is not a time of the form YYYY-MM-DDTHH:MM:SS.mmmZ")


def _check(body: Mapping[str, Any]) -> None:
    """Check everything a record promises beyond being canonical."""
    schema = body.get("schema")
    if schema != SCHEMA:
        kind = RECORD_TOO_NEW if isinstance(schema, str) and schema.startswith("cellward.audit/") else BAD_RECORD
        raise kind(f"schema {str(schema)[:80]!r} is not {SCHEMA}")
    keys = body.keys() - {"dropped"}
    if keys != _FIELDS:
        unknown = sorted(keys - _FIELDS)
        if unknown:
            raise RECORD_TOO_NEW(f"field {unknown[0][:80]!r} is not part of {SCHEMA}", field=unknown[0][:80])
        raise BAD_RECORD(f"field {min(_FIELDS - keys)!r} is missing", field=min(_FIELDS - keys))
    for name, bound, shape in _TEXTS:
        value = body[name]
        if type(value) is not str or len(value) > bound:
            raise BAD_RECORD(f"field {name!r} is not text of at most {bound} characters", field=name)
        if shape is not None and not shape.match(value):
            raise BAD_RECORD(f"field {name!r} has the malformed value {value!r}", field=name)
    if body["decision"] not in DECISIONS:
        raise BAD_RECORD(f"{body['decision']!r} is not a decision", field="decision")
    _check_numbers(body)
    _check_details(body["details"])
    if not body["realm"] and body["origin"] != HUB_ORIGIN:
        raise BAD_RECORD("only the hub's own records may have no realm", field="realm")


def _check_controls(body: Mapping[str, Any]) -> None:
    """Refuse control characters: our writers cut them, and no reader's terminal or database should have to bear them.

    Asked for only when the bytes of the record could hold one: below U+0020 they are always escaped in JSON.
    """
    for name, text in (*((name, body[name]) for name in BOUNDS), *body["details"].items()):
        if _CONTROL.search(text) or _CONTROL.search(name):
            raise BAD_RECORD(f"field {name[:64]!r} holds a control character", field=name[:64])


def _check_numbers(body: Mapping[str, Any]) -> None:
    for name in (*_INTEGERS, *(("dropped",) if "dropped" in body else ())):
        value = body[name]
        # bool is an int in Python, and JSON's true is not a number.
        if type(value) is not int or not 0 <= value <= MAX_INT:
            raise BAD_RECORD(f"field {name!r} is not an integer between 0 and 2^53 - 1", field=name)
    if body["epoch"] < 1 or body["seq"] < 1:
        raise BAD_RECORD("epoch and sequence number start at 1", field="seq")
    if body.get("dropped") == 0:
        raise BAD_RECORD("a count of dropped details is left out when it is 0", field="dropped")
    if (body["seq"] == 1) != (body["prev"] == NO_RECORD):
        raise BAD_RECORD("exactly the first record of an epoch has no record before it", field="prev")
    if (body["logSize"] == 0) != (body["logRoot"] == ""):
        raise BAD_RECORD("a log root goes with a log size", field="logRoot")


def _check_details(details: object) -> None:
    if not isinstance(details, dict) or len(details) > MAX_DETAILS:
        raise BAD_RECORD(f"details are not an object of at most {MAX_DETAILS} fields", field="details")
    for key, value in details.items():
        if not key.isascii() or len(key) > 64 or not isinstance(value, str) or len(value) > MAX_DETAIL:
            raise BAD_RECORD(f"detail {key[:64]!r} is not text of at most {MAX_DETAIL} characters", field="details")
