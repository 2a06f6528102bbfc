"""What a batch must be before the log looks at it: bounds, strict records, one writer, one unbroken run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from cellward.audit.chain import ChainState
from cellward.audit.errors import BAD_CHECKPOINT, BAD_RECORD, FORK, GAP, WRONG_CHAIN
from cellward.audit.record import AGENT_PREFIX, Record, parse_record, record_digest
from cellward.audit.statement import verify_statement
from cellward.audit.tree import leaf_hash
from hub.audit.errors import FOREIGN_REALM, TOO_LARGE
from hub.audit.model import AuditBatchIn

#: Most records and bytes of one batch.
MAX_RECORDS: Final = 4096
MAX_BYTES: Final = 8 * 1024**2
#: Records checked before other work of the hub gets a turn.
SLICE: Final = 128


@dataclass(frozen=True, slots=True)
class Leaf:
    """A checked record with everything that is computed from its bytes."""

    record: Record
    data: bytes
    digest: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked run of one writer's records; ``statement`` is what its key signed about the last of them."""

    origin: str
    uid: str
    cluster: str
    statement_spki: bytes
    epoch: int
    first_seq: int
    leaves: tuple[Leaf, ...]
    envelope: bytes
    statement: ChainState | None
    known_size: int

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record; the one before the first for an empty batch."""
        return self.first_seq + len(self.leaves) - 1


def make_leaf(record: Record, data: bytes) -> Leaf:
    """Return the leaf of a record whose canonical bytes are ``data``."""
    return Leaf(record, data, record_digest(data), leaf_hash(data))


async def check_batch(cluster: str, uid: str, realm: str, spki: bytes, batch: AuditBatchIn) -> Batch:
    """Return the batch, checked as far as that is possible without knowing the log; ``cluster`` is the certificate's.

    Raises audit/batch-too-large, audit/bad-record, audit/record-too-new, audit/foreign-realm, audit/wrong-chain,
    audit/gap, audit/fork, audit/bad-checkpoint.
    """
    if len(batch.records) > MAX_RECORDS or sum(map(len, batch.records)) > MAX_BYTES:
        raise TOO_LARGE(f"a batch holds at most {MAX_RECORDS} records and {MAX_BYTES} bytes")
    if batch.epoch < 1 or batch.first_seq < 1:
        raise BAD_RECORD("epoch and sequence number start at 1")
    origin = AGENT_PREFIX + uid
    leaves: list[Leaf] = []
    for number, data in enumerate(batch.records):
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        record = parse_record(data)
        _check_place(record, origin, realm, batch, number)
        if record.cluster not in {"", cluster}:
            raise WRONG_CHAIN(f"record {record.seq} names another cluster than {cluster}, which the certificate is of")
        if leaves and record.prev != leaves[-1].digest:
            raise FORK(f"record {record.seq} does not follow the record sent before it")
        leaves.append(make_leaf(record, data))
    statement = None
    if batch.checkpoint:
        statement = verify_statement(batch.checkpoint, realm, uid, spki)
        _check_statement(statement, batch, leaves)
    elif leaves:
        # An auditor takes no record for the agent's that its key did not sign, so neither does the log.
        raise BAD_CHECKPOINT("records came without a statement about the last of them")
    return Batch(
        origin=origin,
        uid=uid,
        cluster=cluster,
        statement_spki=spki,
        epoch=batch.epoch,
        first_seq=batch.first_seq,
        leaves=tuple(leaves),
        envelope=batch.checkpoint,
        statement=statement,
        known_size=batch.known_tree_size,
    )


def _check_place(record: Record, origin: str, realm: str, batch: AuditBatchIn, number: int) -> None:
    if record.realm != realm:
        raise FOREIGN_REALM(f"record {record.seq} is of realm {record.realm}")
    if record.origin != origin:
        raise WRONG_CHAIN(f"record {record.seq} is of {record.origin}, the certificate is of {origin}")
    if record.epoch != batch.epoch:
        raise WRONG_CHAIN(f"record {record.seq} is of epoch {record.epoch}, the batch of epoch {batch.epoch}")
    if record.seq != batch.first_seq + number:
        raise GAP(f"record {record.seq} came where {batch.first_seq + number} was announced")


def _check_statement(statement: ChainState, batch: AuditBatchIn, leaves: list[Leaf]) -> None:
    if not leaves:
        return
    last = leaves[-1]
    if (statement.epoch, statement.seq, statement.head) != (batch.epoch, last.record.seq, last.digest):
        raise BAD_CHECKPOINT("the statement is not about the last record of the batch")
