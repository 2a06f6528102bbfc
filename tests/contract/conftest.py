"""The store the contract is about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.store.interfaces import Store
from hub.store.sql.store import open_store
from tests.contract.store_rows import NOW
from tests.fakes.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock(NOW)


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    """Give an empty store."""
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", clock)
    yield opened
    await opened.close()
