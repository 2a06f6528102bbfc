"""Reading just enough of an uploaded document to carry it: kind, names, sequence, what it refers to.

The hub is a courier: it does not verify signatures here, and a field it does not know does not stop it from carrying a
document that a newer agent may understand. It refuses what nobody could take: no DSSE envelope, no canonical payload,
no signature, malformed names. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cellward.documents import canonical, dsse
from cellward.documents.facts import Selector
from cellward.errors import CellwardError
from hub.fleet.errors import BAD_DOCUMENT, DOCUMENT_TOO_LARGE
from hub.fleet.model import IndexEntry

#: Largest envelope carried, bytes.
MAX_ENVELOPE = 2 * 1024**2
#: Most environments of one document.
MAX_ENVIRONMENTS = 32
_MAX_SEQUENCE = 2**53

_TYPE = re.compile(r"application/vnd\.cellward\.([a-z]+(?:-[a-z]+)*)\.v([0-9]+)\+json\Z")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: Names of clusters.
CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
#: Kinds carried.
KINDS = frozenset({"release", "deployment", "approval", "tombstone", "cluster"})


def index_envelope(data: bytes) -> IndexEntry:
    """Return the index entry of an envelope.

    Raises:
        CellwardError: ``fleet/document-too-large``, ``fleet/bad-document``, or the code ``cellward.documents`` gives to
            what is not an envelope or not canonical.
    """
    if len(data) > MAX_ENVELOPE:
        raise DOCUMENT_TOO_LARGE(f"the envelope has {len(data)} bytes; at most {MAX_ENVELOPE} are carried")
    envelope = dsse.parse_envelope(data)
    match = _TYPE.match(envelope.payload_type)
    if match is None or match.group(1) not in KINDS:
        raise BAD_DOCUMENT(f"payload type {envelope.payload_type[:80]!r} is not carried here")
    if not envelope.signatures:
        raise BAD_DOCUMENT("the document carries no signature", document=envelope.digest)
    body = canonical.decode(envelope.payload)
    if not isinstance(body, dict):
        raise BAD_DOCUMENT("the payload is not an object", document=envelope.digest)
    return _entry(match.group(1), envelope.digest, body)


def _entry(kind: str, digest: str, body: Mapping[str, object]) -> IndexEntry:
    realm = _digest(body, "realm", digest)
    if kind == "cluster":
        return IndexEntry(digest, kind, realm)
    if kind == "approval":
        return IndexEntry(
            digest,
            kind,
            realm,
            environments=(_label(body, "environment", digest),),
            subject=_digest(body, "deploymentDigest", digest),
        )
    project, cell = _label(body, "project", digest), _label(body, "cell", digest)
    if kind == "release":
        version = body.get("version")
        return IndexEntry(digest, kind, realm, project, cell, version=version if isinstance(version, str) else "")
    environments, sequence = _environments(body, digest), _sequence(body, digest)
    if kind == "tombstone":
        return IndexEntry(digest, kind, realm, project, cell, environments, sequence)
    fallback = _digest(body, "fallback", digest) if body.get("fallback") else ""
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
    )


def _label(body: Mapping[str, object], field: str, document: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not _LABEL.match(value):
        raise BAD_DOCUMENT(f"field {field} is not an RFC 1123 label", document=document, field=field)
    return value


def _digest(body: Mapping[str, object], field: str, document: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not _DIGEST.match(value):
        raise BAD_DOCUMENT(f"field {field} is not a sha256 digest", document=document, field=field)
    return value


def _environments(body: Mapping[str, object], document: str) -> tuple[str, ...]:
    value = body.get("environments")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ENVIRONMENTS:
        raise BAD_DOCUMENT("field environments is not a list of names", document=document, field="environments")
    names = tuple(_label({"environments": name}, "environments", document) for name in value)
    if len(set(names)) != len(names):
        raise BAD_DOCUMENT("an environment is named twice", document=document, field="environments")
    return names


def _sequence(body: Mapping[str, object], document: str) -> int:
    value = body.get("sequence")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_SEQUENCE:
        raise BAD_DOCUMENT("field sequence is not a positive integer", document=document, field="sequence")
    return value


def _selector(body: Mapping[str, object], document: str) -> Selector:
    try:
        return Selector.from_json(body.get("clusterSelector"))  # type: ignore[arg-type]
    except CellwardError as error:
        raise BAD_DOCUMENT(f"field clusterSelector: {error.message}", document=document) from error
