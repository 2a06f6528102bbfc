"""The kinds of signed documents, and their strict parsing.

A body has ``schema``, ``kind``, ``realm``, ``project``, ``requires``, ``issuedAt``, ``notAfter`` and the fields of its
kind, all of them always present. Whatever this version does not know, be it a field, a schema or a required feature,
is refused with a code of class :class:`~cellward.errors.TooNew`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

from cellward.documents import canonical, names
from cellward.documents.canonical import JSON
from cellward.documents.dsse import MAX_PAYLOAD
from cellward.documents.errors import (
    MALFORMED,
    TOO_LARGE,
    UNKNOWN_SCHEMA,
    UNKNOWN_TYPE,
    UNMET_REQUIREMENT,
)
from cellward.documents.facts import ClusterFacts, Selector
from cellward.documents.fields import DIGEST, KEYID, Fields, format_time

#: By a keyring; a pending document waits for signatures of more owners and is delivered when it has them.
DocumentState = Literal["verified", "pending", "unverified"]
#: Features a document may require; a document that requires another one is too new.
SUPPORTED_FEATURES: frozenset[str] = frozenset({"rollout/deadline", "prune/confirm"})

#: Settings of a rollout this version carries out or carries along, with their bounds.
ROLLOUT_BOUNDS: Mapping[str, tuple[int, int]] = {
    "concurrency": (1, 100_000),
    "deadlineSeconds": (1, 86_400),
    "maxFailures": (0, 100_000),
    "soakSeconds": (0, 604_800),
}
#: Fallback to the release that the agent itself last recorded as settled for the cell and environment.
PREVIOUS = "previous"
_FALLBACK = re.compile(rf"(?:{PREVIOUS}|{DIGEST.pattern})\Z")
_COMMON = ("schema", "kind", "realm", "project", "requires", "issuedAt", "notAfter")
#: What stands for the project of a document that concerns all of them.
_EVERY_PROJECT = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Immutable snapshot of a cell, its connections resolved; ``spec`` has the form of ``cellward.cells.spec``.

    ``owner`` may be empty: that is for policy to refuse. ``replace`` allows changes that need objects to be recreated.
    """

    kind: ClassVar[str] = "release"

    realm: str
    project: str
    cell: str
    version: str
    owner: str
    spec: Mapping[str, JSON]
    issued_at: datetime
    not_after: datetime | None = None
    requires: tuple[str, ...] = ()
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Places a release: where by environments and facts, and in which order by sequence.

    ``fallback`` is where to return to while the rollout settles: :data:`PREVIOUS`, the digest of a release, or None for
    nowhere; ``confirm_prune`` is how many objects the author agrees to lose (V14).
    """

    kind: ClassVar[str] = "deployment"

    realm: str
    project: str
    cell: str
    environments: tuple[str, ...]
    release_digest: str
    sequence: int
    issued_at: datetime
    not_after: datetime
    cluster_selector: Selector
    rollout: Mapping[str, int] = field(default_factory=dict)
    fallback: str | None = None
    confirm_prune: int = 0
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Says yes to one Deployment in one environment.

    ``project`` is what the approver's scope is checked against: whoever uses an approval compares it, and the digest,
    with the Deployment.
    """

    kind: ClassVar[str] = "approval"

    realm: str
    project: str
    deployment_digest: str
    environment: str
    issued_at: datetime
    not_after: datetime
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """Ends a cell; persistent data and the namespace go only with ``delete_data``. Shares the Deployments' sequence."""

    kind: ClassVar[str] = "tombstone"

    realm: str
    project: str
    cell: str
    environments: tuple[str, ...]
    sequence: int
    delete_data: bool
    issued_at: datetime
    not_after: datetime
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEndorsement:
    """An author vouches for a cluster's facts and for its statement key."""

    kind: ClassVar[str] = "cluster"

    realm: str
    name: str
    uid: str
    facts: ClusterFacts
    statement_keyid: str
    issued_at: datetime
    not_after: datetime
    requires: tuple[str, ...] = ()


Document: TypeAlias = Release | Deployment | Approval | Tombstone | ClusterEndorsement


def payload_type_of(kind: str) -> str:
    """Return the DSSE payload type of a kind."""
    return f"application/vnd.cellward.{kind}.v1+json"


def schema_of(kind: str) -> str:
    """Return the schema id of a kind."""
    return f"cellward.{kind}/v1"


def environments_of(document: Document) -> tuple[str, ...]:
    """Return every environment the document reaches; a release reaches none by itself."""
    match document:
        case Deployment() | Tombstone():
            return document.environments
        case Approval():
            return (document.environment,)
        case ClusterEndorsement():
            return document.facts.environments
        case Release():
            return ()


def project_of(document: Document) -> str | None:
    """Return the project the document belongs to; None for a cluster, which concerns all of them."""
    return None if isinstance(document, ClusterEndorsement) else document.project


#: Kinds of document this version reads.
KINDS: frozenset[str] = frozenset(kind.kind for kind in (Release, Deployment, Approval, Tombstone, ClusterEndorsement))
#: Schemas this version reads; an agent tells the hub in its Hello.
SUPPORTED_SCHEMAS: frozenset[str] = frozenset(schema_of(kind) for kind in KINDS)


def parse_document(payload_type: str, payload: bytes) -> Document:
    """Read a payload as the kind its type names.

    Raises document/unknown-type, document/unknown-schema, document/unmet-requirement and document/unknown-field (all
    too new), document/malformed, document/too-large, and what :func:`canonical.decode` raises.
    """
    parser = _PARSERS.get(payload_type)
    if parser is None:
        raise UNKNOWN_TYPE(f"payload type {payload_type[:80]!r} is not one this version knows")
    kind, read = parser
    if len(payload) > MAX_PAYLOAD:
        raise TOO_LARGE(f"the payload has {len(payload)} bytes, at most {MAX_PAYLOAD} are allowed")
    body = canonical.decode(payload)
    if not isinstance(body, dict):
        raise MALFORMED("the payload is not an object")
    schema = body.get("schema")
    if schema != schema_of(kind):
        raise UNKNOWN_SCHEMA(f"schema {str(schema)[:80]!r} is not {schema_of(kind)!r}")
    if body.get("kind") != kind:
        raise MALFORMED(f"the body says kind {str(body.get('kind'))[:80]!r}, its type {kind!r}", field="kind")
    requires = Fields(body, body, f"the {kind}").texts("requires")
    unmet = sorted(set(requires) - SUPPORTED_FEATURES)
    if unmet:
        raise UNMET_REQUIREMENT(f"the {kind} requires {', '.join(unmet)[:200]}", feature=unmet[0][:80])
    return read(body, requires)


def build_document(document: Document) -> tuple[str, bytes]:
    """Return payload type and canonical payload bytes.

    The bytes are read back, so that nothing is signed that would be refused; raises what :func:`parse_document` raises.
    """
    body: dict[str, JSON] = {
        "schema": schema_of(document.kind),
        "kind": document.kind,
        "realm": document.realm,
        "project": project_of(document) or _EVERY_PROJECT,
        "requires": list(document.requires),
        "issuedAt": format_time(document.issued_at),
        "notAfter": None if document.not_after is None else format_time(document.not_after),
    }
    payload = canonical.encode(body | _own_fields(document))
    payload_type = payload_type_of(document.kind)
    parse_document(payload_type, payload)
    return payload_type, payload


def _own_fields(document: Document) -> dict[str, object]:
    match document:
        case Release():
            return {
                "cell": document.cell, "version": document.version,
                "owner": document.owner, "spec": document.spec, "replace": document.replace,
            }  # fmt: skip
        case Deployment():
            return {
                "cell": document.cell, "environments": document.environments,
                "releaseDigest": document.release_digest, "sequence": document.sequence,
                "clusterSelector": document.cluster_selector.to_json(), "rollout": document.rollout,
                "fallback": document.fallback, "confirmPrune": document.confirm_prune,
            }  # fmt: skip
        case Approval():
            return {
                "deploymentDigest": document.deployment_digest,
                "environment": document.environment,
            }  # fmt: skip
        case Tombstone():
            return {
                "cell": document.cell, "environments": document.environments,
                "sequence": document.sequence, "deleteData": document.delete_data,
            }  # fmt: skip
        case ClusterEndorsement():
            return {
                "name": document.name, "uid": document.uid, "facts": document.facts.to_json(),
                "statementKeyid": document.statement_keyid,
            }  # fmt: skip


def _fields(body: JSON, kind: str, own: tuple[str, ...]) -> Fields:
    return Fields(body, (*_COMMON, *own), f"the {kind}")


def _read_release(body: JSON, requires: tuple[str, ...]) -> Release:
    fields = _fields(body, "release", ("cell", "version", "owner", "spec", "replace"))
    spec = fields.raw("spec")
    if not isinstance(spec, dict):
        raise MALFORMED("field spec of the release is not an object", field="spec")
    version = fields.text("version")
    if not names.is_version(version):
        fields.fail("version", f"is {version[:80]!r}: letters, digits, '.', '_' and '-', at most 63")
    return Release(
        realm=fields.text("realm", DIGEST),
        project=fields.name("project", names.PROJECT_MAX),
        cell=fields.name("cell", names.CELL_MAX),
        version=version,
        owner=fields.text("owner"),
        spec=spec,
        issued_at=fields.time("issuedAt"),
        not_after=fields.optional_time("notAfter"),
        requires=requires,
        replace=fields.boolean("replace"),
    )


def _read_deployment(body: JSON, requires: tuple[str, ...]) -> Deployment:
    own = (
        "cell", "environments", "releaseDigest", "sequence", "clusterSelector", "rollout", "fallback",
        "confirmPrune",
    )  # fmt: skip
    fields = _fields(body, "deployment", own)
    rollout = Fields(fields.raw("rollout"), ROLLOUT_BOUNDS, "the rollout")
    return Deployment(
        realm=fields.text("realm", DIGEST),
        project=fields.name("project", names.PROJECT_MAX),
        cell=fields.name("cell", names.CELL_MAX),
        environments=fields.names("environments", names.ENVIRONMENT_MAX),
        release_digest=fields.text("releaseDigest", DIGEST),
        sequence=fields.integer("sequence", 1),
        issued_at=fields.time("issuedAt"),
        not_after=fields.time("notAfter"),
        cluster_selector=Selector.from_json(fields.raw("clusterSelector")),
        rollout={name: rollout.integer(name, *ROLLOUT_BOUNDS[name]) for name in ROLLOUT_BOUNDS if rollout.has(name)},
        fallback=None if fields.raw("fallback") is None else fields.text("fallback", _FALLBACK),
        confirm_prune=fields.integer("confirmPrune", 0),
        requires=requires,
    )


def _read_approval(body: JSON, requires: tuple[str, ...]) -> Approval:
    fields = _fields(body, "approval", ("deploymentDigest", "environment"))
    return Approval(
        realm=fields.text("realm", DIGEST),
        project=fields.name("project", names.PROJECT_MAX),
        deployment_digest=fields.text("deploymentDigest", DIGEST),
        environment=fields.name("environment", names.ENVIRONMENT_MAX),
        issued_at=fields.time("issuedAt"),
        not_after=fields.time("notAfter"),
        requires=requires,
    )


def _read_tombstone(body: JSON, requires: tuple[str, ...]) -> Tombstone:
    fields = _fields(body, "tombstone", ("cell", "environments", "sequence", "deleteData"))
    return Tombstone(
        realm=fields.text("realm", DIGEST),
        project=fields.name("project", names.PROJECT_MAX),
        cell=fields.name("cell", names.CELL_MAX),
        environments=fields.names("environments", names.ENVIRONMENT_MAX),
        sequence=fields.integer("sequence", 1),
        delete_data=fields.boolean("deleteData"),
        issued_at=fields.time("issuedAt"),
        not_after=fields.time("notAfter"),
        requires=requires,
    )


def _read_cluster(body: JSON, requires: tuple[str, ...]) -> ClusterEndorsement:
    fields = _fields(body, "cluster", ("name", "uid", "facts", "statementKeyid"))
    facts = ClusterFacts.from_json(fields.raw("facts"))
    name, uid = fields.text("name"), fields.text("uid")
    if fields.text("project") != _EVERY_PROJECT:
        fields.fail("project", f"is not {_EVERY_PROJECT!r}: a cluster concerns every project")
    if (facts.name, facts.uid) != (name, uid):
        fields.fail("facts", "is about another cluster than the document")
    return ClusterEndorsement(
        realm=fields.text("realm", DIGEST),
        name=name,
        uid=uid,
        facts=facts,
        statement_keyid=fields.text("statementKeyid", KEYID),
        issued_at=fields.time("issuedAt"),
        not_after=fields.time("notAfter"),
        requires=requires,
    )


_PARSERS: Mapping[str, tuple[str, Callable[[JSON, tuple[str, ...]], Document]]] = {
    payload_type_of("release"): ("release", _read_release),
    payload_type_of("deployment"): ("deployment", _read_deployment),
    payload_type_of("approval"): ("approval", _read_approval),
    payload_type_of("tombstone"): ("tombstone", _read_tombstone),
    payload_type_of("cluster"): ("cluster", _read_cluster),
}
