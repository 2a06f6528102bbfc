"""Records of documents, made from whole payloads."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cellward.errors import CellwardError
from cli.state.model import Record

if TYPE_CHECKING:
    from cellward.documents.model import Deployment, Release, Tombstone

    Kept = Release | Deployment | Tombstone


def record_of(document: Kept, digest: str, *, keyid: str = "", others: tuple[str, ...] = ()) -> Record:
    """Return the record of a document, not yet delivered; ``others`` are the signers of what was not signed here."""
    from cellward.documents.model import Deployment, Release

    return Record(
        digest=digest,
        kind=document.kind,  # type: ignore[arg-type]  # a class variable of three classes
        project=document.project,
        cell=document.cell,
        environments=() if isinstance(document, Release) else document.environments,
        sequence=0 if isinstance(document, Release) else document.sequence,
        issued_at=document.issued_at,
        not_after=document.not_after,
        release=document.release_digest if isinstance(document, Deployment) else None,
        keyid=keyid,
        own=not others,
        signers=others,
    )


def digest_of(payload: bytes) -> str:
    """Return the digest that a payload is known by."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def record_of_payload(payload: bytes, realm: str) -> Record | None:
    """Return the record of a payload of this realm, None for other bytes.

    Whose it was is not in the payload: it is taken as our own, which ``repair`` corrects for releases.
    """
    from cellward.documents.model import Deployment, Release, Tombstone, parse_document, payload_type_of

    try:
        kind = json.loads(payload).get("kind")
        document = parse_document(payload_type_of(str(kind)), payload)
    except (ValueError, AttributeError, RecursionError, CellwardError):
        return None
    if not isinstance(document, Release | Deployment | Tombstone) or document.realm != realm:
        return None
    return record_of(document, digest_of(payload))
