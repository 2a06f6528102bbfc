"""Audit records from the spool to the hub's log, in order, freed only when the log proves that it has them (V13)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc.aio
import structlog

from agent.audit.errors import LOG_REFUSED
from agent.audit.installed import InstalledHub
from agent.audit.interfaces import Entry, RecorderPort
from agent.audit.logproof import OTHER, Proof, accept
from agent.audit.patience import Patience
from agent.audit.statement import StatementKey
from agent.link.calls import hub_call
from agent.link.channels import ChannelHolder
from agent.link.errors import AUDIT_NOT_TAKEN, HUB_UNAVAILABLE, LOG_KEY_CHANGED, LOG_KEY_UNKNOWN, OTHER_HUB
from agent.spool.audit import SqliteAuditSpool
from agent.spool.interfaces import ChainHead, LogView, StoredRecord
from cellward.audit.checkpoint import log_origin
from cellward.audit.record import record_digest
from cellward.audit.vkey import parse_vkey
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import telemetry_pb2, telemetry_pb2_grpc

_log = structlog.get_logger()

#: Condition set by this module.
CONDITION = "audit-push"
#: Records and bytes of one batch at most; the hub takes messages of 2 MiB.
BATCH_RECORDS = 1000
BATCH_BYTES = 1024 * 1024
#: Seconds an acknowledgement may take.
ACK_TIMEOUT = 30.0
#: Refusals after which the log will never take the epoch they are about; what waits is chained again.
_ENDED = frozenset({"audit/gap", "audit/fork", "audit/old-epoch", "audit/key-changed", "audit/bad-record"})
#: The hub's log is shorter than what this agent has seen of it.
_BEHIND = "audit/log-behind"
#: What the hub's log may do that belongs into the record; a hub that is merely away does not.
_FINDINGS = frozenset({LOG_REFUSED.code, LOG_KEY_CHANGED.code, AUDIT_NOT_TAKEN.code})


class AuditPush:
    """Pushes the spool of one agent.

    Args:
        channels: the current channel.
        spool: the audit spool.
        recorder: for findings about the log.
        statement: signs a checkpoint over each batch.
        installed: which hub the settings name, and whose log is remembered.
        realm: realm of the installation.
        uid: cluster uid.
        timer: the agent's clock.
        health: gets the condition ``audit-push``.
        interval: seconds between looks at the spool while it is empty.
        backoff: delays after failures.
    """

    def __init__(  # noqa: PLR0913 - the composition root names every part
        self,
        channels: ChannelHolder,
        spool: SqliteAuditSpool,
        recorder: RecorderPort,
        statement: StatementKey,
        installed: InstalledHub,
        *,
        realm: str,
        uid: str,
        timer: Timer,
        health: HealthRegistry,
        interval: float = 1.0,
        backoff: FullJitter | None = None,
    ) -> None:
        self._channels = channels
        self._spool = spool
        self._recorder = recorder
        self._statement = statement
        self._installed = installed
        self._realm = realm
        self._uid = uid
        self._origin = log_origin(realm)
        self._timer = timer
        self._health = health
        self._interval = interval
        self._backoff = backoff if backoff is not None else FullJitter()
        self._announced = ""
        self._hub_epoch = ""
        #: Apart: an epoch that ended just before the hub was known to be restored must not delay the one after that.
        self._patience = {forgets: Patience(timer) for forgets in (False, True)}
        self._reported: set[str] = set()

    def on_log_origin(self, vkey: str, hub_epoch: str) -> None:
        """Hear which key the hub says its log has, and which history; compared with what is known when that matters."""
        self._announced, self._hub_epoch = vkey, hub_epoch

    async def _another_hub(self) -> None:
        """Begin a new epoch for the log of another hub, and forget the log and its key of the hub before.

        Only for a hub that the installation names: none brings it about. What waits goes to the new log; the first
        record says where the old one was seen to end. Raises ``spool/unwritable``.
        """
        reason = "the installation names another hub, whose log begins again"
        entry = Entry("audit.rollback", "AuditLog//hub", "finding", code=OTHER_HUB.code, reason=reason)
        await self._recorder.begin_epoch(entry, forget_log="", forget_key=True)

    async def run(self) -> None:
        """Push until cancelled; whatever fails is a condition, and the records stay where they are."""
        while True:
            channel = self._channels.channel
            try:
                if channel is not None:
                    with hub_call("the audit stream"):
                        await self._stream(channel)
            except CellwardError as error:
                if await self._began_anew(error):
                    continue
                await self._failed(error)
                await self._backoff.wait(self._timer)
            else:
                await self._timer.sleep(self._interval)

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        """Push on one stream until the channel is replaced; opened only when there is something to push."""
        changed = self._channels.changed
        if not await self._spool.depth():
            return
        if await self._installed.is_another():
            await self._another_hub()
        # Before the first key is pinned: whose it is must be known for good.
        await self._installed.remember()
        view = await self._pinned_view()
        call: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushAudit()
        try:
            while not changed.is_set():
                records = await self._spool.peek(BATCH_RECORDS, BATCH_BYTES)
                if not records:
                    self._health.set(CONDITION, ok=True)
                    await self._timer.sleep(self._interval)
                    continue
                await call.write(self._batch(records, view))
                async with asyncio.timeout(ACK_TIMEOUT):
                    ack = await call.read()
                if ack is grpc.aio.EOF:
                    raise HUB_UNAVAILABLE("the hub closed the audit stream")
                view = await self._settle(records, view, ack)
                self._backoff.reset()
                self._reported.clear()
            await call.done_writing()
        except TimeoutError as error:
            raise HUB_UNAVAILABLE(f"no acknowledgement within {ACK_TIMEOUT:g} s") from error
        finally:
            call.cancel()

    async def _settle(self, records: tuple[StoredRecord, ...], view: LogView, ack: telemetry_pb2.AuditAck) -> LogView:
        """Check an acknowledgement and free what it proves."""
        first, last = records[0], records[-1]
        if ack.refused_code:
            raise AUDIT_NOT_TAKEN(
                f"the hub refused records {first.seq} to {last.seq} of epoch {first.epoch} ({ack.refused_code});"
                f" it expects {ack.expected_seq}",
                remote_code=ack.refused_code,
                expected=ack.expected_seq,
                epoch=ack.epoch,
            )
        if ack.epoch != first.epoch or not first.seq <= ack.seq <= last.seq:
            raise LOG_REFUSED(
                f"the hub acknowledged record {ack.seq} of epoch {ack.epoch}, it was sent {first.seq} to {last.seq}"
                f" of epoch {first.epoch}"
            )
        freed = [record.data for record in records[: ack.seq - first.seq + 1]]
        if ack.proved != len(freed):
            raise LOG_REFUSED(f"the hub acknowledged {len(freed)} records and proves {ack.proved}")
        proof = Proof(ack.checkpoint, ack.leaf_index, list(ack.range_proof), list(ack.consistency))
        new = replace(accept(view, self._origin, freed, proof), hub_epoch=self._hub_epoch)
        await self._spool.free(ack.epoch, ack.seq, new)
        return new

    async def _pinned_view(self) -> LogView:
        """Return the last accepted checkpoint with the pinned key; the first key announced is pinned."""
        if not self._announced:
            raise LOG_KEY_UNKNOWN("the hub has not named its log yet")
        if "+" not in self._announced:
            raise LOG_KEY_UNKNOWN("the hub names its log but not the log's key")
        origin, key = parse_vkey(self._announced)
        if origin != self._origin:
            raise LOG_REFUSED(f"the hub's log is {origin!r}, this realm's is {self._origin!r}")
        pinned = await self._spool.pin_log_key(key)
        if pinned != key:
            raise LOG_KEY_CHANGED("the hub announces another log key than at first contact")
        return await self._spool.log_view()

    def _batch(self, records: tuple[StoredRecord, ...], view: LogView) -> telemetry_pb2.AuditBatch:
        last = records[-1]
        head = ChainHead(last.epoch, last.seq, record_digest(last.data))
        return telemetry_pb2.AuditBatch(
            epoch=last.epoch,
            first_seq=records[0].seq,
            records=[record.data for record in records],
            checkpoint=self._statement.checkpoint(self._realm, self._uid, head),
            known_tree_size=view.size,
        )

    async def _began_anew(self, error: CellwardError) -> bool:
        """Begin a new epoch when the log will never take the present one, so that nothing is stuck or lost.

        The log is forgotten only when it cannot prove what was seen *and* the hub names another history of its own; who
        only claims that leaves a finding in this chain that holds the size and root it denies.
        """
        remote = error.details.get("remote_code", "")
        seen = (await self._spool.log_view()).hub_epoch
        restored = bool(seen) and bool(self._hub_epoch) and seen != self._hub_epoch
        differs = remote == _BEHIND or error.details.get("history") == OTHER
        if not (remote in _ENDED or (restored and differs)) or not self._patience[restored].allows():
            return False
        details = {"expected": error.details.get("expected", ""), "hubEpoch": self._hub_epoch}
        entry = Entry(
            "audit.rollback", "AuditLog//hub", "finding", code=remote or error.code, reason=error.message,
            details=details,
        )  # fmt: skip
        try:
            await self._recorder.begin_epoch(
                entry, after=int(error.details.get("epoch", 0)), forget_log=self._hub_epoch if restored else None
            )
        except CellwardError as obstacle:
            _log.error("audit-epoch-not-begun", code=obstacle.code, reason=obstacle.message)
            return False
        return True

    async def _failed(self, error: CellwardError) -> None:
        self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
        _log.warning("audit-push-failed", code=error.code, reason=error.message)
        if error.code not in _FINDINGS or error.code in self._reported:
            return
        # A log that does not prove what it says is a finding, once until it proves something again.
        self._reported.add(error.code)
        action = "audit.fork" if error.code == LOG_REFUSED.code else "audit.checkpoint"
        entry = Entry(action, "AuditLog//hub", "finding", code=error.code, reason=error.message)
        await self._recorder.record_or_count(entry)
