"""What the rest of the agent may ask of its durable state.

Every method is asynchronous because one writer thread serves all of them in order: what a call returns reflects every
call made before it, and a write is durable (fsync) when it returns. All writes raise ``spool/full`` when the disk or
the configured bound is reached; then nothing of that call was written and what was there before is untouched (V16).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem

#: Work on the state file that joins the transaction of another write: made by a store, run by the writer.
Also = Callable[[sqlite3.Connection], object]


class Floors(Protocol):
    """Sequence floors per (project, cell, environment); they never fall."""

    async def get(self, project: str, cell: str, environment: str) -> Floor | None:
        """Return the floor, or None when nothing was accepted yet."""
        ...

    async def set(self, project: str, cell: str, environment: str, floor: Floor, fallback: str = "") -> None:
        """Raise the floor; a lower sequence, or an equal one with another digest, is ``spool/floor-would-fall``.

        ``fallback`` is the release that this document returns to, empty for none; once set with a floor, it stays.
        """
        ...

    async def fallback(self, project: str, cell: str, environment: str) -> str:
        """Return the release that was set with the floor, empty for none."""
        ...

    async def all(self) -> Mapping[CellKey, Floor]:
        """Return every floor."""
        ...

    async def digest(self) -> str:
        """Return the digest over all floors as Hello and the anchor carry it."""
        ...


class TimeFloorStore(Protocol):
    """The latest time the agent's clock has shown (design §5: a step back is refused)."""

    async def get(self) -> datetime | None:
        """Return the floor, UTC."""
        ...

    async def advance(self, now: datetime) -> datetime:
        """Move the floor towards ``now``; return the later of the two, which is the time to decide by.

        Raises ``document/clock-stepped-back``.
        """
        ...


class Blobs(Protocol):
    """Bytes by the digest they were asked for; the reader verifies them again.

    The digest of a signed document is that of its payload, not of the envelope stored here, so this store cannot check.
    """

    async def get(self, digest: str) -> bytes | None:
        """Return the bytes, or None."""
        ...

    async def put(self, digest: str, data: bytes) -> None:
        """Store bytes that were verified to belong to ``digest``; idempotent."""
        ...

    async def drop(self, digests: Sequence[str]) -> None:
        """Drop these blobs; absent is fine."""
        ...

    async def keep_only(self, digests: Sequence[str]) -> int:
        """Drop every other blob; return how many went."""
        ...


class Inventory(Protocol):
    """One JSON document per cell namespace, written by ``agent.cells``."""

    async def get(self, namespace: str) -> Any:
        """Return the document, or None."""
        ...

    async def put(self, namespace: str, value: Any) -> None:
        """Replace the document."""
        ...

    def putting(self, namespace: str, value: Any) -> Also:
        """Return ``put`` as work that joins another write, so that neither is there without the other."""
        ...

    async def delete(self, namespace: str) -> None:
        """Forget the namespace; absent is fine."""
        ...

    async def namespaces(self) -> tuple[str, ...]:
        """Return all namespaces, sorted."""
        ...


class Closings(Protocol):
    """How often cells were closed by anything that raises no floor; the anchor keeps the total."""

    def add(self, namespace: str) -> None:
        """Count one closing; it becomes durable with the next record of the namespace."""
        ...


class Items(Protocol):
    """Desired items by key. ``StateDb`` has two sets: ``items`` as received, ``accepted`` as verified and taken."""

    async def list(self) -> tuple[DesiredItem, ...]:
        """Return all items, by key."""
        ...

    async def get(self, project: str, cell: str, environment: str) -> DesiredItem | None:
        """Return one item."""
        ...

    async def put(self, item: DesiredItem) -> None:
        """Store or replace the item of its key."""
        ...

    async def remove(self, project: str, cell: str, environment: str) -> None:
        """Forget the item; absent is fine."""
        ...


class Meta(Protocol):
    """Small named strings: revisions, hub epoch, pinned log key."""

    async def get(self, key: str) -> str | None:
        """Return the value, or None."""
        ...

    async def set(self, values: Mapping[str, str]) -> None:
        """Store all values in one transaction."""
        ...


class Outbox(Protocol):
    """Receipts that the hub has not acknowledged; the newest per cell wins, none is dropped otherwise."""

    async def put(self, key: CellKey, payload: bytes) -> int:
        """Store a payload and return its number, which grows."""
        ...

    async def pending(self) -> tuple[tuple[int, CellKey, bytes], ...]:
        """Return what is unacknowledged, oldest number first."""
        ...

    async def done(self, key: CellKey, number: int) -> None:
        """Drop the payload unless a newer one replaced it."""
        ...


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where the agent's audit chain stands: ``seq`` is that of the last record, 0 for none; ``head`` its digest."""

    epoch: int
    seq: int
    head: str


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One spooled audit record: exact canonical bytes as chained."""

    epoch: int
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogView:
    """The last checkpoint of the hub's log that the agent accepted; size 0 when none.

    ``hub_epoch`` is what the hub named its history then.
    """

    size: int = 0
    root: str = ""
    key_spki: bytes = b""
    note: bytes = b""
    hub_epoch: str = ""


class AuditSpool(Protocol):
    """Audit records from durable to acknowledged."""

    async def head(self) -> ChainHead:
        """Return the state of the chain."""
        ...

    async def peek(self, limit: int, max_bytes: int) -> tuple[StoredRecord, ...]:
        """Return the oldest records of the oldest unfreed epoch, contiguous, at least one if there is any."""
        ...

    async def free(self, epoch: int, seq: int, view: LogView) -> None:
        """Drop records up to and including (epoch, seq), and remember the checkpoint that allowed it, at once."""
        ...

    async def log_view(self) -> LogView:
        """Return the last accepted checkpoint."""
        ...

    async def depth(self) -> int:
        """Return how many records wait."""
        ...

    async def lost(self) -> int:
        """Return how many records were lost and are not yet counted in the chain."""
        ...


class StateDb(Protocol):
    """All of it; ``agent.spool.state.open_state`` makes the real one."""

    @property
    def floors(self) -> Floors:
        """Sequence floors."""
        ...

    @property
    def time_floor(self) -> TimeFloorStore:
        """The time floor."""
        ...

    @property
    def items(self) -> Items:
        """Desired items as received; nothing in them is verified."""
        ...

    @property
    def accepted(self) -> Items:
        """Desired items as verified and accepted."""
        ...

    @property
    def blobs(self) -> Blobs:
        """Bytes by digest."""
        ...

    @property
    def inventory(self) -> Inventory:
        """Inventories by namespace."""
        ...

    @property
    def closings(self) -> Closings:
        """How often cells were closed."""
        ...

    @property
    def meta(self) -> Meta:
        """Small named strings."""
        ...

    @property
    def outbox(self) -> Outbox:
        """Unacknowledged receipts."""
        ...

    @property
    def audit(self) -> AuditSpool:
        """The audit spool."""
        ...

    @property
    def uid(self) -> str:
        """The cluster uid: made once, never reused."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch of the audit chain since this start."""
        ...

    async def close(self) -> None:
        """Finish what was asked and close the file."""
        ...


@dataclass(frozen=True, slots=True)
class FloorsCopy:
    """All floors, as they are kept outside the state directory: of cells, and of the accepted policy's roles."""

    cells: Mapping[CellKey, Floor] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnchorState:
    """What is kept outside the state directory: to notice that it was emptied or restored, and all floors (V1).

    ``closings`` is how often cells were closed, in all.
    """

    uid: str
    epoch: int
    seq: int
    floors: FloorsCopy = FloorsCopy()
    closings: int = 0


class Anchor(Protocol):
    """A small record in another place (a Secret in the agent's namespace)."""

    async def load(self) -> AnchorState | None:
        """Return the record, None when there is none; raises when the place does not answer.

        One that is there and cannot be read is ``spool/anchor-damaged``.
        """
        ...

    async def save(self, state: AnchorState) -> None:
        """Replace the record; durable when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found wrong with the state at start; the recorder writes it into the new epoch's chain."""

    code: str
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)
