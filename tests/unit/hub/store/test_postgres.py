"""What is true of PostgreSQL and of nothing else: its schema, migrations of two at once, transactions that meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.store.interfaces import Tables
from hub.store.sql.store import SqlStore, open_store
from hub.store.sql.tables import metadata
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Server

KEY = CellKey("shop", "cart", "dev")


@pytest.fixture
async def url(postgres: Server) -> str:
    """Give the URL of a database with tables."""
    return await postgres.new()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """Give an open store."""
    opened = await open_store(url, ManualClock())
    yield opened
    await opened.close()


async def test_migrations_make_exactly_the_tables_in_use(store: SqlStore) -> None:
    """The migrated schema and the tables the code uses are one."""

    def compared(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store._db.read() as connection:
        assert await connection.run_sync(compared) == []


async def test_two_openers_of_a_new_database_agree(postgres: Server) -> None:
    """Migration and epoch are made by one of them while the others wait, and all see the result."""
    url = await postgres.new(migrated=False)
    stores = await asyncio.gather(*(open_store(url, ManualClock()) for _ in range(4)))
    assert len({store.hub_epoch for store in stores}) == 1
    for store in stores:
        await store.close()


async def test_transactions_that_meet_are_run_again_and_none_is_lost(store: SqlStore, url: str) -> None:
    """Forty that read a number and write the next one, in two processes: each of them counts."""
    other = await open_store(url, ManualClock())
    await store.meta.put("count", b"0")
    runs = 0

    async def add(tables: Tables) -> None:
        nonlocal runs
        runs += 1
        found = int(await tables.meta.get("count") or b"0")
        await asyncio.sleep(0)
        await tables.meta.put("count", str(found + 1).encode())

    outcomes = await asyncio.gather(
        *((store, other)[number % 2].transact(add) for number in range(40)), return_exceptions=True
    )
    moved = [one for one in outcomes if isinstance(one, CellwardError)]
    assert {one.code for one in moved} <= {"store/moved"}
    assert await store.meta.get("count") == str(40 - len(moved)).encode()
    assert runs > 40, "no two of them ever met"
    await other.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """A code, and no password in it."""
    with pytest.raises(CellwardError) as caught:
        await open_store("postgresql://hub:secret@127.0.0.1:1/hub?sslmode=disable")
    assert caught.value.code == "store/unavailable"
    assert "secret" not in f"{caught.value} {caught.value.hint}"


async def test_tls_is_verified_unless_somebody_says_otherwise(postgres: Server) -> None:
    """Without a word about TLS a server without a certificate is refused: a password would go to anybody."""
    with pytest.raises(CellwardError) as caught:
        await open_store(postgres.url("postgres").partition("?")[0])
    assert caught.value.code == "store/unavailable"
