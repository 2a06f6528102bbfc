"""Each kind of store the contract is about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.store.interfaces import Store
from hub.store.sql.store import open_store
from tests.contract.store_rows import NOW
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Server


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock(NOW)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    server: Server = request.getfixturevalue("postgres")
    return await server.new()


@pytest.fixture
async def store(url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """Give an empty store of each kind."""
    opened = await open_store(url, clock)
    yield opened
    await opened.close()
