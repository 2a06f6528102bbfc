"""What is done when two hold one identity: both are locked, and it is a finding (V7).

Nobody can tell the copy from the original, so neither may speak until a person has looked. Locking only narrows.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from cellward.runtime.clock import Clock
from hub.authority.interfaces import AuditSink, LockKeeper
from hub.authority.limits import Limiter, Rate

_log = structlog.get_logger()
#: Who is recorded as having locked.
ACTOR = "hub"
#: Findings of one kind about one cluster: three at once, then one in ten minutes; what they say is what an agent says.
FINDINGS = Rate(3, 1 / 600)


class Copies:
    """Locks an installation of which there are two."""

    def __init__(self, locks: LockKeeper, audit: AuditSink, clock: Clock) -> None:
        self._locks = locks
        self._audit = audit
        self._clock = clock
        self._findings = Limiter(FINDINGS, clock)
        self._suppressed = 0

    async def found(
        self, cluster: str, uid: str, *, code: str, reason: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Lock both and record why; the lock comes first, so that a full log does not keep a thief in."""
        _log.warning("identity-copied", cluster=cluster, code=code)
        await self._locks.put_lock("agent", uid, f"{code}: {reason}", ACTOR, self._clock.now())
        await self.finding(cluster, code=code, reason=reason, details={"subject": f"agent/{uid}", **(details or {})})

    async def finding(self, cluster: str, *, code: str, reason: str, details: Mapping[str, str] | None = None) -> None:
        """Record what a person should look at and nobody is locked for, within the bound; the rest is counted."""
        if not self._findings.take(f"{cluster} {code}"):
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        told = {**(details or {}), **({"suppressed": str(suppressed)} if suppressed else {})}
        await self._audit.record(
            "identity.copy", f"Cluster//{cluster}", "finding", actor=ACTOR, code=code, reason=reason, details=told
        )
