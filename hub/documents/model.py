"""What comes of an upload."""

from __future__ import annotations

from dataclasses import dataclass

from hub.placement.model import IndexEntry


@dataclass(frozen=True, slots=True)
class Accepted:
    """Outcome of an upload: index entries, newly kept or known before, and clusters with a changed item.

    ``dropped`` made way for it: documents that do not verify (``hub.documents.bounds``).
    """

    entries: tuple[IndexEntry, ...]
    clusters: tuple[str, ...]
    dropped: tuple[IndexEntry, ...] = ()
