"""Documents that were verified when they were kept: read again, without their signatures."""

from __future__ import annotations

from cellward.documents.dsse import parse_envelope
from cellward.documents.model import Release, parse_document


def kept_release(envelope: bytes | None) -> Release | None:
    """Return the release in an envelope; None for another document, and for none. Raises what parsing raises."""
    if envelope is None:
        return None
    parsed = parse_envelope(envelope)
    document = parse_document(parsed.payload_type, parsed.payload)
    return document if isinstance(document, Release) else None
