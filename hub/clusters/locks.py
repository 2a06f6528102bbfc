"""Who is locked: by this hub, whose locks people set and lift here, and by a signed document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cellward.identity.locks import Lock, LockSet, lock_of
from hub.clusters.errors import UNKNOWN_CLUSTER
from hub.clusters.model import LockView
from hub.documents.placing import present_clusters
from hub.store.changes import CLUSTERS, POLICY, ChangeBus
from hub.store.interfaces import ClusterRow, LockRow
from hub.store.shared import Remembered

if TYPE_CHECKING:
    from cellward.runtime.clock import Clock
    from hub.authority.interfaces import Locks
    from hub.policy.service import TufRepository
    from hub.store.interfaces import LockStore, Store, Tables


class OwnLocks:
    """What this hub locked, and nothing else."""

    def __init__(self, locks: LockStore) -> None:
        self._locks = locks

    async def current(self) -> LockSet:
        """All of them."""
        return LockSet(lock_of(row.kind, row.subject, row.reason) for row in await self._locks.list())

    async def signed(self) -> Sequence[Lock]:
        """None: a signed document is read elsewhere."""
        return ()


#: Locks that a signed document holds and this hub has verified.
SignedLocks = Callable[[], Awaitable[Sequence[Lock]]]


async def no_signed_locks() -> Sequence[Lock]:
    """Before there is a signed document with locks."""
    return ()


def signed_locks(policy: TufRepository) -> SignedLocks:
    """Return how the locks of the served policy set are read; an honest hub enforces what agents will."""

    async def read() -> Sequence[Lock]:
        return (await policy.revocations()).as_locks()

    return read


class LocksInForce:
    """Who is locked: what this hub locked, and what a signed document it can verify locks."""

    def __init__(self, locks: LockStore, changes: ChangeBus, signed: SignedLocks = no_signed_locks) -> None:
        self._locks = locks
        self._signed: Remembered[None, Sequence[Lock]] = Remembered(lambda _: signed(), changes, POLICY, bound=1)
        self._kept = Remembered(self._read, changes, CLUSTERS, POLICY, bound=1)

    async def current(self) -> LockSet:
        """All of them; read again when one changed."""
        return await self._kept.get(None)

    async def signed(self) -> Sequence[Lock]:
        """Those that a signed document holds."""
        return await self._signed.get(None)

    async def _read(self, _: None) -> LockSet:
        own = [lock_of(row.kind, row.subject, row.reason) for row in await self._locks.list()]
        return LockSet([*await self._signed.get(None), *own])


class LockBook:
    """Sets, lifts and lists locks. A lock only narrows, so a hub needs nobody's signature for one (design §2)."""

    def __init__(self, store: Store, clock: Clock, locks: Locks | None = None) -> None:
        self._store = store
        self._clock = clock
        self._locks = locks if locks is not None else OwnLocks(store.locks)

    async def would_hold(self, lock: Lock, by: str) -> LockView:
        """Say whom a lock would hold; raises fleet/unknown-cluster for a name there is not."""
        return _view(self._row(lock, by), await _checked(self._store, lock))

    async def lock(self, tables: Tables, lock: Lock, by: str) -> LockView:
        """Lock in a transaction; raises fleet/unknown-cluster for a name there is not."""
        clusters = await _checked(tables, lock)
        return _view(await tables.locks.put(self._row(lock, by)), clusters)

    async def unlock(self, tables: Tables, lock: Lock) -> LockView | None:
        """Lift a lock of this hub in a transaction and return it; None when there is none."""
        gone = await tables.locks.remove(lock.kind, lock.subject)
        return None if gone is None else _view(gone, await _about(tables, lock))

    async def list(self) -> tuple[LockView, ...]:
        """All locks, those of this hub and the signed ones, by their text."""
        clusters = await present_clusters(self._store)
        own = [_view(row, clusters) for row in await self._store.locks.list()]
        signed = [LockView(lock, _held_by(lock, clusters), signed=True) for lock in await self._locks.signed()]
        return tuple(sorted((*own, *signed), key=lambda view: (str(view.lock), view.signed)))

    def _row(self, lock: Lock, by: str) -> LockRow:
        return LockRow(lock.kind, lock.subject, lock.reason, self._clock.now(), by)


async def _about(tables: Tables, lock: Lock) -> tuple[ClusterRow, ...]:
    """Those whom a lock may hold: a thousand clusters are not read for one lock."""
    return tuple(row for row in await tables.clusters.known_as(lock.kind, lock.subject) if row.removed_at is None)


async def _checked(tables: Tables, lock: Lock) -> tuple[ClusterRow, ...]:
    clusters = await _about(tables, lock)
    if lock.kind == "cluster" and not clusters:
        raise UNKNOWN_CLUSTER(f"there is no cluster {lock.subject}", cluster=lock.subject)
    return clusters


def _view(row: LockRow, clusters: Iterable[ClusterRow]) -> LockView:
    lock = lock_of(row.kind, row.subject, row.reason)
    return LockView(lock, _held_by(lock, clusters), row.created_at, row.created_by)


def _held_by(lock: Lock, clusters: Iterable[ClusterRow]) -> tuple[str, ...]:
    one = LockSet([lock])
    return tuple(
        row.name
        for row in clusters
        if one.hit(cluster=row.name, uid=row.uid, serial=row.serial, key=row.spki_sha256) is not None
    )
