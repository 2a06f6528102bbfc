"""The driver below SQLAlchemy: how often a connection's thread is asked, and that nothing stays open for the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from cellward.runtime.clock import SystemClock
from hub.store.sql.database import Database, connect
from hub.store.sql.opening import Connections
from hub.store.sql.store import SqlStore, open_store

_LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT max(i) FROM n"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store with one cluster."""
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path}/hub.db")
    await opened.clusters.create("eu-1", "alice")
    yield opened
    await opened.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A database with an empty table."""
    database = connect(f"sqlite+aiosqlite:///{tmp_path}/hub.db", SystemClock())
    await database.prepare()
    async with database._connections.opened(database._writer) as connection, connection.begin():
        await connection.execute(text("CREATE TABLE t (i INTEGER PRIMARY KEY)"))
    yield database
    await database.close()


@pytest.fixture
def engine(database: Database) -> AsyncEngine:
    """Its writing pool of one connection."""
    return database._writer


@pytest.fixture
def connections(database: Database) -> Connections:
    """Those of its connections that are out."""
    return database._connections


async def test_a_short_transaction_asks_the_thread_twice(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first statement begins it and brings the rows along; then comes the commit, and nothing more."""
    asked = 0
    ask = aiosqlite.Connection._execute

    async def count(self: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    await store.clusters.get("eu-1")
    monkeypatch.setattr(aiosqlite.Connection, "_execute", count)
    row = await store.clusters.get("eu-1")
    assert row is not None
    assert asked == 2
    await store.clusters.set_placed("eu-1", "m")
    assert asked == 4


async def test_a_cancelled_statement_leaves_no_transaction(engine: AsyncEngine, connections: Connections) -> None:
    """Its thread goes on after the caller has left; what it began there is not the next one's (V1)."""
    begun = asyncio.Event()

    async def slow() -> None:
        async with connections.opened(engine) as connection, connection.begin():
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            begun.set()
            await connection.execute(text(_LONG))

    task = asyncio.create_task(slow())
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await connections.all_back()
    async with connections.opened(engine) as connection, connection.begin():
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0


async def test_a_failed_statement_is_taken_back(engine: AsyncEngine, connections: Connections) -> None:
    """What came before it in the transaction as well, on the one connection there is (V1)."""

    async def twice() -> None:
        async with connections.opened(engine) as connection, connection.begin():
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            await connection.execute(text("INSERT INTO t VALUES (1)"))

    with pytest.raises(DBAPIError):
        await twice()
    async with connections.opened(engine) as connection, connection.begin():
        await connection.execute(text("INSERT INTO t VALUES (2)"))
    async with connections.opened(engine) as connection, connection.begin():
        assert (await connection.execute(text("SELECT i FROM t"))).scalars().all() == [2]


async def test_what_was_not_committed_is_taken_back_with_the_connection(
    engine: AsyncEngine, connections: Connections
) -> None:
    """A connection that is given back in a transaction is the next one's without it (V1)."""
    async with connections.opened(engine) as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))
    async with connections.opened(engine) as connection, connection.begin():
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0


async def test_what_statements_changed_and_returned_is_told(engine: AsyncEngine, connections: Connections) -> None:
    """Counts of rows, rows of RETURNING, and many parameters for one statement."""
    async with connections.opened(engine) as connection, connection.begin():
        await connection.execute(text("INSERT INTO t VALUES (:i)"), [{"i": 1}, {"i": 2}, {"i": 3}])
        moved = await connection.execute(text("UPDATE t SET i = i + 10 WHERE i < 3 RETURNING i"))
        assert sorted(moved.scalars()) == [11, 12]
        assert (await connection.execute(text("DELETE FROM t WHERE i > 10"))).rowcount == 2
        rows = await connection.execute(text("SELECT i, i * 2 AS twice FROM t"))
        assert [row._asdict() for row in rows] == [{"i": 3, "twice": 6}]
