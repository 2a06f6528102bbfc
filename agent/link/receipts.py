"""Receipts as they go up: signed with the statement key, which no hub certified."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.audit.statement import StatementKey
from agent.link.client import LinkClient
from agent.link.interfaces import ReceiptFacts
from cellward.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class SignedReceipts:
    """Signs each outcome of a desired item with the statement key before the link takes it; satisfies ``OnReceipt``."""

    statement: StatementKey
    link: LinkClient
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
