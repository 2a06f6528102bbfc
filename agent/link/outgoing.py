"""What waits to go up: receipts (durable, until acknowledged), newest report per cell, command results, agent status.

Nothing is dropped silently: receipts are in the state file, reports are replaced only by newer ones of the same cell,
results are few because commands are. One instance lives as long as the process; sessions come and go.

An acknowledgement is believed also while the disk is full: the receipt then stays in the state file and is taken out of
it later. After a restart it goes up once more, and the hub knows it already.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import structlog

from agent.link.interfaces import CellReport, ReceiptFacts
from agent.link.messages import receipt_to_wire
from agent.spool.errors import CANNOT_WRITE
from agent.spool.interfaces import Outbox
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.wire.v1 import link_pb2

_log = structlog.get_logger()

#: Results of commands kept while offline; commands expire within minutes, so more than this is nonsense.
MAX_RESULTS = 256


class Outgoing:
    """The queue of one agent; see the module's text."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._reports: OrderedDict[CellKey, CellReport] = OrderedDict()
        self._results: list[link_pb2.CommandResult] = []
        self._status_due = False
        #: Acknowledged receipts that could not be taken out of the state file yet.
        self._acknowledged: set[tuple[CellKey, int]] = set()
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
        return tuple(each for each in await self._outbox.pending() if (each[1], each[0]) not in self._acknowledged)

    async def receipt_done(self, key: CellKey, number: int) -> None:
        """Forget an acknowledged receipt, unless a newer one replaced it."""
        self._acknowledged.add((key, number))
        for each in tuple(self._acknowledged):
            try:
                await self._outbox.done(*each)
            except CellwardError as error:
                if error.code not in CANNOT_WRITE:
                    raise
                _log.warning("receipt-kept", code=error.code, waiting=len(self._acknowledged))
                return
            self._acknowledged.discard(each)
