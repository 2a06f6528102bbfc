"""The simulated side: a cell engine that verifies as the real one does, applies nothing, and answers signed.

Real: fetching by digest, signatures, scope, facts, floors, durable acceptance, the audit record, the receipt. Missing:
rendering, OPA's decision, the API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.audit.interfaces import Entry, RecorderPort, RefusalText
from agent.audit.statement import StatementKey
from agent.link.client import LinkClient
from agent.link.interfaces import CellReport, CommandOutcome, CommandRequest, ReceiptFacts
from agent.policy.position import PolicyPosition
from agent.spool.interfaces import StateDb
from agent.verify.intake import Intake, VerifiedCell
from agent.verify.refusals import is_passing, refusal_of
from bench.fleet.policy import AcceptedPolicy
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Clock
from cellward.wire.codec import DesiredItem


@dataclass
class SimulatedEngine:
    """Carries out desired items of one agent; also the link's ports (``agent.link.interfaces.LinkPorts``)."""

    intake: Intake
    state: StateDb
    recorder: RecorderPort
    statement: StatementKey
    accepted: AcceptedPolicy
    clock: Clock
    realm: str
    on_failed: Callable[[CellwardError], None]
    sender: LinkClient | None = None
    _newest: dict[CellKey, DesiredItem] = field(default_factory=dict)
    _reports: dict[CellKey, CellReport] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def on_item(self, item: DesiredItem) -> None:
        """Take an item; the work happens beside the link, as with the real engine."""
        self._newest[CellKey(*item.key)] = item
        task = asyncio.create_task(self._work(item))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Send it on."""
        if self.sender is not None:
            await self.sender.send_receipt(receipt)

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """Forget an item that nothing came of."""
        return CellKey(*item.key) not in self._reports

    async def on_full(self) -> Sequence[CellKey]:
        """Keep all: the benchmark ends no cell."""
        return ()

    async def on_policy_notice(self, version: int) -> None:  # noqa: ARG002 - of the interface
        """Refresh policy."""
        self.accepted.notice()

    async def on_command(self, command: CommandRequest) -> CommandOutcome:  # noqa: ARG002 - of the interface
        """Do nothing: the benchmark sends no commands."""
        return CommandOutcome(ok=True)

    def policy(self) -> PolicyPosition:
        """Versions of the accepted set."""
        current = self.accepted.current
        if current is None:
            return PolicyPosition()
        return PolicyPosition(
            root=current.root_version,
            timestamp=current.timestamp_version,
            snapshot=current.snapshot_version,
            targets=current.targets_version,
            snapshot_expires_unix=int(current.snapshot_expires.timestamp()),
            bundles=dict(current.digests),
        )

    def authority(self) -> str:
        """The hub has no say here."""
        return "authors"

    def reports(self) -> Sequence[CellReport]:
        """State of every cell."""
        return tuple(self._reports.values())

    async def _work(self, item: DesiredItem) -> None:
        backoff = FullJitter()
        while self._newest.get(CellKey(*item.key)) is item:
            try:
                await self._carry_out(item)
            except CellwardError as error:
                if not is_passing(error):
                    self.on_failed(error)
                    await self._answer(item, (refusal_of(error, item.deployment_digest),))
                    return
                await backoff.wait()
            else:
                return

    async def _carry_out(self, item: DesiredItem) -> None:
        verified = await self.intake.verify(item)
        if not isinstance(verified, VerifiedCell):
            return
        deployment, release = verified.deployment, verified.release
        await self.state.floors.set(
            *item.key, Floor(deployment.document.sequence, deployment.digest, deployment.document.issued_at)
        )
        entry = Entry(
            "cell.apply",
            f"Cell/{item.project}/{item.cell}",
            "done",
            revision=item.revision,
            details={"deploymentDigest": deployment.digest, "releaseDigest": release.digest},
        )
        await self.recorder.record(entry)
        await self._answer(item, ())
        self._reports[CellKey(*item.key)] = report = CellReport(
            project=item.project,
            cell=item.cell,
            environment=item.environment,
            phase="ready",
            deployment_digest=deployment.digest,
            release_digest=release.digest,
            version=release.document.version,
        )
        if self.sender is not None:
            await self.sender.send_report(report)

    async def _answer(self, item: DesiredItem, refusals: tuple[RefusalText, ...]) -> None:
        fields: Mapping[str, str] = {
            "project": item.project,
            "cell": item.cell,
            "environment": item.environment,
            "deployment_digest": item.deployment_digest,
        }
        statement = self.statement.receipt(
            realm=self.realm,
            uid=self.state.uid,
            revision=item.revision,
            accepted=not refusals,
            refusals=refusals,
            at=self.clock.now(),
            **fields,
        )
        receipt = ReceiptFacts(
            revision=item.revision, accepted=not refusals, refusals=refusals, statement=statement, **fields
        )
        if self.sender is not None:
            await self.sender.send_receipt(receipt)
