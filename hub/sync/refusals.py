"""Refusals at the link, in the record: who was turned away, why, and where from (V15)."""

from __future__ import annotations

import asyncio

import structlog

from cellward.errors import CellwardError, Denied, Refused, TooNew, Unauthenticated
from cellward.runtime.clock import Clock
from hub.authority.errors import OVERTAKEN, STALE_KEY
from hub.authority.interfaces import Events
from hub.authority.limits import Limiter, Rate
from hub.store.log import AuditEvent
from hub.sync.errors import ANOTHER_CLUSTER, TWO_LIVE_STREAMS

#: With one code, of one cluster or address: three at once, then one in ten minutes; of all: a hundred, then one each
#: second.
EACH = Rate(3, 1 / 600)
ALL = Rate(100, 1)
#: Seconds the end of a call may wait for its record.
_PATIENCE = 2.0
#: Refusals that say something about who asks; what the hub cannot do just now says nothing about anybody.
TOLD = (Denied, Refused, TooNew, Unauthenticated)
_RECORDED = frozenset({STALE_KEY.code, OVERTAKEN.code, TWO_LIVE_STREAMS.code, ANOTHER_CLUSTER.code})
_log = structlog.get_logger()


class Refusals:
    """Records them within bounds: an agent that is turned away comes again, and must not fill the log."""

    def __init__(self, audit: Events, clock: Clock) -> None:
        self._audit = audit
        self._each = Limiter(EACH, clock)
        self._all = Limiter(ALL, clock)
        self._suppressed = 0

    async def note(self, cluster: str, address: str, error: CellwardError) -> None:
        """Record a refusal of ``cluster``, empty when its certificate proved nothing; never raises."""
        # Copies are recorded where they are found, with what gave them away; who is only overtaken is nobody's concern.
        if not isinstance(error, TOLD) or error.code in _RECORDED:
            return
        if not self._each.take(f"{cluster or address} {error.code}") or not self._all.take(""):
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._audit.put_events([_event(cluster, address, error, suppressed)])
        except Exception:  # noqa: BLE001 - it is refused either way, and the log of the process has it
            _log.exception("refusal-not-recorded", code=error.code)


def _event(cluster: str, address: str, error: CellwardError, suppressed: int) -> AuditEvent:
    return AuditEvent(
        f"address:{address}",
        "link.refuse",
        f"Cluster//{cluster}" if cluster else "Link",
        "finding",
        cluster=cluster,
        code=error.code,
        reason=error.message,
        details={"suppressed": str(suppressed), **({"cluster": cluster} if cluster else {})},
    )
