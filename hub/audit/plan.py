"""Decides, for one group of requests, what goes into the log: continuity, repeats, forks, new epochs.

A plan is made against one size of the log and thrown away when the store has moved. Invariants: a record enters the log
once; a batch enters whole, with the finding it causes, or not at all; two records that claim one place are a finding,
recorded once per chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cellward.audit.errors import FORK, GAP
from cellward.audit.record import HUB_ORIGIN, NO_RECORD, cell_of, encode_record, parse_record
from cellward.audit.tree import HASH_SIZE
from cellward.errors import CellwardError
from hub.audit.batch import Batch, Leaf, make_leaf
from hub.audit.errors import KEY_CHANGED, LOG_BEHIND, OLD_EPOCH
from hub.audit.tree import WIDTH
from hub.store.log import AuditChain, AuditEntry, AuditEvent, AuditRow, AuditStore, TileKey, WaitingEvent

#: Epoch of the hub's chain before any restore.
FIRST_EPOCH: Final = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a request ended: (epoch, seq) of a durable record, and its log index (None when there is none).

    ``count`` records up to that one stand side by side in the log; a batch of repeats may end before its last record.
    """

    epoch: int
    seq: int
    index: int | None
    count: int = 1


class Refusal(Exception):
    """A batch is refused.

    Attributes:
        expected: the sequence number the log wants next.
        finding: whether it is to be recorded.
        epoch: the newest epoch the log has of this writer, 0 for none.
    """

    def __init__(self, cause: CellwardError, expected: int, *, finding: bool, epoch: int = 0) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.expected = expected
        self.finding = finding
        self.epoch = epoch


class Chains:
    """Chain states as the store has them, remembered until the log is found to have moved."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._known: dict[str, AuditChain | None] = {}

    async def newest(self, origin: str) -> AuditChain | None:
        """Return a writer's chain in its newest epoch."""
        if origin not in self._known:
            self._known[origin] = await self._store.origin_state(origin)
        return self._known[origin]

    def remember(self, chains: Mapping[tuple[str, int], AuditChain]) -> None:
        """Take over what was just made durable; epochs come in order."""
        for (origin, epoch), chain in sorted(chains.items()):
            known = self._known.get(origin)
            if known is None or known.epoch <= epoch:
                self._known[origin] = chain

    def forget(self) -> None:
        """Drop everything: another process has written."""
        self._known.clear()


class Plan:
    """One transaction in the making.

    Args:
        store: to look up repeats and older epochs.
        chains: chain states at this size.
        size: size of the log.
        realm: realm of the hub's own records.
        now: their time.
    """

    def __init__(self, store: AuditStore, chains: Chains, *, size: int, realm: str, now: datetime) -> None:
        self._store = store
        self._known = chains
        self._realm = realm
        self._now = now
        self.size = size
        self.entries: list[AuditEntry] = []
        self.hashes: list[bytes] = []
        self.chains: dict[tuple[str, int], AuditChain] = {}
        self.placed: list[int] = []

    async def add_event(self, event: AuditEvent, at: datetime | None = None) -> Placed:
        """Put a record of the hub at the end of its chain; ``at`` is when it was, now unless it waited since then."""
        chain = self._planned(HUB_ORIGIN) or await self._known.newest(HUB_ORIGIN)
        if chain is None:
            chain = AuditChain(HUB_ORIGIN, FIRST_EPOCH, 0, NO_RECORD)
        if event.new_epoch:
            old = {"oldEpoch": str(chain.epoch), "oldSeq": str(chain.seq), "oldHead": chain.head}
            event = replace(event, details={**event.details, **old})
            chain = AuditChain(HUB_ORIGIN, chain.epoch + 1, 0, NO_RECORD)
        record = event.to_record(self._realm, chain.epoch, chain.seq + 1, chain.head, at or self._now)
        data = encode_record(record)
        # Read back: it is filed under what it says, not under what was left out or cut.
        leaf = make_leaf(parse_record(data), data)
        index = self._add(leaf, event.cluster)
        self.chains[HUB_ORIGIN, chain.epoch] = replace(chain, seq=record.seq, head=leaf.digest)
        return Placed(chain.epoch, record.seq, index)

    async def add_waiting(self, waiting: Sequence[WaitingEvent]) -> Placed:
        """Put what waited at the end of the hub's chain, in order; the append forgets it."""
        placed = Placed(FIRST_EPOCH, 0, None)
        for one in waiting:
            placed = await self.add_event(one.event, one.at)
            self.placed.append(one.number)
        return placed

    async def add_batch(self, batch: Batch) -> Placed:
        """Put what is new of a batch into the log; raises Refusal. At most one batch per writer and plan."""
        chain = await self._known.newest(batch.origin)
        if batch.known_size > self.size:
            cause = LOG_BEHIND(f"the agent has seen {batch.known_size} records of this log, which has {self.size}")
            raise Refusal(cause, chain.seq + 1 if chain is not None else 1, finding=False)
        if chain is None or batch.epoch > chain.epoch:
            return await self._add_epoch(batch, chain)
        if batch.epoch < chain.epoch:
            return await self._add_old(batch, chain)
        if batch.statement_spki != chain.statement_spki:
            raise Refusal(
                KEY_CHANGED("the batch is of another statement key than its epoch began with"),
                chain.seq + 1,
                finding=True,
            )
        return await self._extend(batch, chain)

    async def add_finding(self, batch: Batch, refusal: Refusal) -> None:
        """Record why a batch was refused, and that this was recorded."""
        gap = refusal.cause.code == GAP.code
        chain = await self._known.newest(batch.origin)
        await self.add_event(
            AuditEvent(
                actor=batch.origin,
                action="audit.gap" if gap else "audit.fork",
                object=f"Cluster//{batch.cluster}",
                decision="finding",
                cluster=batch.cluster,
                code=refusal.cause.code,
                reason=refusal.cause.message,
                details={
                    "epoch": str(batch.epoch),
                    "first": str(batch.first_seq),
                    "last": str(batch.last_seq),
                    "expected": str(refusal.expected),
                    "head": chain.head if chain is not None else NO_RECORD,
                },
            )
        )
        if refusal.cause.code == FORK.code and chain is not None:
            self.chains[chain.origin, chain.epoch] = replace(chain, forked=True)

    async def _add_epoch(self, batch: Batch, old: AuditChain | None) -> Placed:
        if batch.first_seq != 1:
            cause = GAP(f"epoch {batch.epoch} begins with record {batch.first_seq}", expected=1)
            raise Refusal(cause, 1, finding=True)
        chain = AuditChain(
            batch.origin,
            batch.epoch,
            0,
            NO_RECORD,
            uid=batch.uid,
            cluster=batch.cluster,
            statement_spki=batch.statement_spki,
        )
        if not batch.leaves:
            # Nothing to chain yet; the epoch begins with its first record.
            return Placed(batch.epoch, 0, None)
        if old is not None or batch.epoch != 1:
            await self.add_event(_new_epoch(batch, old))
        return await self._extend(batch, chain)

    async def _add_old(self, batch: Batch, newest: AuditChain) -> Placed:
        chain = await self._store.origin_state(batch.origin, batch.epoch)
        if chain is None or batch.last_seq > chain.seq:
            cause = OLD_EPOCH(f"epoch {batch.epoch} ended when epoch {newest.epoch} began")
            raise Refusal(cause, newest.seq + 1, finding=True, epoch=newest.epoch)
        return await self._extend(batch, chain)

    async def _extend(self, batch: Batch, chain: AuditChain) -> Placed:
        """Add what follows the chain's head, after comparing what is there already."""
        expected = chain.seq + 1
        if batch.first_seq > expected:
            cause = GAP(f"record {batch.first_seq} came, {expected} was expected", expected=expected)
            raise Refusal(cause, expected, finding=True)
        repeats = min(expected - batch.first_seq, len(batch.leaves))
        indexes = await self._compare(batch, chain, repeats)
        fresh = batch.leaves[repeats:]
        if fresh and fresh[0].record.prev != chain.head:
            cause = FORK(f"record {fresh[0].record.seq} does not follow the record that is in the log")
            raise Refusal(cause, expected, finding=not chain.forked)
        indexes += [self._add(leaf, batch.cluster) for leaf in fresh]
        new = replace(chain, cluster=batch.cluster)
        if fresh:
            new = replace(new, seq=batch.last_seq, head=fresh[-1].digest)
        ours = batch.statement_spki == chain.statement_spki  # repeats of an ended epoch may come under a newer key
        if ours and batch.leaves and batch.statement is not None and batch.statement.seq >= new.checkpoint_seq:
            new = replace(new, checkpoint=batch.envelope, checkpoint_seq=batch.statement.seq)
        if new != chain:
            self.chains[chain.origin, chain.epoch] = new
        if indexes:
            run = next((n for n in range(1, len(indexes)) if indexes[n] != indexes[n - 1] + 1), len(indexes))
            return Placed(chain.epoch, batch.first_seq + run - 1, indexes[run - 1], run)
        if not chain.seq:
            return Placed(chain.epoch, 0, None)
        stored = await self._store.chain_records(chain.origin, chain.epoch, chain.seq, chain.seq)
        return Placed(chain.epoch, chain.seq, stored[0].index)

    async def _compare(self, batch: Batch, chain: AuditChain, repeats: int) -> list[int]:
        """Compare repeated records byte for byte with the log; return their indexes."""
        if repeats <= 0:
            return []
        first = batch.first_seq
        stored = await self._store.chain_records(chain.origin, chain.epoch, first, first + repeats - 1)
        known = await self._known_hashes([row for row in stored if not row.record])
        ours = [leaf.data if row.record else leaf.hash for row, leaf in zip(stored, batch.leaves, strict=False)]
        if len(stored) != repeats or [row.record or known[row.index] for row in stored] != ours:
            cause = FORK(f"records {first} to {first + repeats - 1} are in the log with other bytes")
            raise Refusal(cause, chain.seq + 1, finding=not chain.forked)
        return [row.index for row in stored]

    async def _known_hashes(self, pruned: Sequence[AuditRow]) -> Mapping[int, bytes]:
        """Return the hashes of pruned records by index: all that is left to compare a repeated one with."""
        tiles = await self._store.tiles(sorted({TileKey(0, row.index // WIDTH) for row in pruned}))
        places = {row.index: row.index % WIDTH * HASH_SIZE for row in pruned}
        return {index: tiles[TileKey(0, index // WIDTH)][at : at + HASH_SIZE] for index, at in places.items()}

    def _planned(self, origin: str) -> AuditChain | None:
        planned = [chain for (name, _), chain in self.chains.items() if name == origin]
        return max(planned, key=lambda chain: chain.epoch, default=None)

    def _add(self, leaf: Leaf, cluster: str) -> int:
        """Add a leaf, to be found under the cluster the certificate proved, whatever the record says (V3)."""
        record = leaf.record
        index = self.size + len(self.entries)
        project, cell = cell_of(record)
        self.entries.append(
            AuditEntry(
                index=index,
                record=leaf.data,
                origin=record.origin,
                epoch=record.epoch,
                seq=record.seq,
                time=record.time,
                cluster=cluster,
                action=record.action,
                decision=record.decision,
                project=project,
                cell=cell,
            )
        )
        self.hashes.append(leaf.hash)
        return index


def _new_epoch(batch: Batch, old: AuditChain | None) -> AuditEvent:
    """Describe the new epoch of an agent: it lost its state, or was restored from a backup."""
    details = {"epoch": str(batch.epoch)}
    if old is not None:
        details |= {"oldEpoch": str(old.epoch), "oldSeq": str(old.seq), "oldHead": old.head}
    return AuditEvent(
        actor=batch.origin,
        action="audit.epoch",
        object=f"Cluster//{batch.cluster}",
        decision="finding",
        cluster=batch.cluster,
        reason=f"the agent began epoch {batch.epoch} of its audit chain",
        details=details,
    )
