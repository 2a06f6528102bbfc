"""What the audit log asks of its store: rows, one atomic append, and reading; ``Store.audit`` implements it.

The rules of ``hub.store.interfaces`` hold here as well. What a record is, and why it is taken, is ``hub/audit``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A record at its place in the log, with the columns it can be found by."""

    index: int
    record: bytes
    origin: str
    epoch: int
    seq: int
    time: datetime
    cluster: str = ""
    action: str = ""
    decision: str = ""
    project: str = ""
    cell: str = ""


@dataclass(frozen=True, slots=True)
class AuditChain:
    """Where one writer's chain stands in one epoch.

    Attributes:
        checkpoint: newest statement (DSSE envelope) of the writer over this epoch, empty for none.
        checkpoint_seq: sequence number it is about.
        forked: two different records claimed one place; already recorded as a finding.
    """

    origin: str
    epoch: int
    seq: int
    head: str
    uid: str = ""
    cluster: str = ""
    statement_spki: bytes = b""
    checkpoint: bytes = b""
    checkpoint_seq: int = 0
    forked: bool = False


class TileKey(NamedTuple):
    """A tile of the log's tree (C2SP tlog-tiles): up to 256 hashes of tree level ``8 * level``."""

    level: int
    number: int


@dataclass(frozen=True, slots=True)
class AuditAppend:
    """One transaction of the log: entries from ``expected_size`` on, and everything that follows from them."""

    expected_size: int
    entries: Sequence[AuditEntry] = ()
    chains: Sequence[AuditChain] = ()
    tiles: Mapping[TileKey, bytes] = field(default_factory=dict)


def is_dense(batch: AuditAppend) -> bool:
    """Whether the entries of an append stand one behind the other from its expected size on."""
    return all(entry.index == batch.expected_size + at for at, entry in enumerate(batch.entries))


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Exact bytes of a record and its index in the log; ``cluster`` is the certificate's of whoever sent it (V3)."""

    index: int
    record: bytes
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What records to return; an empty field does not filter. ``cell`` is ``cell`` or ``project/cell``."""

    cluster: str = ""
    action: str = ""
    decision: str = ""
    cell: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class AuditSnapshot:
    """Size of the log and all chains, read in one transaction."""

    size: int
    chains: tuple[AuditChain, ...]


class AuditStore(Protocol):
    """The audit log at rest. An append notifies ``audit``."""

    async def append(self, batch: AuditAppend) -> None:
        """Write all of it in one durable transaction.

        Raises store/moved when the log has another size, or an entry is not where the log goes on or is there already.
        """
        ...

    async def size(self) -> int:
        """Return how many records the log has."""
        ...

    async def origin_state(self, origin: str, epoch: int | None = None) -> AuditChain | None:
        """Return a writer's chain in an epoch, in its newest one when None."""
        ...

    async def snapshot(self) -> AuditSnapshot:
        """Return size and chains at one moment; chains by origin and epoch."""
        ...

    async def tiles(self, keys: Sequence[TileKey]) -> Mapping[TileKey, bytes]:
        """Return tiles, as far as they exist; a tile is 32 bytes per hash."""
        ...

    async def records(
        self, cursor: int, limit: int, filters: AuditFilter | None = None, end: int | None = None
    ) -> tuple[AuditRow, ...]:
        """Return matching records with ``cursor`` <= index < ``end``, oldest first."""
        ...

    async def chain_records(self, origin: str, epoch: int, first_seq: int, last_seq: int) -> tuple[AuditRow, ...]:
        """Return a writer's records by sequence number, ends included."""
        ...
