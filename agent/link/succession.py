"""One session open for ever, and its successor on each newer channel before the old one is let go (V5).

Invariants: nobody waits for a hub without an end; a session that is given up for another is closed in good order, so
that what it carried is acknowledged and not sent twice (V13); no hub has it open one session after the other at full
speed (V16).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio
import structlog

from agent.link.channels import ChannelHolder, connected
from agent.link.errors import HUB_UNAVAILABLE
from agent.link.session import DrainRequest, Session
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.runtime.tasks import first_of

_log = structlog.get_logger()

#: Condition of the Sync session.
CONDITION = "hub-link"
#: Seconds a successor session may take to be welcomed before the switch is tried again; the old channel lives longer.
HANDOVER_TIMEOUT = 20.0
#: Seconds a session may take to close in good order.
WIND_DOWN = 5.0
#: Seconds without a connection after which that is a condition, and of one look after that; dialling never stops.
UNREACHABLE_AFTER = 2.0
UNREACHABLE_AGAIN = 60.0
#: Seconds a session lives at least that is not short, short ones that may follow each other at once, and the longest
#: wait after more of them: what ends a session well, a drain or a wish to begin again, is for the hub to say. After one
#: that failed there is the back-off.
SHORT = 5.0
FREE = 3
LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class _Live:
    """A session and the task that runs it."""

    session: Session
    task: asyncio.Task[DrainRequest | None]

    async def wind_down(self) -> None:
        """Close it in good order, or after a while in any."""
        self.session.finish()
        await asyncio.wait({self.task}, timeout=WIND_DOWN)
        await self.end()

    async def end(self) -> None:
        """Close it now."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def result(self) -> DrainRequest | None:
        """Return or raise what became of it; a session that we cancelled ended well."""
        return None if self.task.cancelled() else self.task.result()


class Succession:
    """See the module's text.

    Args:
        channels: where the current channel is.
        make: makes a session on a channel.
        health: gets the condition ``hub-link``.
        timer: the agent's clock.
        backoff: delays after failures; whoever sees that a session was of use resets it.
        rng: chance for drains.

    Attributes:
        failed: sessions that failed since the start, for metrics.
    """

    def __init__(
        self,
        channels: ChannelHolder,
        make: Callable[[grpc.aio.Channel], Session],
        health: HealthRegistry,
        timer: Timer,
        backoff: FullJitter,
        rng: random.Random,
    ) -> None:
        self._channels = channels
        self._make = make
        self._health = health
        self._timer = timer
        self._backoff = backoff
        self._rng = rng
        self._reconnect = asyncio.Event()
        #: Short sessions in a row.
        self._short = 0
        self.failed = 0

    def reconnect(self) -> None:
        """End the session and begin another."""
        self._reconnect.set()

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        while True:
            channel, replaced = self._channels.channel, self._channels.changed
            if channel is None:
                await self._backoff.wait(self._timer)
                continue
            if not await self._reachable(channel, replaced):
                continue
            begun, failed = self._timer.monotonic(), self.failed
            drain = await self._one_link(channel, replaced)
            if self._timer.monotonic() - begun >= SHORT:
                self._short = 0
            elif self.failed == failed:
                self._short += 1
            if drain is not None:
                await self._timer.sleep(self._rng.uniform(drain.after_min, drain.after_max))
            if self._short > FREE and self.failed == failed:
                await self._timer.sleep(min(LONGEST_PAUSE, 0.5 * 2.0 ** min(10, self._short - FREE)))

    async def _reachable(self, channel: grpc.aio.Channel, replaced: asyncio.Event) -> bool:
        """Wait for a connection; the back-off is for hubs that answer and refuse, not for one that is away."""
        for patience in (UNREACHABLE_AFTER, UNREACHABLE_AGAIN):
            if await connected(channel, replaced, patience):
                return True
            if replaced.is_set():
                break
            self._health.set(CONDITION, ok=False, code=HUB_UNAVAILABLE.code, message="the hub cannot be reached")
        return False

    async def _one_link(self, channel: grpc.aio.Channel, replaced: asyncio.Event) -> DrainRequest | None:
        """Run a session and its successors on newer channels until none is left; then wait as back-off says.

        ``replaced`` is of this very channel: a newer one may have come while its connection was waited for.
        """
        current = self._open(channel)
        try:
            while await self._is_replaced(current, replaced):
                newer = self._channels.changed
                successor = await self._hand_over(current)
                if successor is None:
                    # The old session goes on; it is asked again until it ends, and then the ordinary way leads on. To a
                    # channel that came meanwhile at once: that happens no more often than there are renewals.
                    if not newer.is_set():
                        await self._pause(current)
                    continue
                old, current, replaced = current, successor, newer
                await old.wind_down()
            return current.result()
        except CellwardError as error:
            self.failed += 1
            self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
            _log.warning("hub-link-lost", code=error.code, reason=error.message)
            await self._backoff.wait(self._timer)
        finally:
            await current.end()
        return None

    def _open(self, channel: grpc.aio.Channel) -> _Live:
        session = self._make(channel)
        return _Live(session, asyncio.ensure_future(session.run()))

    async def _is_replaced(self, current: _Live, replaced: asyncio.Event) -> bool:
        """Wait for the end of the session (False) or a newer channel (True); who asks to reconnect ends the session."""
        await first_of(current.task, replaced.wait(), self._reconnect.wait())
        if self._reconnect.is_set():
            self._reconnect.clear()
            await current.wind_down()
            return False
        return not current.task.done()

    async def _pause(self, current: _Live) -> None:
        """Wait before the next try to hand over, but no longer than the session lives."""
        await first_of(current.task, self._backoff.wait(self._timer))

    async def _hand_over(self, current: _Live) -> _Live | None:
        """Open a session on the new channel and return it once it is welcomed; None when that did not come about."""
        channel, replaced = self._channels.channel, self._channels.changed
        if channel is None:
            return None
        current.session.quiet(on=True)
        successor = self._open(channel)
        taken = False
        try:
            await first_of(successor.task, successor.session.welcomed.wait(), seconds=HANDOVER_TIMEOUT)
            taken = successor.session.welcomed.is_set()
        finally:
            if not taken:
                current.session.quiet(on=False)
                await successor.end()
        if taken:
            return successor
        self._say_why(successor, overtaken=replaced.is_set())
        return None

    def _say_why(self, successor: _Live, *, overtaken: bool) -> None:
        """Say why a session was not handed over; no failure where its channel was replaced before it was welcomed.

        A hub refuses a certificate that a newer one in use has followed (V7), and the newer one is this agent's own.
        """
        code, reason = HUB_UNAVAILABLE.code, f"no welcome within {HANDOVER_TIMEOUT:g} s"
        try:
            successor.result()
        except CellwardError as error:
            code, reason = error.code, error.message
        if overtaken:
            _log.info("hub-link-handover-overtaken", code=code, reason=reason)
            return
        self.failed += 1
        _log.warning("hub-link-handover-failed", code=code, reason=reason)
