"""The moment, the cell and the document that tests of every store share."""

from __future__ import annotations

from datetime import UTC, datetime

from cellward.documents.names import CellKey
from hub.store.documents import DocumentRow

NOW = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)

KEY = CellKey("shop", "cart", "dev")


def deployment(
    name: str, sequence: int, *environments: str, cell: str = "cart", kind: str = "deployment"
) -> DocumentRow:
    """Return a document row named by its digest."""
    return DocumentRow(
        digest=f"sha256:{name}",
        kind=kind,
        envelope=b"envelope of " + name.encode(),
        project="shop",
        cell=cell,
        environments=environments,
        sequence=sequence,
        meta={"release": f"sha256:release-{name}"},
    )
