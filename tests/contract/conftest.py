"""Each kind of store: on SQLite and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from hub.store.interfaces import Store
from hub.store.sql.store import open_store
from tests.contract.store_rows import NOW
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock(NOW)


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    """Give each kind of store, empty."""
    if request.param == "memory":
        yield cast("Store", MemoryStore(clock))
        return
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", clock)
    yield cast("Store", opened)
    await opened.close()
