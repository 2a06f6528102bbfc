"""An honest export."""

from __future__ import annotations

import pytest

from hub.audit.service import AuditLog
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store
from tests.unit.auditverify.exports import KEY, Exported, export_of, fill

#: It is only read, so it is made once.
_MADE: list[Exported] = []


@pytest.fixture
async def exported() -> Exported:
    """Give an honest export."""
    if not _MADE:
        log = AuditLog(scratch_store(ManualClock()).audit, KEY, lambda: REALM, ManualClock())
        writers: list[AuditWriter] = await fill(log)
        _MADE.append(Exported(await export_of(log), writers))
    return _MADE[0]
