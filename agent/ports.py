"""Adapters between rooms, used by ``agent.app`` alone."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.audit.statement import StatementKey
from agent.cells.engine import CellEngine
from agent.isolation.errors import NO_PROBER
from agent.link.interfaces import (
    CellReport,
    CommandKind,
    CommandOutcome,
    CommandRequest,
    LinkSender,
    PolicyPosition,
    ReceiptFacts,
)
from agent.policy.interfaces import ContentSource, FloorKeeper
from agent.policy.service import PolicyService
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.errors import CellwardError, Unavailable
from cellward.policy.errors import KEY_LIFTED, OLD_BASE
from cellward.policy.model import VerifiedSet
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Clock, Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem

#: Refusals that say that somebody with real keys signs what he should not, or from less than is in force.
_FINDINGS = frozenset((KEY_LIFTED.code, OLD_BASE.code))
_log = structlog.get_logger()

#: Seconds between two records of refused policy.
_REFUSALS_APART = 60.0


def position_of(verified: VerifiedSet | None) -> PolicyPosition:
    """Versions for Hello and AgentStatus; zeros without a set."""
    if verified is None:
        return PolicyPosition()
    return PolicyPosition(
        root=verified.root_version,
        timestamp=verified.timestamp_version,
        snapshot=verified.snapshot_version,
        targets=verified.targets_version,
        snapshot_expires_unix=int(verified.snapshot_expires.timestamp()),
        bundles=dict(verified.digests),
    )


def authority_of(verified: VerifiedSet | None, facts: ClusterFacts) -> str:
    """``authors+hub`` where a signed binding admits the hub's attestation key: never where production is a fact."""
    admitted = verified is not None and bool(set(verified.binding_set.hub_attestation) & set(facts.environments))
    return "authors+hub" if admitted and not facts.production else "authors"


class CopiedFloors:
    """The policy's floors in the state, and at once in the copy outside of it; satisfies ``FloorKeeper``."""

    def __init__(self, kept: FloorKeeper, copy: Callable[[], Awaitable[None]]) -> None:
        self._kept = kept
        self._copy = copy

    async def get(self) -> Any:
        """Return what was set last, or what the copy held at the start where that is higher."""
        return await self._kept.get()

    async def set(self, value: Mapping[str, object]) -> None:
        """Replace it here, then in the copy; what cannot be copied now is copied later, by the anchor's task."""
        await self._kept.set(value)
        await self._copy()


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


@dataclass(frozen=True, slots=True)
class SignedReceipts:
    """Signs each outcome of a desired item with the statement key before the link takes it; satisfies ``OnReceipt``."""

    statement: StatementKey
    link: LinkSender
    clock: Clock
    realm: str
    uid: str

    async def __call__(self, receipt: ReceiptFacts) -> None:
        """Sign and send; the receipt is durable when this returns."""
        signed = self.statement.receipt(
            realm=self.realm,
            uid=self.uid,
            revision=receipt.revision,
            project=receipt.project,
            cell=receipt.cell,
            environment=receipt.environment,
            deployment_digest=receipt.deployment_digest,
            accepted=receipt.accepted,
            refusals=receipt.refusals,
            at=self.clock.now(),
        )
        await self.link.send_receipt(replace(receipt, statement=signed))


@dataclass
class AgentPorts:
    """What the link calls; satisfies ``agent.link.interfaces.LinkPorts``."""

    engine: CellEngine
    policy_service: PolicyService
    refresher: PolicyRefresher
    facts: ClusterFacts
    health: HealthRegistry

    async def on_item(self, item: DesiredItem) -> None:
        """Hand a desired item to the engine."""
        await self.engine.submit(item)

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Send it on the way of every receipt, so that it is signed."""
        await self.engine.on_receipt(receipt)

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """Let the engine forget an item of which nothing is left."""
        return await self.engine.withdraw(item)

    async def on_full(self) -> Sequence[CellKey]:
        """Let the engine forget cells that ended."""
        return await self.engine.make_room()

    async def on_policy_notice(self, version: int) -> None:
        """Refresh policy; the version itself is only a hint of the hub."""
        _log.debug("policy-notice", version=version)
        self.refresher.notice(version)

    async def on_command(self, command: CommandRequest) -> CommandOutcome:
        """Carry out resync, probe or diagnose (V2)."""
        match command.kind:
            case CommandKind.RESYNC:
                self.engine.resync()
                self.refresher.notice()
                return CommandOutcome(ok=True)
            case CommandKind.DIAGNOSE:
                return CommandOutcome(ok=True, facts=self._diagnosis())
            case _:
                refusal = RefusalText(
                    NO_PROBER.code,
                    "this agent has no prober of isolation yet; the state stays unknown",
                    next=NO_PROBER.hint,
                )
                return CommandOutcome(ok=False, refusal=refusal)

    def policy(self) -> PolicyPosition:
        """Versions of the verified set."""
        return position_of(self.policy_service.current)

    def _diagnosis(self) -> Mapping[str, str]:
        return {condition.name: "ok" if condition.ok else condition.code or "not ok" for condition in self.health.get()}

    def authority(self) -> str:
        """Whether a signed binding admits the hub's attestation key here."""
        return authority_of(self.policy_service.current, self.facts)

    def reports(self) -> Sequence[CellReport]:
        """State of every cell."""
        return tuple(self.engine.statuses().values())
