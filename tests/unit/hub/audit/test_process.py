"""The hub's log through restarts, other processes, failures and cancellations."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from cellward.audit.chain import ChainState
from cellward.audit.checkpoint import log_origin, verify_checkpoint
from cellward.audit.tree import leaf_hash, root_of
from cellward.errors import CellwardError
from hub.audit.model import AuditAckOut
from hub.audit.service import AuditLog
from hub.store.errors import FULL
from hub.store.interfaces import Store
from hub.store.log import AuditAppend, AuditEvent, AuditFilter, AuditStore
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.refusals import refused
from tests.unit.hub.audit.logs import SPKI, all_records, check_proofs, make_log, send


class TestProcess:
    """Restarts, other processes, failures, cancellations."""

    async def test_log_goes_on_after_a_restart(self, store: Store) -> None:
        """No in-memory truth: a new process continues chains and tree, and proves old records."""
        writer = AuditWriter(1)
        batch = writer.batch(300)
        known = check_proofs(await send(make_log(store.audit), writer, batch), batch)
        more = writer.batch(300, known=known.size)
        again = make_log(store.audit)
        known = check_proofs(await send(again, writer, more), more, known)
        check_proofs(await send(make_log(store.audit), writer, batch), batch)
        head = await make_log(store.audit).head()
        assert (head.size, head.root) == (600, "sha256:" + known.root.hex())
        assert verify_checkpoint(head.note, log_origin(REALM), SPKI) == known

    async def test_two_processes_on_one_store_make_one_log(self, store: Store) -> None:
        """Replicas: whoever loses the race reads again; nothing is lost, doubled or out of order."""
        logs = [make_log(store.audit), make_log(store.audit)]
        writers = [AuditWriter(number) for number in range(4)]

        async def run(number: int, writer: AuditWriter) -> None:
            known = None
            for turn in range(6):
                batch = writer.batch(20, known=known.size if known else 0)
                known = check_proofs(await send(logs[(number + turn) % 2], writer, batch), batch, known)

        await asyncio.gather(*(run(number, writer) for number, writer in enumerate(writers)))
        again = writers[0].clone()
        again.state = ChainState(1)
        for turn in range(6):
            # Each has been told by the other what the log has: a repeat needs no write that would tell it so.
            batch = again.batch(20)
            check_proofs(await send(logs[turn % 2], again, batch), batch)
        rows = await store.audit.records(0, 1000)
        assert len(rows) == 480
        root = root_of([leaf_hash(row.record) for row in rows])
        assert (await logs[0].head()).root == "sha256:" + root.hex()

    async def test_v13_what_one_process_took_the_other_takes_as_a_repeat(self, store: Store) -> None:
        """An acknowledgement is lost with its process: the other one has an older log in mind, and looks again."""
        first, second = make_log(store.audit), make_log(store.audit)
        writer, other = AuditWriter(1), AuditWriter(2)
        early = writer.batch(3)
        await send(first, writer, early)
        await send(second, other, other.batch(3))
        await send(first, other, other.batch(3))
        late = writer.batch(4)
        await send(first, writer, late)
        head = check_proofs(await send(second, writer, late), late)
        assert head.size == 13
        forked = writer.clone()
        forked.state = ChainState(1)
        assert (await send(second, forked, forked.batch(3, reason="other"))).refused_code == "audit/fork"
        gap = other.clone()
        await send(first, other, other.batch(1))
        gap.write(1)
        beyond = gap.batch(1)
        assert (await send(second, other, beyond)).seq == 8
        assert [r.action for r in await all_records(first, origin="hub")] == ["audit.fork"]

    async def test_store_failure_is_not_an_ack(self, store: Store) -> None:
        """V13: without a commit there is no ack; the same batch works when the store does."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        batch = writer.batch(2)
        failing.fail = True
        results = await asyncio.gather(
            send(log, writer, batch), log.append(AuditEvent("a", "hub.start", "Hub", "done")), return_exceptions=True
        )
        assert [cast("CellwardError", result).code for result in results] == ["store/full", "store/full"]
        failing.fail = False
        check_proofs(await send(log, writer, batch), batch)
        assert await log.size() == 2

    async def test_v13_a_finding_whose_transaction_fails_is_recorded_with_the_next_try(self, store: Store) -> None:
        """V13: what could not be told is not told yet."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        writer.write(2)
        late = writer.batch(1)
        failing.fail = True
        with refused("store/full"):
            await send(log, writer, late)
        failing.fail = False
        assert (await send(log, writer, late)).refused_code == "audit/gap"
        assert [r.action for r in await all_records(log)] == ["audit.gap"]

    async def test_v16_a_mistake_costs_one_group_and_the_next_gets_its_turn(self, store: Store) -> None:
        """V16: an error nobody foresaw reaches those it happened to; who waits behind them is answered as well."""
        failing = FailingStore(store.audit)
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        first, second = writer.batch(2), writer.batch(2)
        failing.once = RuntimeError("a mistake")
        async with asyncio.timeout(30):
            results = await asyncio.gather(send(log, writer, first), send(log, writer, second), return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        assert cast("AuditAckOut", results[1]).refused_code == "audit/gap"
        check_proofs(await send(log, writer, first), first)

    async def test_a_cancelled_worker_leaves_nobody_waiting(self, store: Store) -> None:
        """At shutdown: the group under way and those behind it are told that nothing of theirs is durable."""
        failing = FailingStore(store.audit)
        failing.hang = True
        log = make_log(cast("AuditStore", failing))
        writer = AuditWriter(1)
        waiting = asyncio.gather(
            send(log, writer, writer.batch(2)), send(log, writer, writer.batch(2)), return_exceptions=True
        )
        while log._worker is None:
            await asyncio.sleep(0)
        log._worker.cancel()
        async with asyncio.timeout(30):
            results = await waiting
        assert [cast("CellwardError", result).code for result in results] == ["store/unavailable"] * 2

    async def test_cancelled_stream_does_not_take_others_with_it(self, log: AuditLog) -> None:
        """A stream that ends while it waits leaves the group it shared untouched."""
        writers = [AuditWriter(number) for number in range(6)]
        batches = [writer.batch(10) for writer in writers]
        tasks = [asyncio.create_task(send(log, writer, batch)) for writer, batch in zip(writers, batches, strict=True)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks[3].cancel()
        for number, task in enumerate(tasks):
            if number in {0, 3}:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            else:
                check_proofs(await task, batches[number])
        for number in (0, 3):
            check_proofs(await send(log, writers[number], batches[number]), batches[number])
        assert await log.size() == 60

    async def test_tail_filters_and_follows(self, log: AuditLog) -> None:
        """The next cursor is the last index plus one; filters combine."""
        writer = AuditWriter(1)
        await send(log, writer, writer.batch(5))
        await log.append(AuditEvent("alice", "hub.start", "Hub", "done"))
        assert [row.index for row in await log.tail(0, 3)] == [0, 1, 2]
        assert [row.index for row in await log.tail(3, 100)] == [3, 4, 5]
        assert await log.tail(6, 10) == ()
        assert len(await log.tail(0, 10, AuditFilter(cell="shop/cart", decision="done", cluster="c1"))) == 5
        assert len(await log.tail(0, 10, AuditFilter(action="hub.start"))) == 1


class FailingStore:
    """A store whose appends fail on demand."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self.fail = False
        self.once: Exception | None = None
        self.hang = False

    async def append(self, batch: AuditAppend) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.once is not None:
            error, self.once = self.once, None
            raise error
        if self.fail:
            raise FULL("no room")
        await self._store.append(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
