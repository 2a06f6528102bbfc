"""How often cells were closed, in all: quarantine and closed edges raise no floor, and a full spool keeps no record.

The total goes into the anchor with each closing. A count becomes durable together with the record it belongs to, so
that a volume whose total is below that of the anchor holds a record of a cell that was closed since (V1, V4).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from agent.spool.interfaces import Also

#: Row for what the anchor counts and this volume has no record of.
_LOST: Final = ""


class SqliteClosings:
    """Closings by namespace as this process counted them; used by the event loop alone."""

    def __init__(self, durable: dict[str, int]) -> None:
        self._counts = durable

    @property
    def total(self) -> int:
        """Return how many there were, also those of which no record could be kept."""
        return sum(self._counts.values())

    def add(self, namespace: str) -> None:
        """Count one; durable with the next record of the namespace."""
        self._counts[namespace] = self._counts.get(namespace, 0) + 1

    def putting(self, namespace: str) -> Also:
        """Return writing the count of a namespace as work that joins the write of its record."""
        row = (namespace, self._counts.get(namespace, 0))
        return lambda connection: row[1] and connection.execute("INSERT OR REPLACE INTO closings VALUES (?,?)", row)


def durable_closings(connection: sqlite3.Connection) -> dict[str, int]:
    """Return what is durable, by namespace."""
    return {str(row[0]): int(row[1]) for row in connection.execute("SELECT namespace, number FROM closings")}


def raise_closings(connection: sqlite3.Connection, total: int) -> None:
    """Make up for what is missing to a total, once the records below it are forgotten."""
    counts = durable_closings(connection)
    missing = total - sum(counts.values())
    if missing > 0:
        row = (_LOST, counts.get(_LOST, 0) + missing)
        connection.execute("INSERT OR REPLACE INTO closings VALUES (?,?)", row)
