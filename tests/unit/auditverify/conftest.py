"""Honest exports, one from each kind of store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hub.audit.service import AuditLog
from hub.store.sql.store import open_store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore
from tests.unit.auditverify.exports import KEY, Exported, export_of, fill

#: Exports are only read, so each kind is made once.
_MADE: dict[str, Exported] = {}


@pytest.fixture(params=["memory", "sqlite"])
async def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    """Give an honest export from each kind of store."""
    if request.param not in _MADE:
        store: Any = MemoryStore(ManualClock())
        if request.param == "sqlite":
            store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", ManualClock())
        log = AuditLog(store.audit, KEY, lambda: REALM, ManualClock())
        writers: list[AuditWriter] = []
        data = await _filled(log, writers)
        await store.close()
        _MADE[request.param] = Exported(data, writers)
    return _MADE[request.param]


async def _filled(log: AuditLog, writers: list[AuditWriter]) -> bytes:
    writers += await fill(log)
    return await export_of(log)
