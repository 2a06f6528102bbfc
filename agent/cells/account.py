"""What is said and kept of one cell beside the work on it: records, receipts, and what is over."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.documents import KeptDocuments
from agent.cells.errors import UNHEALTHY
from agent.cells.evidence import is_isolated
from agent.cells.interfaces import OnReceipt
from agent.cells.keeping import Keeping
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.outcomes import Outcome
from agent.link.interfaces import ReceiptFacts
from agent.verify.refusals import FINDINGS, action_of


class Account:
    """Gives account of one cell."""

    def __init__(
        self,
        cell: Cell,
        recorder: RecorderPort,
        keeping: Keeping,
        documents: KeptDocuments,
        on_receipt: OnReceipt,
    ) -> None:
        self._cell = cell
        self._recorder = recorder
        self._keeping = keeping
        self._documents = documents
        self._on_receipt = on_receipt

    async def record_failure(self, effect: do.RecordFailure) -> Outcome:
        """Put on record that the rollout failed."""
        entry = self._health_entry("failed", effect.work.reason)
        await self._recorder.record_or_count(entry)
        return on.FailureRecorded

    async def send(self, effect: do.Send) -> Outcome:
        """Record a refusal, then send the receipt (V13: durable first)."""
        answer = effect.answer
        item = answer.item
        for refusal in answer.refusals:
            action = action_of(refusal.code)
            if action == "cell.decide":
                continue  # the decision itself is on record
            entry = Entry(
                action,
                self._subject,
                "finding" if refusal.code in FINDINGS else "deny",
                code=refusal.code,
                rule=refusal.rule,
                reason=refusal.reason,
                correlation_id=answer.correlation,
                revision=item.revision,
                details={"deploymentDigest": item.deployment_digest},
            )
            await self._recorder.record(entry)
        await self._on_receipt(
            ReceiptFacts(
                revision=item.revision,
                project=item.project,
                cell=item.cell,
                environment=item.environment,
                deployment_digest=item.deployment_digest,
                accepted=not answer.refusals,
                refusals=answer.refusals,
                correlation_id=answer.correlation,
            )
        )
        return partial(on.Answered, answer=answer)

    async def remember_jobs(self, _: do.RememberJobs) -> Outcome:
        """Save which jobs are done."""
        if self._cell.remember_done():
            await self._keeping.save(self._cell, self._cell.record)
        return on.Noted

    async def keep_proof(self) -> None:
        """Save what was measured since the last turn; of what is not isolated, or ends, nothing is kept."""
        record, evidence = self._cell.record, self._cell.evidence
        if evidence is None or evidence == record.proof or not is_isolated(record):
            return
        await self._keeping.save(self._cell, replace(record, isolation=evidence.state, proof=evidence))

    async def close_rollout(self, effect: do.CloseRollout) -> Outcome:
        """End the rollout. To say that it is over changes nothing in the cluster.

        Left open on a full disk, a release that has long been healthy could still be taken back: so it is counted.
        """
        ended = replace(self._cell.record, rollout_started="")
        if not effect.outcome:
            await self._keeping.save(self._cell, ended)
            return on.Noted
        if effect.outcome == "done":
            ended = replace(ended, settled_release=ended.release_digest)
        await self._keeping.save_counted(self._cell, ended, self._health_entry(effect.outcome, effect.reason))
        return on.Noted

    async def drop_documents(self, _: do.DropDocuments) -> Outcome:
        """Drop what the cell does not need any more."""
        await self._documents.supersede(self._cell.record)
        return on.Noted

    @property
    def _subject(self) -> str:
        return f"Cell/{self._cell.record.namespace}"

    def _health_entry(self, decision: str, reason: str) -> Entry:
        record = self._cell.record
        return Entry(
            "cell.health",
            self._subject,
            decision,
            code=UNHEALTHY.code if reason else "",
            reason=reason,
            details={"deploymentDigest": record.deployment_digest, "releaseDigest": record.release_digest},
        )
