"""What every store promises to several processes on one database: each is woken by what the others commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from hub.store.changes import Subscription
from hub.store.interfaces import Store, Tables
from hub.store.sql.store import SqlStore, open_store
from tests.contract.store_rows import KEY, deployment
from tests.fakes.clock import ManualClock


@pytest.fixture
async def other(url: str, clock: ManualClock, store: Store) -> AsyncIterator[SqlStore]:
    """Give the store as a second process has it."""
    opened = await open_store(url, clock)
    yield opened
    await opened.close()


@asynccontextmanager
async def watched(store: Store, *topics: str) -> AsyncIterator[Subscription]:
    """Watch and subscribe."""
    watcher = asyncio.create_task(store.watch())
    try:
        async with store.changes.subscribe(*topics) as subscription:
            yield subscription
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def heard(subscription: Subscription) -> frozenset[str]:
    """Wait for the next change."""
    async with asyncio.timeout(30):
        return await subscription.wait()


async def test_what_another_process_changes_wakes_whom_it_concerns(store: Store, other: SqlStore) -> None:
    """Only the topics that changed: a thousand streams are not woken for one cluster."""
    await store.clusters.create("c1", "ada")
    await store.clusters.create("c2", "ada")
    async with watched(store, "documents", "desired:c1", "desired:c2", "policy") as subscription:
        await other.desired.upsert("c2", KEY, "sha256:a")
        assert await heard(subscription) == {"desired:c2"}

        async def job(tables: Tables) -> None:
            await tables.documents.put(deployment("b", 2))
            await tables.desired.upsert("c1", KEY, "sha256:b")

        await other.transact(job)
        assert await heard(subscription) == {"documents", "desired:c1"}


async def test_a_process_is_not_woken_twice_by_its_own(store: Store, other: SqlStore) -> None:
    """It woke its subscribers itself, at once."""
    async with watched(store, "documents", "clusters") as subscription:
        stamp = store.changes.stamp("clusters")
        await store.clusters.create("c1", "ada")
        assert await heard(subscription) == {"clusters"}
        own = store.changes.stamp("clusters")
        assert own != stamp
        await other.documents.put(deployment("later", 3))
        assert await heard(subscription) == {"documents"}
        assert store.changes.stamp("clusters") == own


async def test_what_was_pruned_before_it_was_seen_wakes_everybody(
    store: Store, other: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what it was, so everybody looks."""
    monkeypatch.setattr("hub.store.sql.database.KEPT_CHANGES", 1)
    assert isinstance(store, SqlStore)
    for number in range(3):
        await other.documents.put(deployment(f"d{number}", number))
    await other.prune()
    async with store.changes.subscribe("policy") as subscription:
        await store._db.look()
        assert await heard(subscription) == {"policy"}


async def test_a_transaction_that_commits_late_is_not_missed(store: Store, other: SqlStore, url: str) -> None:
    """On PostgreSQL a lower number may become visible after a higher one was seen; on SQLite there is one writer."""
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer")
    begun_, go = asyncio.Event(), asyncio.Event()
    assert isinstance(store, SqlStore)

    async def slow(tables: Tables) -> None:
        # It has taken its id and the lower number, and commits last.
        await tables.documents.put(deployment("slow", 1))
        tx = cast("Any", tables).documents._db
        await other._db._tell(tx)
        tx.topics.clear()
        begun_.set()
        await go.wait()

    late = asyncio.create_task(other.transact(slow))
    await begun_.wait()
    await store.clusters.create("c1", "ada")
    async with store.changes.subscribe("documents", "clusters") as subscription:
        await store._db.look()
        go.set()
        await late
        await store._db.look()
        assert await heard(subscription) == {"documents"}


async def test_what_was_committed_before_the_watch_began_is_told(store: Store, other: SqlStore) -> None:
    """Somebody has read, and remembers, between the opening of the store and the first look of the watch."""
    stamp = store.changes.stamp("clusters")
    await other.clusters.create("c1", "ada")
    async with watched(store, "clusters") as subscription:
        assert await heard(subscription) == {"clusters"}
    assert store.changes.stamp("clusters") != stamp
