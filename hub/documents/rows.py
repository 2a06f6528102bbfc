"""Between rows of the store and what is known of a document; pure."""

from __future__ import annotations

from typing import Any

from cellward.documents.facts import Selector
from cellward.documents.fields import format_time, parse_time
from hub.placement.model import IndexEntry
from hub.store.documents import DocumentEntry, DocumentRow


def document_row(entry: IndexEntry, envelope: bytes) -> DocumentRow:
    """Row of an indexed document."""
    meta: dict[str, Any] = {"realm": entry.realm, "subject": entry.subject, "fallback": entry.fallback}
    meta["version"] = entry.version
    judgement: dict[str, Any] = {"owners": list(entry.owners), "needed": entry.needed}
    if entry.once:
        judgement["once"] = True
    if entry.not_after is not None:
        meta["notAfter"] = format_time(entry.not_after)
    if entry.selector is not None:
        meta["selector"] = entry.selector.to_json()
    return DocumentRow(
        entry.digest,
        entry.kind,
        envelope,
        entry.project,
        entry.cell,
        entry.environments,
        entry.sequence,
        meta,
        standing=entry.standing,
        judgement=judgement,
    )


def entry_of(row: DocumentRow | DocumentEntry) -> IndexEntry:
    """Index entry of a row."""
    meta = row.meta
    selector, not_after = meta.get("selector"), meta.get("notAfter")
    return IndexEntry(
        row.digest,
        row.kind,
        str(meta.get("realm", "")),
        row.project,
        row.cell,
        row.environments,
        row.sequence,
        subject=str(meta.get("subject", "")),
        fallback=str(meta.get("fallback", "")),
        version=str(meta.get("version", "")),
        selector=Selector.from_json(selector) if selector is not None else None,
        standing=row.standing,
        owners=tuple(row.judgement.get("owners", ())),
        needed=int(row.judgement.get("needed", 1)),
        once=once(row),
        not_after=parse_time(not_after) if not_after is not None else None,
        size=row.size,
    )


def once(row: DocumentRow | DocumentEntry) -> bool:
    """Whether a document was verified before and is not any more."""
    return row.standing != "verified" and bool(row.judgement.get("once"))
