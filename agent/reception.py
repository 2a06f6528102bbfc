"""Takes what the link brings, and hands it to the room that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from agent.audit.interfaces import RefusalText
from agent.cells.engine import CellEngine
from agent.isolation.errors import NOT_MEASURED
from agent.link.interfaces import CellReport, CommandKind, CommandOutcome, CommandRequest, ReceiptFacts
from agent.policy.position import PolicyPosition, authority_of, position_of
from agent.policy.refresher import PolicyRefresher
from agent.policy.service import PolicyService
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()


@dataclass
class Reception:
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
                why = self.engine.measure_again(command.subject)
                refusal = RefusalText(NOT_MEASURED.code, why, next=NOT_MEASURED.hint)
                return CommandOutcome(ok=False, refusal=refusal) if why else CommandOutcome(ok=True)

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
