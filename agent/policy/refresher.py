"""When policy is asked for: on a notice, on a timer, and again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.policy.interfaces import ContentSource
from agent.policy.service import PolicyService
from cellward.errors import CellwardError, Unavailable
from cellward.policy.errors import KEY_LIFTED, OLD_BASE
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer

#: Refusals that say that somebody with real keys signs what he should not, or from less than is in force.
_FINDINGS = frozenset((KEY_LIFTED.code, OLD_BASE.code))
_log = structlog.get_logger()

#: Seconds between two records of refused policy.
_REFUSALS_APART = 60.0


@dataclass
class PolicyRefresher:
    """Root task: refreshes policy on a notice, and on a timer in case a notice was lost; records what came of it.

    What failed is tried again with back-off: the hub tells of a version once, and neither a hub that was away in
    between nor one that served something else under that version may keep policy from arriving. Nor may one that tells
    all the time make the agent fetch, verify and record all the time: there is a gap after each refresh, and one record
    of a refusal a minute, with the number of those left out.
    """

    policy: PolicyService
    source: ContentSource
    recorder: RecorderPort
    timer: Timer
    interval: float
    retry: FullJitter = field(default_factory=lambda: FullJitter(base=1.0, cap=30.0))
    #: Least pause after a refresh, seconds; up to as much again is added by chance.
    gap: float = 1.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _announced: int = 0
    _tried: int = 0
    _last_refusal: str = ""
    _recorded_at: float = -math.inf
    _suppressed: int = 0

    def notice(self, version: int = 0) -> None:
        """Hear that there is something newer; any number of notices is one refresh."""
        self._announced = max(self._announced, version)
        self._wake.set()

    async def run(self) -> None:
        """Refresh until cancelled; the set in force goes on deciding when one is refused (V8)."""
        pause = self._pause()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            if self._announced > self._tried:
                self._tried = self._announced
                self.retry.reset()
            accepted = await self.once()
            await self.timer.sleep(self.gap + FullJitter(self.gap, self.gap).next())
            pause = self._pause() if accepted else min(self.interval, self.retry.next())

    def _pause(self) -> float:
        """Draw the time of the next look: agents that began together do not come together for ever.

        Never beyond the interval: it bounds for how long other content under a version in force goes unnoticed.
        """
        return self.interval - FullJitter(self.interval / 5, self.interval / 5).next()

    async def once(self) -> bool:
        """Refresh now; returns whether what the hub serves was accepted."""
        try:
            accepted = await self.policy.refresh(self.source)
        except Unavailable as error:
            _log.info("policy-refresh-postponed", code=error.code, reason=error.message)
        except CellwardError as error:
            await self._record_refusal(error)
        except Exception:  # noqa: BLE001 - what the hub serves, or a full disk, must not end the agent (V16)
            _log.exception("policy-refresh-failed")
        else:
            self._last_refusal = ""
            if accepted is not None:
                reason = f"snapshot {accepted.snapshot_version} verified"
                await self.recorder.record_or_count(Entry("policy.accept", "policy", "allow", reason=reason))
            return True
        return False

    async def _record_refusal(self, error: CellwardError) -> None:
        """Record a refusal for another reason than the last one; by its code, since a message may name any version."""
        now = self.timer.monotonic()
        if error.code == self._last_refusal or now - self._recorded_at < _REFUSALS_APART:
            self._suppressed += 1
            return
        details = {"suppressed": str(self._suppressed)} if self._suppressed else {}
        self._last_refusal, self._recorded_at, self._suppressed = error.code, now, 0
        decision = "finding" if error.code in _FINDINGS else "deny"
        entry = Entry("policy.refuse", "policy", decision, code=error.code, reason=error.message, details=details)
        await self.recorder.record_or_count(entry)
