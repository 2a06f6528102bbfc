"""What the audit log asks of its store: rows, one atomic append, and reading; ``Store.audit`` implements it.

What the hub does is kept as an event, in the transaction that does it (``AuditStore.put_events``). Its place in the
log, which one process at a time gives, comes afterwards: the append that has its record forgets the event. So nothing
is in force without a record, and no record is lost or doubled by a process that ends in between (V13).

The rules of ``hub.store.interfaces`` hold here as well. What a record is, and why it is taken, is ``hub/audit``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from cellward.audit.record import HUB_ORIGIN, NO_RECORD, Record, encode_record
from hub.store.leases import Lease

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something the hub did, decided or found; it has no place in the log yet.

    Raises audit/bad-record when it is made of what no record can hold: what is kept can be given its place.
    """

    actor: str
    action: str
    object: str
    decision: str
    cluster: str = ""
    code: str = ""
    reason: str = ""
    rule: str = ""
    correlation_id: str = ""
    revision: int = 0
    details: Mapping[str, str] = field(default_factory=dict)
    new_epoch: bool = False

    def __post_init__(self) -> None:
        # Encoded once more at its place: 12 microseconds, for which no event can stand in the way of all that follow.
        encode_record(self.to_record("", 1, 1, NO_RECORD, _ANY_TIME))

    def to_record(self, realm: str, epoch: int, seq: int, prev: str, time: datetime) -> Record:
        """Return the record at its place in the hub's chain."""
        return Record(
            realm=realm,
            origin=HUB_ORIGIN,
            cluster=self.cluster,
            epoch=epoch,
            seq=seq,
            prev=prev,
            time=time,
            actor=self.actor or HUB_ORIGIN,
            action=self.action,
            object=self.object,
            decision=self.decision,
            code=self.code,
            reason=self.reason,
            rule=self.rule,
            correlation_id=self.correlation_id,
            revision=self.revision,
            details=self.details,
        )


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that was kept ``at`` and has no place in the log yet; ``number`` orders them."""

    number: int
    at: datetime
    event: AuditEvent


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
    """One transaction of the log: entries from ``expected_size`` on, and everything that follows from them.

    ``placed`` are the numbers of waiting events whose records are among the entries; ``root`` is that of the tree
    after them, empty when it is not known; ``lease`` is what it is done under, None for what every process may do.
    """

    expected_size: int
    entries: Sequence[AuditEntry] = ()
    chains: Sequence[AuditChain] = ()
    tiles: Mapping[TileKey, bytes] = field(default_factory=dict)
    placed: Sequence[int] = ()
    root: bytes = b""
    lease: Lease | None = None


def is_dense(batch: AuditAppend) -> bool:
    """Whether the entries of an append stand one behind the other from its expected size on."""
    return all(entry.index == batch.expected_size + at for at, entry in enumerate(batch.entries))


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Exact bytes of a record and its index in the log; ``cluster`` is the certificate's of whoever sent it (V3).

    Without bytes it was pruned: its hash is in the tree.
    """

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
    """Size of the log, the root kept with it (empty for none), and all chains, read in one transaction.

    Records below ``pruned`` are not here any more.
    """

    size: int
    chains: tuple[AuditChain, ...]
    root: bytes = b""
    pruned: int = 0


@dataclass(frozen=True, slots=True)
class AuditRun:
    """Records of one writer that stand side by side: ``count`` from sequence number ``seq`` and ``index`` on."""

    origin: str
    epoch: int
    seq: int
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class AuditTip:
    """Where the log ends and begins: size, the root that its last append kept (empty for none), first record kept."""

    size: int
    root: bytes = b""
    pruned: int = 0


class AuditStore(Protocol):
    """The audit log at rest. An append notifies ``audit``, an event that waits ``events``."""

    async def put_events(self, events: Sequence[AuditEvent]) -> None:
        """Keep what the hub does, decides or found until it has its place; in the transaction that does it."""
        ...

    async def waiting(self, limit: int) -> tuple[WaitingEvent, ...]:
        """Return events that have no place yet, oldest first."""
        ...

    async def append(self, batch: AuditAppend) -> None:
        """Write all of it in one durable transaction.

        Raises store/moved when the log has another size, an entry is not where the log goes on or is there already, or
        a placed event does not wait any more; store/lease-moved when another one has the lease it is done under.
        """
        ...

    async def size(self) -> int:
        """Return how many records the log has."""
        ...

    async def tip(self) -> AuditTip:
        """Return size and root of the log at one moment."""
        ...

    async def entries(self, start: int, end: int) -> tuple[AuditEntry, ...]:
        """Return records with ``start`` <= index < ``end`` with everything their rows say."""
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
        """Return a writer's records by sequence number, ends included; pruned ones without their bytes."""
        ...

    async def prune(self, first: int, end: int, runs: Sequence[AuditRun]) -> None:
        """Forget the records with ``first`` <= index < ``end`` except where they stood, in one transaction.

        Raises store/moved unless ``first`` is where the log begins and the log is longer than ``end``.
        """
        ...
