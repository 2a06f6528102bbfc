"""Reading just enough of an uploaded document to find it again: kind, names, sequence, what it refers to.

Signatures are for ``hub.documents.judge``. Refused is what nobody could take: no DSSE envelope, no canonical payload,
names or numbers that no agent takes from the wire. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from cellward.documents import canonical, dsse, names
from cellward.documents.facts import Selector
from cellward.documents.fields import parse_time
from cellward.documents.model import PREVIOUS
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.documents.errors import BAD_DOCUMENT
from hub.placement.model import IndexEntry

#: Largest envelope carried, bytes.
MAX_ENVELOPE = 2 * 1024**2
#: Most environments of one document.
MAX_ENVIRONMENTS = 32

_TYPE = re.compile(r"application/vnd\.cellward\.([a-z]+(?:-[a-z]+)*)\.v([0-9]+)\+json\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: Kinds carried.
KINDS = frozenset({"release", "deployment", "approval", "tombstone", "cluster"})


def index_payload(envelope: dsse.Envelope) -> IndexEntry:
    """Return the index entry of an envelope; raises fleet/bad-document, and what ``canonical.decode`` does."""
    match = _TYPE.match(envelope.payload_type)
    if match is None or match.group(1) not in KINDS:
        raise BAD_DOCUMENT(f"payload type {envelope.payload_type[:80]!r} is not carried here")
    body = canonical.decode(envelope.payload)
    if not isinstance(body, dict):
        raise BAD_DOCUMENT("the payload is not an object", document=envelope.digest)
    if body.get("schema") != f"cellward.{match.group(1)}/v{match.group(2)}":
        # Identity is the payload's alone: kept under a wrong type, it would be in the way of the right one.
        raise BAD_DOCUMENT("payload type and schema do not name the same kind", document=envelope.digest)
    return _entry(match.group(1), envelope.digest, body)


def _entry(kind: str, digest: str, body: Mapping[str, object]) -> IndexEntry:
    realm, not_after = _digest(body, "realm", digest), _not_after(body, digest)
    if kind == "cluster":
        return IndexEntry(digest, kind, realm, not_after=not_after)
    if kind == "approval":
        return IndexEntry(
            digest,
            kind,
            realm,
            _name(body, "project", names.PROJECT_MAX, digest),
            environments=(_name(body, "environment", names.ENVIRONMENT_MAX, digest),),
            subject=_digest(body, "deploymentDigest", digest),
            not_after=not_after,
        )
    project = _name(body, "project", names.PROJECT_MAX, digest)
    cell = _name(body, "cell", names.CELL_MAX, digest)
    if kind == "release":
        version = body.get("version")
        return IndexEntry(digest, kind, realm, project, cell, version=version if isinstance(version, str) else "")
    environments, sequence = _environments(body, digest), _sequence(body, digest)
    if kind == "tombstone":
        return IndexEntry(digest, kind, realm, project, cell, environments, sequence, not_after=not_after)
    fallback = ""
    if body.get("fallback") is not None and body["fallback"] != PREVIOUS:  # agents know the previous one themselves
        fallback = _digest(body, "fallback", digest)
    return IndexEntry(
        digest,
        kind,
        realm,
        project,
        cell,
        environments,
        sequence,
        subject=_digest(body, "releaseDigest", digest),
        fallback=fallback,
        selector=_selector(body, digest),
        not_after=not_after,
    )


def is_key(key: CellKey) -> bool:
    """Whether the three names are such as an agent takes: others would cost it the link, again and again."""
    limits = (names.PROJECT_MAX, names.CELL_MAX, names.ENVIRONMENT_MAX)
    return all(names.is_name(name, limit) for name, limit in zip(key, limits, strict=True))


def _name(body: Mapping[str, object], field: str, limit: int, document: str) -> str:
    value = body.get(field)
    if not names.is_name(value, limit):
        raise BAD_DOCUMENT(
            f"field {field} is not an RFC 1123 label of at most {limit} characters without '--'",
            document=document,
            field=field,
        )
    return str(value)


def _digest(body: Mapping[str, object], field: str, document: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not _DIGEST.match(value):
        raise BAD_DOCUMENT(f"field {field} is not a sha256 digest", document=document, field=field)
    return value


def _environments(body: Mapping[str, object], document: str) -> tuple[str, ...]:
    value = body.get("environments")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ENVIRONMENTS:
        raise BAD_DOCUMENT("field environments is not a list of names", document=document, field="environments")
    found = tuple(_name({"environments": name}, "environments", names.ENVIRONMENT_MAX, document) for name in value)
    if len(set(found)) != len(found):
        raise BAD_DOCUMENT("an environment is named twice", document=document, field="environments")
    return found


def _sequence(body: Mapping[str, object], document: str) -> int:
    value = body.get("sequence")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= canonical.MAX_INT:
        raise BAD_DOCUMENT(
            "field sequence is not a whole number from 1 to 2^53 - 1", document=document, field="sequence"
        )
    return value


def _not_after(body: Mapping[str, object], document: str) -> datetime | None:
    value = body.get("notAfter")
    if value is None:
        return None
    try:
        return parse_time(value if isinstance(value, str) else "")
    except CellwardError as error:
        raise BAD_DOCUMENT(f"field notAfter: {error.message}", document=document, field="notAfter") from error


def _selector(body: Mapping[str, object], document: str) -> Selector:
    try:
        return Selector.from_json(body.get("clusterSelector"))  # type: ignore[arg-type]
    except CellwardError as error:
        raise BAD_DOCUMENT(f"field clusterSelector: {error.message}", document=document) from error
