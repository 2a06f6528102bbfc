"""The hub's audit log on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from hub.audit.service import AuditLog
from hub.store.interfaces import Store
from hub.store.sql.store import open_store
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore
from tests.unit.hub.audit.logs import make_log


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Give each kind of store, empty."""
    if request.param == "memory":
        yield cast("Store", MemoryStore(ManualClock()))
        return
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", ManualClock())
    yield cast("Store", opened)
    await opened.close()


@pytest.fixture
def log(store: Store) -> AuditLog:
    """Give a log over the store."""
    return make_log(store.audit)
