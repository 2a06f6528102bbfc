"""The small stores of the state file; what each promises is in ``agent.spool.interfaces``."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agent.spool.closings import SqliteClosings
from agent.spool.interfaces import Also
from agent.spool.writer import Writer
from cellward.documents.floors import TimeFloor, Trusted
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem

#: The time floor is written when it moved this far; losing less than this at a crash is far below the 5 min tolerance.
TIME_FLOOR_STEP = timedelta(seconds=10)


class SqliteTimeFloor:
    """The time floor; a clock that jumps ahead enters it only when it has stayed there."""

    def __init__(self, writer: Writer, monotonic: Callable[[], float]) -> None:
        self._writer = writer
        self._monotonic = monotonic
        self._latest: datetime | None = None
        self._stored: datetime | None = None
        self._trusted: Trusted | None = None
        self._was_away = False

    @property
    def latest(self) -> datetime | None:
        """The floor as it was read or moved last, without asking; None before that."""
        return self._latest

    @property
    def doubted(self) -> bool:
        """Whether the clock jumped ahead while the agent ran, and the floor does not follow yet."""
        return self._trusted is not None and self._trusted.doubted_since is not None and not self._was_away

    async def get(self) -> datetime | None:
        """Return the floor."""
        if self._latest is None:
            self._latest = self._stored = await self._writer.run(_read_time_floor)
        return self._latest

    async def advance(self, now: datetime) -> datetime:
        """Move the floor; raises ``document/clock-stepped-back``."""
        old, monotonic = await self.get(), self._monotonic()
        time = TimeFloor.advance(old, now)
        # After a start nobody knows how long the agent was away: what was stored is where belief begins.
        before = self._trusted
        self._trusted = TimeFloor.believe(before or Trusted(old or now, monotonic), now, monotonic)
        self._was_away = self._trusted.doubted_since is not None and (before is None or self._was_away)
        floor = max(old or now, min(time, self._trusted.time))
        self._latest = floor
        if self._stored is None or floor - self._stored >= TIME_FLOOR_STEP:
            text = floor.isoformat()
            await self._writer.run(
                lambda connection: connection.execute("UPDATE agent SET time_floor=?", (text,)).rowcount
            )
            self._stored = floor
        return time


def _read_time_floor(connection: sqlite3.Connection) -> datetime | None:
    text = connection.execute("SELECT time_floor FROM agent").fetchone()[0]
    return None if text is None else datetime.fromisoformat(text)


class SqliteItems:
    """Desired items; ``kind`` tells the two sets of one file apart."""

    def __init__(self, writer: Writer, kind: str) -> None:
        self._writer = writer
        self._kind = kind

    async def list(self) -> tuple[DesiredItem, ...]:
        """Return all items, by key."""

        def job(connection: sqlite3.Connection) -> tuple[DesiredItem, ...]:
            rows = connection.execute(
                "SELECT body FROM items WHERE kind=? ORDER BY project, cell, environment", (self._kind,)
            )
            return tuple(_item_of(row[0]) for row in rows)

        return await self._writer.run(job)

    async def get(self, project: str, cell: str, environment: str) -> DesiredItem | None:
        """Return one item."""

        def job(connection: sqlite3.Connection) -> DesiredItem | None:
            row = connection.execute(
                "SELECT body FROM items WHERE kind=? AND project=? AND cell=? AND environment=?",
                (self._kind, project, cell, environment),
            ).fetchone()
            return None if row is None else _item_of(row[0])

        return await self._writer.run(job)

    async def put(self, item: DesiredItem) -> None:
        """Store or replace the item."""
        row = (self._kind, item.project, item.cell, item.environment, _body_of(item))
        await self._writer.run(
            lambda connection: connection.execute("INSERT OR REPLACE INTO items VALUES (?,?,?,?,?)", row).rowcount
        )

    async def remove(self, project: str, cell: str, environment: str) -> None:
        """Forget the item."""
        row = (self._kind, project, cell, environment)
        await self._writer.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM items WHERE kind=? AND project=? AND cell=? AND environment=?", row
                ).rowcount
            )
        )


def _body_of(item: DesiredItem) -> str:
    body = {name: getattr(item, name) for name in DesiredItem.__dataclass_fields__}
    return json.dumps({**body, "evidence": list(item.evidence)}, sort_keys=True)


def _item_of(body: str) -> DesiredItem:
    values = json.loads(body)
    return DesiredItem(**{**values, "evidence": tuple(values["evidence"])})


class SqliteBlobs:
    """Bytes by digest."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def get(self, digest: str) -> bytes | None:
        """Return the bytes, or None."""

        def job(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute("SELECT data FROM blobs WHERE digest=?", (digest,)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._writer.run(job)

    async def put(self, digest: str, data: bytes) -> None:
        """Store the bytes."""
        await self._writer.run(
            lambda connection: connection.execute("INSERT OR REPLACE INTO blobs VALUES (?,?)", (digest, data)).rowcount
        )

    async def drop(self, digests: Sequence[str]) -> None:
        """Drop these blobs."""
        rows = [(digest,) for digest in digests]
        await self._writer.run(
            lambda connection: connection.executemany("DELETE FROM blobs WHERE digest=?", rows).rowcount
        )

    async def keep_only(self, digests: Sequence[str]) -> int:
        """Drop every other blob."""
        keep = set(digests)

        def job(connection: sqlite3.Connection) -> int:
            held = [row[0] for row in connection.execute("SELECT digest FROM blobs")]
            gone = [(digest,) for digest in held if digest not in keep]
            connection.executemany("DELETE FROM blobs WHERE digest=?", gone)
            return len(gone)

        return await self._writer.run(job)


class SqliteInventory:
    """Inventories by namespace."""

    def __init__(self, writer: Writer, closings: SqliteClosings) -> None:
        self._writer = writer
        self._closings = closings

    async def get(self, namespace: str) -> Any:
        """Return the document, or None."""

        def job(connection: sqlite3.Connection) -> Any:
            row = connection.execute("SELECT body FROM inventory WHERE namespace=?", (namespace,)).fetchone()
            return None if row is None else json.loads(row[0])

        return await self._writer.run(job)

    async def put(self, namespace: str, value: Any) -> None:
        """Replace the document."""
        await self._writer.run(self.putting(namespace, value))

    def putting(self, namespace: str, value: Any) -> Also:
        """Return ``put`` as work that joins another write."""
        row = (namespace, json.dumps(value, sort_keys=True))
        counting = self._closings.putting(namespace)

        def job(connection: sqlite3.Connection) -> int:
            counting(connection)
            return connection.execute("INSERT OR REPLACE INTO inventory VALUES (?,?)", row).rowcount

        return job

    async def delete(self, namespace: str) -> None:
        """Forget the namespace."""
        await self._writer.run(
            lambda connection: connection.execute("DELETE FROM inventory WHERE namespace=?", (namespace,)).rowcount
        )

    async def namespaces(self) -> tuple[str, ...]:
        """Return all namespaces."""

        def job(connection: sqlite3.Connection) -> tuple[str, ...]:
            return tuple(row[0] for row in connection.execute("SELECT namespace FROM inventory ORDER BY namespace"))

        return await self._writer.run(job)


class SqliteMeta:
    """Small named strings."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def get(self, key: str) -> str | None:
        """Return the value, or None."""

        def job(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
            return None if row is None else str(row[0])

        return await self._writer.run(job)

    async def set(self, values: Mapping[str, str]) -> None:
        """Store all values."""
        rows = list(values.items())
        await self._writer.run(
            lambda connection: connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", rows).rowcount
        )


class SqliteOutbox:
    """Unacknowledged receipts."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, key: CellKey, payload: bytes) -> int:
        """Store a payload and return its number."""

        def job(connection: sqlite3.Connection) -> int:
            # REPLACE drops the older receipt of the cell and gives the new one a higher number.
            cursor = connection.execute(
                "INSERT OR REPLACE INTO outbox (project, cell, environment, payload) VALUES (?,?,?,?)", (*key, payload)
            )
            return int(cursor.lastrowid or 0)

        return await self._writer.run(job)

    async def pending(self) -> tuple[tuple[int, CellKey, bytes], ...]:
        """Return what is unacknowledged, oldest first."""

        def job(connection: sqlite3.Connection) -> tuple[tuple[int, CellKey, bytes], ...]:
            rows = connection.execute("SELECT number, project, cell, environment, payload FROM outbox ORDER BY number")
            return tuple((row[0], CellKey(row[1], row[2], row[3]), bytes(row[4])) for row in rows)

        return await self._writer.run(job)

    async def done(self, key: CellKey, number: int) -> None:
        """Drop the payload unless a newer one replaced it."""
        row = (*key, number)
        await self._writer.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM outbox WHERE project=? AND cell=? AND environment=? AND number=?", row
                ).rowcount
            )
        )
