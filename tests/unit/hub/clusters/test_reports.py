"""Reports of agents on their way into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.clusters.reports import REPEAT_SECONDS, Reports
from hub.store.errors import FULL
from hub.store.interfaces import ReceiptRow, SeenRow, StatusRow
from hub.store.sql.store import SqlStore
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = CellKey("shop", "cart", "dev")


class Counting:
    """Counts transactions of the store, and fails when told to."""

    def __init__(self, store: SqlStore) -> None:
        self.calls: list[int] = []
        self.full = False
        self._real = store.desired.put_statuses
        store.desired.put_statuses = self.put  # type: ignore[method-assign]

    async def put(self, rows: Sequence[StatusRow]) -> None:
        self.calls.append(len(rows))
        await asyncio.sleep(0)
        if self.full:
            raise FULL("no room")
        await self._real(rows)


def _row(number: int, phase: str = "ready") -> StatusRow:
    return StatusRow(f"c{number}", KEY, {"phase": phase}, NOW)


@pytest.fixture
async def store() -> SqlStore:
    """A store where a hundred clusters are meant to have one cell."""
    made = scratch_store()
    for number in range(100):
        await made.clusters.create(f"c{number}", "test")
        await made.desired.upsert(f"c{number}", KEY, "sha256:" + "0" * 64)
    return made


async def test_many_at_once_share_transactions_and_all_are_durable(store: SqlStore) -> None:
    """A hundred agents that report together cost a few transactions; each call returns when its row is kept."""
    counting = Counting(store)
    reports = Reports(store, ManualClock())
    await asyncio.gather(*(reports.cell(_row(number)) for number in range(100)))
    assert sum(counting.calls) == 100
    assert len(counting.calls) <= 3
    page = await store.desired.statuses(limit=500)
    assert all(row.status is not None for row in page.items)


async def test_v13_receipts_share_transactions_and_each_is_durable_when_its_call_returns(store: SqlStore) -> None:
    """V13: a frame is acknowledged after this call, so the call may not return before the row is kept."""
    written: list[int] = []
    real = store.desired.put_receipts

    async def put(rows: Sequence[ReceiptRow]) -> None:
        await asyncio.sleep(0)
        await real(rows)
        written.append(len(rows))

    store.desired.put_receipts = put  # type: ignore[method-assign]
    reports = Reports(store, ManualClock())

    async def one(number: int) -> None:
        await reports.receipt(ReceiptRow(f"c{number}", KEY, 1, "sha256:" + "0" * 64, accepted=True))
        row = (await store.desired.statuses(f"c{number}")).items[0]
        assert row.receipt is not None

    await asyncio.gather(*(one(number) for number in range(100)))
    assert sum(written) == 100
    assert len(written) <= 3


async def test_a_fleet_that_goes_away_at_once_costs_a_few_transactions(store: SqlStore) -> None:
    """A thousand streams that end together must not keep the hub from stopping."""
    written: list[int] = []
    real = store.clusters.update_seen_many

    async def seen(rows: Sequence[SeenRow]) -> None:
        await asyncio.sleep(0)
        await real(rows)
        written.append(len(rows))

    store.clusters.update_seen_many = seen  # type: ignore[method-assign]
    reports = Reports(store, ManualClock(NOW))
    await asyncio.gather(*(reports.seen(f"c{number}") for number in range(100)))
    assert len(written) <= 3
    assert all(row.last_seen == NOW for row in await store.clusters.list())


async def test_newest_state_of_a_cell_wins(store: SqlStore) -> None:
    """Two states of one cell in one transaction: the later one stays."""
    reports = Reports(store, ManualClock())
    await asyncio.gather(reports.cell(_row(1, "applying")), reports.cell(_row(1, "ready")))
    page = await store.desired.statuses("c1")
    assert page.items[0].status is not None
    assert page.items[0].status.body["phase"] == "ready"


async def test_failure_reaches_everybody_and_is_not_remembered_as_done(store: SqlStore) -> None:
    """V16: a full disk fails the call, and the same report is written when there is room again."""
    counting = Counting(store)
    reports = Reports(store, ManualClock())
    counting.full = True
    for outcome in await asyncio.gather(*(reports.cell(_row(n)) for n in range(3)), return_exceptions=True):
        assert isinstance(outcome, CellwardError)
        assert outcome.code == "store/full"
    counting.full = False
    await reports.cell(_row(0))
    assert counting.calls[-1] == 1


async def test_unchanged_is_written_again_after_a_while_or_a_new_stream(store: SqlStore) -> None:
    """Repetition costs nothing, yet 'last seen' stays true and a new stream writes everything."""
    clock = ManualClock(NOW)
    counting = Counting(store)
    reports = Reports(store, clock)
    for _ in range(5):
        await reports.cell(_row(1))
    assert len(counting.calls) == 1
    clock.advance(REPEAT_SECONDS + 1)
    await reports.cell(_row(1))
    assert len(counting.calls) == 2
    reports.forget("c1")
    await reports.cell(_row(1))
    assert len(counting.calls) == 3
    await reports.cell(_row(1, "degraded"))
    assert len(counting.calls) == 4
