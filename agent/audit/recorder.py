"""The recorder: builds records, chains them, and returns when they are durable (V13).

Invariants: a record and the chain's head move in one transaction; a record that could not be written is counted, and
the count enters the chain before the next record does; each record carries the last checkpoint of the hub's log that
this agent accepted, so that a log that shows two faces contradicts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from agent.spool.audit import SqliteAuditSpool
from agent.spool.interfaces import ChainHead, Finding, LogView
from cellward.audit.record import Record, encode_record, record_digest
from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Condition that says whether records can be written.
CONDITION = "audit-spool"
#: Errors for which a repair or a narrowing goes on without its record.
_CANNOT_WRITE = frozenset({"spool/full", "spool/unwritable"})

#: Action of the record that counts losses.
LOSS_ACTION = "audit.lost"
#: Action of the record of something wrong found in the state at start.
FINDING_ACTION = "state.finding"


class Recorder:
    """Writes the audit chain of one agent; satisfies ``RecorderPort``.

    Args:
        spool: where the chain lives.
        clock: the agent's clock.
        realm: realm of the installation.
        uid: cluster uid; the origin of every record.
        cluster: returns the name in the certificate, empty before the first join.
        actor: returns who acts when nobody else is named (the agent's SPIFFE ID); default is the origin.
        health: told whether records can be written.
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
        #: Records written and lost since the start, for metrics.
        self.written = 0
        self.lost = 0

    async def record_findings(self) -> int:
        """Chain the findings made when the state was opened; return how many. Call once at start."""

        def build(head: ChainHead, view: LogView, finding: Finding) -> tuple[bytes, str]:
            return self._build(
                head, view, FINDING_ACTION, "state", "finding", code=finding.code, reason=finding.reason,
                details=finding.details,
            )  # fmt: skip

        return await self._spool.append_findings(build)

    async def record(  # noqa: PLR0913 - one record has this many fields
        self,
        action: str,
        object: str,  # noqa: A002 - the field's name in the record
        decision: str,
        *,
        code: str = "",
        rule: str = "",
        reason: str = "",
        correlation_id: str = "",
        details: Mapping[str, str] | None = None,
        revision: int = 0,
        actor: str = "",
    ) -> int:
        """Write one record and return its sequence number once it is durable.

        Raises:
            CellwardError: ``spool/full``, ``spool/unwritable``: the action must not be done.
        """

        def build(head: ChainHead, view: LogView) -> tuple[bytes, str]:
            return self._build(
                head, view, action, object, decision, code=code, rule=rule, reason=reason,
                correlation_id=correlation_id, details=details or {}, revision=revision, actor=actor,
            )  # fmt: skip

        try:
            seq = await self._spool.append(build, self._build_loss)
        except CellwardError as error:
            if error.code in _CANNOT_WRITE:
                self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
            raise
        self._health.set(CONDITION, ok=True)
        self.written += 1
        return seq

    async def record_or_count(  # noqa: PLR0913 - as above
        self,
        action: str,
        object: str,  # noqa: A002 - the field's name in the record
        decision: str,
        *,
        code: str = "",
        rule: str = "",
        reason: str = "",
        correlation_id: str = "",
        details: Mapping[str, str] | None = None,
        revision: int = 0,
        actor: str = "",
    ) -> int | None:
        """Like ``record``; when it cannot be written the loss is counted and None returned."""
        try:
            return await self.record(
                action, object, decision, code=code, rule=rule, reason=reason, correlation_id=correlation_id,
                details=details, revision=revision, actor=actor,
            )  # fmt: skip
        except CellwardError as error:
            if error.code not in _CANNOT_WRITE:
                raise
            _log.error("audit-record-lost", action=action, object=object, code=error.code)
            self.lost += 1
            await self._spool.count_loss()
            return None

    def _build_loss(self, head: ChainHead, view: LogView, lost: int) -> tuple[bytes, str]:
        return self._build(
            head, view, LOSS_ACTION, "audit", "finding", code="spool/full",
            reason=f"{lost} records could not be written and are lost", details={"count": str(lost)},
        )  # fmt: skip

    def _build(  # noqa: PLR0913 - one record has this many fields
        self,
        head: ChainHead,
        view: LogView,
        action: str,
        object: str,  # noqa: A002 - the field's name in the record
        decision: str,
        *,
        code: str = "",
        rule: str = "",
        reason: str = "",
        correlation_id: str = "",
        details: Mapping[str, str],
        revision: int = 0,
        actor: str = "",
    ) -> tuple[bytes, str]:
        record = Record(
            realm=self._realm,
            origin=self._origin,
            cluster=self._cluster(),
            epoch=head.epoch,
            seq=head.seq + 1,
            prev=head.head,
            time=self._clock.now(),
            actor=actor or (self._actor() if self._actor is not None else "") or self._origin,
            action=action,
            object=object,
            decision=decision,
            code=code,
            reason=reason,
            rule=rule,
            correlation_id=correlation_id,
            revision=revision,
            details=details,
            log_size=view.size,
            log_root=view.root,
        )
        data = encode_record(record)
        return data, record_digest(data)
