"""The hub's audit log over a store."""

from __future__ import annotations

import pytest

from hub.audit.service import AuditLog
from hub.store.interfaces import Store
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store
from tests.unit.hub.audit.logs import make_log


@pytest.fixture
def store() -> Store:
    """Give an empty store."""
    return scratch_store(ManualClock())


@pytest.fixture
def log(store: Store) -> AuditLog:
    """Give a log over the store."""
    return make_log(store.audit)
