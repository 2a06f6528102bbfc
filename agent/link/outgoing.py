"""What waits to go up: receipts (durable, until acknowledged), newest report per cell, command results, agent status.

Nothing is dropped silently: receipts are in the state file, reports are replaced only by newer ones of the same cell,
results are few because commands are. One instance lives as long as the process; sessions come and go.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from agent.audit.interfaces import RefusalText
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.spool.interfaces import CellKey, Outbox
from cellward.wire.v1 import link_pb2, types_pb2

#: Results of commands kept while offline; commands expire within minutes, so more than this is nonsense.
MAX_RESULTS = 256


class Outgoing:
    """The queue of one agent; see the module's text."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._reports: OrderedDict[CellKey, CellReport] = OrderedDict()
        self._results: list[link_pb2.CommandResult] = []
        self._status_due = False
        #: Set whenever something was added; the session's sender clears it.
        self.wake = asyncio.Event()

    async def add_receipt(self, receipt: ReceiptFacts) -> None:
        """Make a receipt durable; raises ``spool/full``."""
        key = CellKey(receipt.project, receipt.cell, receipt.environment)
        await self._outbox.put(key, receipt_to_wire(receipt).SerializeToString())
        self.wake.set()

    def add_report(self, report: CellReport) -> None:
        """Replace the waiting report of this cell."""
        key = CellKey(report.project, report.cell, report.environment)
        self._reports.pop(key, None)
        self._reports[key] = report
        self.wake.set()

    def add_result(self, result: link_pb2.CommandResult) -> None:
        """Queue the outcome of a command."""
        self._results.append(result)
        del self._results[:-MAX_RESULTS]
        self.wake.set()

    def request_status(self) -> None:
        """Send the agent's status soon."""
        self._status_due = True
        self.wake.set()

    def take_status(self) -> bool:
        """Return whether a status was requested, and forget it."""
        due, self._status_due = self._status_due, False
        return due

    def reports(self) -> tuple[tuple[CellKey, CellReport], ...]:
        """Return unacknowledged reports, oldest first, one per cell."""
        return tuple(self._reports.items())

    def report_done(self, key: CellKey, report: CellReport) -> None:
        """Forget an acknowledged report, unless a newer one replaced it."""
        if self._reports.get(key) is report:
            del self._reports[key]

    def results(self) -> tuple[link_pb2.CommandResult, ...]:
        """Return unacknowledged results, oldest first."""
        return tuple(self._results)

    def result_done(self, command_id: str) -> None:
        """Forget an acknowledged result."""
        self._results = [result for result in self._results if result.id != command_id]

    async def receipts(self) -> tuple[tuple[int, CellKey, bytes], ...]:
        """Return unacknowledged receipts, oldest first."""
        return await self._outbox.pending()

    async def receipt_done(self, key: CellKey, number: int) -> None:
        """Forget an acknowledged receipt, unless a newer one replaced it."""
        await self._outbox.done(key, number)


def refusal_to_wire(refusal: RefusalText) -> types_pb2.Refusal:
    """Message of a refusal."""
    return types_pb2.Refusal(
        code=refusal.code, rule=refusal.rule, object=refusal.object, reason=refusal.reason, next=refusal.next
    )


def receipt_to_wire(receipt: ReceiptFacts) -> link_pb2.Receipt:
    """Message of a receipt."""
    return link_pb2.Receipt(
        revision=receipt.revision,
        project=receipt.project,
        cell=receipt.cell,
        environment=receipt.environment,
        deployment_digest=receipt.deployment_digest,
        accepted=receipt.accepted,
        refusals=_refusals(receipt.refusals),
        statement=receipt.statement,
    )


def report_to_wire(report: CellReport) -> link_pb2.CellStatus:
    """Message of a cell's state."""
    return link_pb2.CellStatus(
        project=report.project,
        cell=report.cell,
        environment=report.environment,
        phase=link_pb2.CellPhase.Value(f"CELL_PHASE_{report.phase.upper()}"),
        deployment_digest=report.deployment_digest,
        release_digest=report.release_digest,
        objects_ready=report.objects_ready,
        objects_total=report.objects_total,
        isolation=report.isolation,
        refusals=_refusals(report.refusals),
        drift_repairs=report.drift_repairs,
        version=report.version,
    )


def _refusals(refusals: Sequence[RefusalText]) -> list[types_pb2.Refusal]:
    return [refusal_to_wire(refusal) for refusal in refusals]
