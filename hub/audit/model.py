"""What goes into the log and what comes back, free of any wire format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditBatchIn:
    """A run of records of one epoch, in order, as an agent sent it.

    Attributes:
        records: exact bytes, the first one is ``first_seq``.
        checkpoint: DSSE statement over the last record, empty for none.
        known_tree_size: size of the last log checkpoint the agent accepted, 0 for none.
    """

    epoch: int
    first_seq: int
    records: tuple[bytes, ...]
    checkpoint: bytes = b""
    known_tree_size: int = 0


@dataclass(frozen=True, slots=True)
class AuditAckOut:
    """What is durable, and the proof. With ``refused_code`` nothing of the batch was taken.

    After audit/old-epoch ``epoch`` is the newest one the log has of this writer.

    ``range_proof`` covers the last ``proved`` records up to ``seq``; a batch whose repeated records lie apart in the
    log is acknowledged piece by piece.
    """

    epoch: int
    seq: int
    checkpoint: bytes = b""
    leaf_index: int = 0
    consistency: tuple[bytes, ...] = ()
    refused_code: str = ""
    expected_seq: int = 0
    proved: int = 0
    range_proof: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexedRecord:
    """A record of the log: its index and exact bytes, and the cluster whose certificate brought it, empty for the hub.

    For a record of the hub ``cluster`` is the one it is about.
    """

    index: int
    record: bytes
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The signed tree head; ``root`` is a digest, ``note`` a C2SP signed note."""

    size: int
    root: str
    note: bytes
