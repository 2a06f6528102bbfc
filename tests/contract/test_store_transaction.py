"""What every store promises of a transaction: decide, change and record as one, or not at all (V13)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cellward.errors import CellwardError
from hub.store.interfaces import Store, Tables
from hub.store.log import AuditAppend, AuditEntry, AuditEvent
from tests.contract.store_rows import KEY, NOW, deployment

EVENT = AuditEvent("ada", "document.upload", "Document//a", "done", details={"count": "1"})


class TestTransact:
    """Everything of a job, or nothing."""

    async def test_all_of_it_is_there_at_once(self, store: Store) -> None:
        """A change in several tables with its event; the result comes back, and who waits is woken."""
        before = store.changes.stamp("documents", "events", "desired:c1")

        async def job(tables: Tables) -> int:
            await tables.clusters.create("c1", "ada")
            await tables.documents.put(deployment("a", 1, "dev"))
            await tables.desired.upsert("c1", KEY, "sha256:a")
            await tables.audit.put_events([EVENT])
            assert await tables.documents.get("sha256:a") is not None, "it reads what it wrote"
            return 7

        assert await store.transact(job) == 7
        assert await store.desired.revision("c1") == 1
        assert [found.event for found in await store.audit.waiting(10)] == [EVENT]
        after = store.changes.stamp("documents", "events", "desired:c1")
        assert all(new != old for new, old in zip(after[1:], before[1:], strict=True))

    async def test_a_job_that_raises_leaves_nothing(self, store: Store) -> None:
        """Whatever it raises, and however late."""

        async def job(tables: Tables) -> None:
            await tables.clusters.create("c1", "ada")
            await tables.audit.put_events([EVENT])
            raise KeyError("no")

        with pytest.raises(KeyError):
            await store.transact(job)
        assert await store.clusters.list() == ()
        assert await store.audit.waiting(10) == ()

    async def test_a_refusal_of_the_store_is_the_jobs(self, store: Store) -> None:
        """A broken promise of one part ends all of it, under its own code."""
        await store.clusters.create("c1", "ada")

        async def job(tables: Tables) -> None:
            await tables.audit.put_events([EVENT])
            await tables.clusters.create("c1", "ada")

        with pytest.raises(CellwardError) as caught:
            await store.transact(job)
        assert caught.value.code == "store/cluster-exists"
        assert await store.audit.waiting(10) == ()

    async def test_a_caller_that_goes_away_tears_nothing(self, store: Store) -> None:
        """It was cancelled while the transaction ran: all of it becomes durable."""
        begun, go = asyncio.Event(), asyncio.Event()

        async def job(tables: Tables) -> None:
            await tables.clusters.create("c1", "ada")
            begun.set()
            await go.wait()
            await tables.audit.put_events([EVENT])

        caller = asyncio.ensure_future(store.transact(job))
        await begun.wait()
        caller.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        while not await store.audit.waiting(1):
            await asyncio.sleep(0)
        assert [row.name for row in await store.clusters.list()] == ["c1"]

    async def test_nothing_is_read_past_the_transaction(self, store: Store) -> None:
        """What another moment shows must not decide; the store itself refuses to be asked from inside."""

        async def reading(_: Tables) -> None:
            await store.clusters.list()

        async def writing(_: Tables) -> None:
            await store.clusters.create("c1", "ada")

        for job in (reading, writing):
            with pytest.raises(RuntimeError, match="inside a transaction"):
                await store.transact(job)


class TestDecisions:
    """Who decides on what he reads in the transaction decides on what holds when it is durable."""

    async def test_of_two_that_found_a_number_free_one_has_it(self, store: Store) -> None:
        """Two uploads with one sequence, at the same time: the second finds the first."""
        wide = asyncio.Event()

        async def upload(name: str) -> str:
            async def job(tables: Tables) -> str:
                taken = await tables.documents.taken([(KEY, 1)])
                if not taken:
                    await tables.documents.put(replace(deployment(name, 1, "dev"), standing="verified"))
                return taken.get((KEY, 1), "")

            await wide.wait()
            return await store.transact(job)

        uploads = [asyncio.create_task(upload(name)) for name in ("a", "b")]
        wide.set()
        found = await asyncio.gather(*uploads)
        kept = [row.digest for row in (await store.documents.list()).items]
        assert len(kept) == 1
        assert sorted(found) == ["", *kept]


class TestEvents:
    """What the hub did waits, in order, until its record is in the log."""

    async def test_they_wait_in_order_and_come_back_whole(self, store: Store) -> None:
        """Every field, and the time they were kept."""
        full = replace(EVENT, cluster="c1", code="x/y", reason="r", rule="z", correlation_id="7", revision=3)
        await store.audit.put_events([EVENT, full])
        await store.audit.put_events([])
        await store.audit.put_events([replace(EVENT, new_epoch=True)])
        found = await store.audit.waiting(10)
        assert [one.event for one in found] == [EVENT, full, replace(EVENT, new_epoch=True)]
        assert {one.at for one in found} == {NOW}
        assert [one.number for one in found] == sorted(one.number for one in found)
        assert len(await store.audit.waiting(2)) == 2

    async def test_an_append_takes_those_it_has_and_no_other(self, store: Store) -> None:
        """Once: whoever appends one that is gone has decided on an older queue, and nothing of it is kept."""
        await store.audit.put_events([EVENT, EVENT])
        first, second = (one.number for one in await store.audit.waiting(10))
        entries = [AuditEntry(0, b"{}", "hub", 1, 1, NOW)]
        await store.audit.append(AuditAppend(0, entries, placed=[first]))
        assert [one.number for one in await store.audit.waiting(10)] == [second]
        with pytest.raises(CellwardError) as caught:
            await store.audit.append(AuditAppend(1, [AuditEntry(1, b"{}", "hub", 1, 2, NOW)], placed=[first, second]))
        assert caught.value.code == "store/moved"
        assert await store.audit.size() == 1
        assert [one.number for one in await store.audit.waiting(10)] == [second]

    def test_what_no_record_can_hold_is_no_event(self) -> None:
        """Told when it is made: a queue must not hold what can never leave it."""
        with pytest.raises(CellwardError) as caught:
            AuditEvent("ada", "Not An Action", "x", "done")
        assert caught.value.code == "audit/bad-record"
