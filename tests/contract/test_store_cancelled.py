"""No connection is left open by who is cancelled or closes early, on each kind of database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text

from hub.store.sql import opening
from hub.store.sql.store import open_store
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused


async def test_a_store_that_is_closed_waits_for_what_is_read(url: str, clock: ManualClock) -> None:
    """A connection that comes back to a pool that was closed is closed by nobody."""
    store = await open_store(url, clock)
    reads = store._db.read()
    connection = await reads.__aenter__()
    driver = (await connection.get_raw_connection()).driver_connection
    closing = asyncio.create_task(store.close())
    await asyncio.wait({closing}, timeout=0.05)
    assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await reads.__aexit__(None, None, None)
    await closing
    assert not _is_open(driver)


async def test_a_read_that_is_cancelled_while_its_connection_is_made_leaves_none_open(
    url: str, clock: ManualClock
) -> None:
    """Cancelled where the driver has it and the pool has not, and the store is closed at once."""
    store = await open_store(url, clock)
    pool = store._db._reader
    await pool.dispose()
    made: list[Any] = []

    def cancel(connection: Any, _: object) -> None:
        made.append(connection.driver_connection)
        reading.cancel()
        connection.cursor().execute("SELECT 1")

    event.listen(pool.sync_engine, "connect", cancel, insert=True)
    reading = asyncio.ensure_future(store.clusters.list())
    with pytest.raises(asyncio.CancelledError):
        await reading
    await store.close()
    assert [_is_open(one) for one in made] == [False]


def _is_open(driver: Any) -> bool:
    """Whether a connection of asyncpg or of aiosqlite is."""
    closed = getattr(driver, "is_closed", None)
    return not closed() if closed is not None else driver._connection is not None


async def test_who_holds_a_connection_for_longer_than_a_closed_store_waits_loses_it(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back to a pool that was closed meanwhile it would be closed by nobody."""
    monkeypatch.setattr(opening, "PATIENCE", 0.01)
    store = await open_store(url, clock)

    async def holds_one() -> None:
        async with store._db.read() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await store.close()
            async with asyncio.timeout(30):
                while _is_open(driver):
                    await asyncio.sleep(0.01)
            await connection.execute(text("SELECT 1"))

    with refused("store/unavailable"):
        await holds_one()


async def test_a_store_whose_closing_is_cancelled_is_closed_all_the_same(url: str, clock: ManualClock) -> None:
    """Who ends a process twice in a row cancels its end."""
    store = await open_store(url, clock)
    async with store._db.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        closing = asyncio.create_task(store.close())
        await asyncio.wait({closing}, timeout=0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    # To its end, which is after the last of its connections: the loop of this test does not wait for it.
    async with asyncio.timeout(30):
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "store-close"))
    assert not _is_open(driver)


async def test_a_store_that_is_closed_stays_closed(url: str, clock: ManualClock) -> None:
    """Who comes late is refused with a code, and opens nothing that nobody would close."""
    store = await open_store(url, clock)
    await store.close()
    for late in (store.clusters.list(), store.clusters.create("eu-1", "alice"), store._db.look()):
        with refused("store/unavailable"):
            await late
    await store.close()
