"""The agent's durable state with two points of observation: an acknowledged receipt and a finished resume.

Everything is done by the real state; nothing is changed on the way through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.link.desired import HUB_EPOCH, REVISION
from agent.spool.state import SqliteStateDb
from agent.spool.stores import SqliteMeta, SqliteOutbox
from cellward.documents.names import CellKey
from cellward.wire.v1 import link_pb2


class StampedOutbox:
    """The outbox; tells when the hub has acknowledged a receipt."""

    def __init__(self, real: SqliteOutbox, acked: Callable[[str, bool], None]) -> None:
        self._real = real
        self._acked = acked
        self._sent: dict[int, tuple[str, bool]] = {}

    async def put(self, key: CellKey, payload: bytes) -> int:
        """Store a receipt."""
        number = await self._real.put(key, payload)
        receipt = link_pb2.Receipt.FromString(payload)
        self._sent[number] = (receipt.deployment_digest, receipt.accepted)
        return number

    async def pending(self) -> tuple[tuple[int, CellKey, bytes], ...]:
        """Return what is unacknowledged."""
        return await self._real.pending()

    async def done(self, key: CellKey, number: int) -> None:
        """Drop an acknowledged receipt."""
        sent = self._sent.pop(number, None)
        if sent is not None:
            self._acked(*sent)
        await self._real.done(key, number)


class StampedMeta:
    """Small strings; tells when the link has confirmed that it holds what the hub holds."""

    def __init__(self, real: SqliteMeta, synced: Callable[[], None]) -> None:
        self._real = real
        self._synced = synced

    async def get(self, key: str) -> str | None:
        """Return a value."""
        return await self._real.get(key)

    async def set(self, values: Mapping[str, str]) -> None:
        """Store values."""
        await self._real.set(values)
        # Both are written together only after the items' digest was compared with the hub's.
        if REVISION in values and HUB_EPOCH in values:
            self._synced()


class StampedState:
    """A StateDb; see the module's text."""

    def __init__(self, real: SqliteStateDb, *, acked: Callable[[str, bool], None], synced: Callable[[], None]) -> None:
        self.floors = real.floors
        self.time_floor = real.time_floor
        self.items = real.items
        self.accepted = real.accepted
        self.blobs = real.blobs
        self.inventory = real.inventory
        self.closings = real.closings
        self.meta = StampedMeta(real.meta, synced)
        self.outbox = StampedOutbox(real.outbox, acked)
        self.audit = real.audit
        self.uid = real.uid
        self.epoch = real.epoch
        self._real = real

    async def close(self) -> None:
        """Close the real state."""
        await self._real.close()
