"""Placing a cluster again because its facts changed: many changes are one, and one cluster cannot keep the hub at it.

Whoever joined may say other facts with every Hello, and placing everything again holds up uploads. What a cluster is
not given any more is withheld at once (``hub.placement.delivery``); what waits here is what it is given in addition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cellward.runtime.clock import Clock
from cellward.runtime.tasks import stopped_within
from hub.authority.limits import Limiter, Rate

#: Of one cluster: three at once, as after a few restarts with other settings, then one in twenty seconds.
DEFAULT_RATE: Final = Rate(3, 1 / 20)
#: Seconds between two looks for what has become due.
_LOOK: Final = 1.0
_log = structlog.get_logger()


class Moves:
    """Clusters whose facts changed.

    Args:
        place: places everything on one cluster, by the facts it has then.
        clock: of the rate.
    """

    def __init__(self, place: Callable[[str], Awaitable[None]], clock: Clock, rate: Rate = DEFAULT_RATE) -> None:
        self._place = place
        self._rate = Limiter(rate, clock)
        self._due: dict[str, None] = {}
        self._running: set[str] = set()

    async def changed(self, cluster: str) -> None:
        """Place it now where it may be, otherwise later; one that waits already stands for all changes until then."""
        self._due[cluster] = None
        if cluster not in self._running:
            await self._try(cluster)

    def forget(self, cluster: str) -> None:
        """The cluster was removed."""
        self._due.pop(cluster, None)

    async def work_off(self) -> None:
        """Place what is due and may be placed by now."""
        for cluster in tuple(self._due):
            if cluster not in self._running:
                await self._try(cluster)

    async def follow(self, stop: asyncio.Event) -> None:
        """Work off what is due, until ``stop``; a failure is logged and tried again."""
        while not stop.is_set():
            try:
                await self.work_off()
            except Exception:  # noqa: BLE001 - logged whole and tried again (V16)
                _log.exception("placing-failed")
            await stopped_within(stop, _LOOK)

    async def _try(self, cluster: str) -> None:
        if not self._rate.take(cluster):
            return
        # Taken out before: what changes while it is placed is due again.
        self._due.pop(cluster, None)
        self._running.add(cluster)
        try:
            await self._place(cluster)
        except BaseException:
            self._due[cluster] = None
            raise
        finally:
            self._running.discard(cluster)
