"""The hash chain of one writer: (epoch, seq, prev), checked one record at a time.

Invariants: within an epoch sequence numbers have no gap, and each record names the digest of the one before it; an
epoch only ever grows and begins with sequence number 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from cellward.audit.errors import DUPLICATE, FORK, GAP, WRONG_CHAIN
from cellward.audit.record import NO_RECORD, Record, parse_record, record_digest


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a chain stands: ``seq`` of its last record in ``epoch`` (0 for none) and that record's digest ``head``."""

    epoch: int
    seq: int = 0
    head: str = NO_RECORD


def extend(state: ChainState, data: bytes) -> ChainState:
    """Return the state after a record whose bytes the caller made or checked itself."""
    return ChainState(state.epoch, state.seq + 1, record_digest(data))


def verify_record(state: ChainState, record: Record, data: bytes) -> ChainState:
    """Return the state after ``record``, whose exact bytes are ``data``.

    Raises audit/wrong-chain (another epoch), audit/duplicate (not after the last one), audit/gap (records are missing
    before it), audit/fork (it follows another record than the last one).
    """
    if record.epoch != state.epoch:
        raise WRONG_CHAIN(f"the record is of epoch {record.epoch}, the chain of epoch {state.epoch}")
    expected = state.seq + 1
    if record.seq < expected:
        raise DUPLICATE(f"record {record.seq} of epoch {state.epoch} is there already", expected=expected)
    if record.seq > expected:
        raise GAP(f"record {record.seq} of epoch {state.epoch} came, {expected} was expected", expected=expected)
    if record.prev != state.head:
        raise FORK(f"record {record.seq} of epoch {state.epoch} follows another record than {state.head}")
    return extend(state, data)


def verify_next(state: ChainState, data: bytes) -> ChainState:
    """Parse exact bytes and return the state after them; raises what ``parse_record`` and ``verify_record`` raise."""
    return verify_record(state, parse_record(data), data)
