"""The recorder: builds records, chains them, and returns when they are durable (V13).

Invariants: a record and the chain's head move in one transaction; a record that could not be written is counted, and
the count enters the chain before the next record does; each record carries the last checkpoint of the hub's log that
this agent accepted, so that a log that shows two faces contradicts itself.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace

import structlog

from agent.audit.interfaces import Entry
from agent.spool.audit import SqliteAuditSpool, settle
from agent.spool.errors import CANNOT_WRITE
from agent.spool.interfaces import Also, ChainHead, Finding, LogView
from cellward.audit.record import Record, encode_record, record_digest
from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Condition that says whether records can be written.
CONDITION = "audit-spool"

#: Action of the record that counts losses.
LOSS_ACTION = "audit.lost"
#: Action of the record of something wrong found in the state at start.
FINDING_ACTION = "state.finding"
_INTERRUPTED = "the agent ended before it recorded this, so whether it was done is not certain"


class Recorder:
    """Writes the audit chain of one agent; satisfies ``RecorderPort``.

    Args:
        spool: where the chain lives.
        clock: the agent's clock.
        realm: realm of the installation.
        uid: cluster uid; the origin of every record.
        cluster: returns the name in the certificate, empty before the first join.
        actor: returns who acts when nobody else is named (the agent's SPIFFE ID); default is the origin.
        health: shows whether records can be written.
    """

    def __init__(
        self,
        spool: SqliteAuditSpool,
        clock: Clock,
        *,
        realm: str,
        uid: str,
        cluster: Callable[[], str],
        health: HealthRegistry,
        actor: Callable[[], str] | None = None,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._realm = realm
        self._origin = f"agent:{uid}"
        self._cluster = cluster
        self._actor = actor
        self._health = health
        # What an earlier process owed is not replaced by what this one owes.
        self._process = secrets.token_hex(8)
        #: Records written and lost since the start, for metrics.
        self.written = 0
        self.lost = 0

    async def record_findings(self) -> int:
        """Chain the findings made when the state was opened, and what an earlier process owed; return how many.

        Call once at start. Raises what ``record`` raises; then nothing is forgotten.
        """

        def build(head: ChainHead, view: LogView, finding: Finding) -> tuple[bytes, str]:
            entry = Entry(
                FINDING_ACTION, "state", "finding", code=finding.code, reason=finding.reason, details=finding.details
            )
            return self._build(head, view, entry)

        def build_owed(head: ChainHead, view: LogView, text: str) -> tuple[bytes, str]:
            entry = Entry(**json.loads(text))
            reason = f"{entry.reason}; {_INTERRUPTED}".removeprefix("; ")
            return self._build(head, view, replace(entry, decision="finding", reason=reason))

        return await self._spool.append_findings(build, build_owed)

    async def record(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int:
        """Write one record, and ``also`` with it, and return its sequence number once it is durable.

        Raises:
            CellwardError: ``spool/full``, ``spool/unwritable``: the action must not be done.
        """

        def build(head: ChainHead, view: LogView) -> tuple[bytes, str]:
            return self._build(head, view, entry)

        try:
            seq = await self._spool.append(build, self._build_loss, self._both(also, owed))
        except CellwardError as error:
            if error.code in CANNOT_WRITE:
                self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
            raise
        self._health.set(CONDITION, ok=True)
        self.written += 1
        return seq

    async def record_or_count(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int | None:
        """Like ``record``; when it cannot be written the loss is counted, ``also`` done, and None returned."""
        try:
            return await self.record(entry, also=also, owed=owed)
        except CellwardError as error:
            if error.code not in CANNOT_WRITE:
                raise
            _log.error("audit-record-lost", action=entry.action, object=entry.object, code=error.code)
            self.lost += 1
            await self._spool.count_loss(self._both(also, owed))
            return None

    async def owe(self, key: str, entry: Entry) -> None:
        """Note which record is owed for what is done next."""
        text = json.dumps({**asdict(entry), "details": dict(entry.details)})
        try:
            await self._spool.owe(self._debt(key), text)
        except CellwardError as error:
            if error.code not in CANNOT_WRITE:
                raise
            _log.error("audit-debt-not-noted", action=entry.action, object=entry.object, code=error.code)

    async def begin_epoch(
        self, entry: Entry, *, after: int = 0, forget_log: str | None = None, forget_key: bool = False
    ) -> int:
        """Begin a new epoch with ``entry``, completed by where the old one and the log stood; return its number."""

        def build(old: ChainHead, seen: LogView, head: ChainHead, view: LogView) -> tuple[bytes, str]:
            stood = {
                "oldEpoch": str(old.epoch), "oldSeq": str(old.seq), "oldHead": old.head, "size": str(seen.size),
                "root": seen.root,
            }  # fmt: skip
            return self._build(head, view, replace(entry, details={**entry.details, **stood}))

        epoch = await self._spool.begin_epoch(build, after=after, forget_log=forget_log, forget_key=forget_key)
        _log.error("audit-epoch-begun", epoch=epoch, code=entry.code, reason=entry.reason)
        return epoch

    def _both(self, also: Also | None, owed: str) -> Also | None:
        """Return the work that goes with a record: the caller's, and the end of a debt."""
        if not owed:
            return also

        def job(connection: sqlite3.Connection) -> None:
            if also is not None:
                also(connection)
            settle(connection, self._debt(owed))

        return job

    def _debt(self, key: str) -> str:
        return f"{self._process}/{key}"

    def _build_loss(self, head: ChainHead, view: LogView, lost: int) -> tuple[bytes, str]:
        reason = f"{lost} records could not be written and are lost"
        entry = Entry(
            LOSS_ACTION, "audit", "finding", code="spool/full", reason=reason, details={"count": str(lost)}
        )  # fmt: skip
        return self._build(head, view, entry)

    def _build(self, head: ChainHead, view: LogView, entry: Entry) -> tuple[bytes, str]:
        record = Record(
            realm=self._realm,
            origin=self._origin,
            cluster=self._cluster(),
            epoch=head.epoch,
            seq=head.seq + 1,
            prev=head.head,
            time=self._clock.now(),
            actor=entry.actor or (self._actor() if self._actor is not None else "") or self._origin,
            action=entry.action,
            object=entry.object,
            decision=entry.decision,
            code=entry.code,
            reason=entry.reason,
            rule=entry.rule,
            correlation_id=entry.correlation_id,
            revision=entry.revision,
            details=entry.details,
            log_size=view.size,
            log_root=view.root,
        )
        data = encode_record(record)
        return data, record_digest(data)
