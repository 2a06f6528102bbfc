"""What is done when two hold one identity: both are locked, and it is a finding (V7).

Nobody can tell the copy from the original, so neither may speak until a person has looked. Locking only narrows.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from cellward.identity.locks import MAX_REASON
from cellward.runtime.clock import Clock
from hub.authority.interfaces import IdentityStore, IdentityTables
from hub.authority.limits import Limiter, Rate
from hub.store.interfaces import LockRow
from hub.store.log import AuditEvent

_log = structlog.get_logger()
#: Who is recorded as having locked.
ACTOR = "hub"
#: Findings of one kind about one cluster: three at once, then one in ten minutes; what they say is what an agent says.
FINDINGS = Rate(3, 1 / 600)


class Copies:
    """Locks an installation of which there are two."""

    def __init__(self, store: IdentityStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._findings = Limiter(FINDINGS, clock)
        self._suppressed = 0

    async def found(
        self,
        cluster: str,
        uid: str,
        *,
        code: str,
        reason: str,
        details: Mapping[str, str] | None = None,
        tables: IdentityTables | None = None,
    ) -> None:
        """Lock both and record why, in one transaction: that of the caller, or one of its own."""
        _log.warning("identity-copied", cluster=cluster, code=code)
        lock = LockRow("agent", uid, f"{code}: {reason}"[:MAX_REASON], self._clock.now(), ACTOR)
        event = _event(cluster, code, reason, {"subject": f"agent/{uid}", **(details or {})})

        async def job(tables: IdentityTables) -> None:
            await tables.locks.put(lock)
            await tables.audit.put_events([event])

        await (self._store.transact(job) if tables is None else job(tables))

    async def finding(self, cluster: str, *, code: str, reason: str, details: Mapping[str, str] | None = None) -> None:
        """Record what a person should look at and nobody is locked for, within the bound; the rest is counted."""
        if not self._findings.take(f"{cluster} {code}"):
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        told = {**(details or {}), **({"suppressed": str(suppressed)} if suppressed else {})}
        await self._store.audit.put_events([_event(cluster, code, reason, told)])


def _event(cluster: str, code: str, reason: str, details: Mapping[str, str]) -> AuditEvent:
    return AuditEvent(
        ACTOR, "identity.copy", f"Cluster//{cluster}", "finding", code=code, reason=reason, details=dict(details)
    )
