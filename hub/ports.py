"""Adapters between rooms, used by ``hub.app`` alone: each gives one room the narrow port another room asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from cellward.identity.locks import Lock, LockSet, lock_of
from cellward.wire.codec import MAX_CARRIED, MAX_CARRIED_OF_ITEM, DesiredItem
from cellward.wire.v1 import content_pb2
from hub.api.interfaces import ApiToken
from hub.authority.tokens import JoinTokens
from hub.policy.service import TufRepository
from hub.store.changes import CLUSTERS, DOCUMENTS, POLICY, ChangeBus
from hub.store.documents import DocumentStore
from hub.store.interfaces import ClusterRow, ClusterStore, LockStore, Tables
from hub.store.shared import Remembered, Together
from hub.store.tokens import ApiTokenRow, ApiTokenStore
from hub.sync.interfaces import ClusterBinding, Standing

#: Content kept in memory, bytes: for documents and targets, for metadata, and for whole sets of it, each.
CONTENT_BYTES = 16 * 1024**2
#: Bindings of clusters kept in memory.
BINDINGS = 10_000
#: What remembering an absence weighs, bytes.
_ABSENT = 256


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


class Locks:
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


class Directory:
    """``hub.sync`` asks who is known; the store answers. Bindings are remembered until one of them changes."""

    def __init__(self, clusters: ClusterStore, locks: Locks, changes: ChangeBus) -> None:
        self._clusters = clusters
        self._locks = locks
        self._rows = Together(clusters.get_many, "cluster-rows")
        self._bindings = Remembered(self._read, changes, CLUSTERS, bound=BINDINGS)

    async def binding(self, cluster: str) -> ClusterBinding | None:
        """Binding of a cluster, None before somebody joined under the name."""
        return await self._bindings.get(cluster)

    async def used(self, cluster: str, spki_sha256: str) -> None:
        """The newest certificate was used."""
        await self._clusters.used(cluster, spki_sha256)

    async def moved(self, cluster: str, platform_uid: str, platform_ca: str) -> None:
        """Note where the cluster's installation runs."""
        await self._clusters.set_platform(cluster, platform_uid, platform_ca)

    async def standing(self) -> Standing:
        """Who may not speak."""
        locks = await self._locks.current()
        found = await self._clusters.standing()
        uids = locks.subjects("agent")
        names = await self._clusters.names_of_uids(uids) if uids else {}
        return Standing(locks, {name: uid for uid, name in names.items()}, found.removed, found.floors)

    async def _read(self, cluster: str) -> ClusterBinding | None:
        row = (await self._rows.join(cluster)).get(cluster)
        return _binding(row) if row is not None and row.uid and row.removed_at is None else None


def _binding(row: ClusterRow) -> ClusterBinding:
    return ClusterBinding(
        row.name,
        row.uid,
        row.statement_spki,
        row.generation,
        spki_sha256=row.spki_sha256,
        previous_spki_sha256=row.previous_spki_sha256,
        generation_floor=row.generation_floor,
        bound_at=row.bound_at,
        platform_uid=row.platform_uid,
        platform_ca=row.platform_ca,
    )


class Content:
    """``hub.sync`` serves bytes by digest: documents placed on whoever asks, policy targets to all; and TUF metadata.

    After a change every agent of the fleet asks for the same few, so they are kept in bounded memory, and all of it is
    forgotten when documents or policy change, in this process or another one: an envelope may gain a signature, there
    is a newer timestamp, and a restored store may hold other metadata.
    """

    def __init__(
        self,
        documents: DocumentStore,
        policy: TufRepository,
        changes: ChangeBus,
        placed: Callable[[str], Awaitable[frozenset[str]]],
        *,
        bound: int = CONTENT_BYTES,
    ) -> None:
        self._documents = documents
        self._placed = placed
        self._policy = policy
        self._digests = Remembered(self._digest, changes, DOCUMENTS, POLICY, bound=bound, weigh=_size_of_found)
        self._metadata = Remembered(self._role, changes, POLICY, bound=bound, weigh=_size_or_absent)
        self._sets = Remembered(self._set, changes, POLICY, bound=bound, weigh=_size_or_absent)

    async def by_digest(self, cluster: str, digest: str) -> bytes | None:
        """Document envelope that this cluster is given, or target, which everybody is."""
        found = await self._digests.get(digest)
        if found is None:
            return None
        data, is_document = found
        # Configuration of others: for a cluster that it was not placed on it does not exist.
        return data if not is_document or digest in await self._placed(cluster) else None

    async def carried(self, item: DesiredItem) -> Sequence[tuple[str, bytes]]:
        """Documents that travel with an item; an item is its cluster's own, so whoever is sent it is given them."""
        found: list[tuple[str, bytes]] = []
        room = MAX_CARRIED_OF_ITEM
        for digest in (item.deployment_digest, *item.evidence):
            held = await self._digests.get(digest)
            if held is not None and held[1] and len(held[0]) <= min(room, MAX_CARRIED):
                found.append((digest, held[0]))
                room -= len(held[0])
        return found

    async def tuf(self, role: str, version: int | None) -> bytes | None:
        """TUF metadata, the newest when ``version`` is None."""
        return await self._metadata.get((role, version))

    async def policy_set(self, root_version: int, snapshot_version: int) -> bytes | None:
        """Serialised ``PolicyFiles`` for an agent that holds these versions."""
        return await self._sets.get((root_version, snapshot_version))

    async def _set(self, held: tuple[int, int]) -> bytes | None:
        newer = await self._policy.newer(*held)
        if newer is None:
            return None
        message = content_pb2.PolicyFiles(targets=newer.targets)
        for file in newer.metadata:
            name = content_pb2.TufMetadata(role=file.role, version=file.version)
            message.metadata.add(name=name, data=file.data)
        return message.SerializeToString()

    async def _digest(self, digest: str) -> tuple[bytes, bool] | None:
        row = await self._documents.get(digest)
        if row is not None:
            return row.envelope, True
        target = await self._policy.fetch_target(digest)
        return None if target is None else (target, False)

    async def _role(self, key: tuple[str, int | None]) -> bytes | None:
        return await self._policy.fetch(*key)


def _size_of_found(found: tuple[bytes, bool] | None) -> int | None:
    """Absent content is not remembered: a target that arrives alone tells nobody."""
    return None if found is None else len(found[0])


def _size_or_absent(data: bytes | None) -> int | None:
    """That a version is absent is remembered: every agent asks for the next root, and a new one is always told."""
    return _ABSENT if data is None else len(data)


class PolicyPosition:
    """``hub.sync`` tells agents which timestamp there is."""

    def __init__(self, policy: TufRepository, changes: ChangeBus) -> None:
        self._policy = policy
        self._version = Remembered(self._read, changes, POLICY, bound=1)

    async def timestamp_version(self) -> int:
        """Version of the newest timestamp, 0 for none."""
        return await self._version.get(None)

    async def _read(self, _: None) -> int:
        return await self._policy.timestamp_version()


@dataclass(frozen=True, slots=True)
class Enrolment:
    """``hub.api`` mints join tokens."""

    tokens: JoinTokens

    async def mint(
        self, cluster: str, *, lifetime: timedelta, replace: bool = False, tables: Tables | None = None
    ) -> str:
        """Make a token bound to one cluster name (V6)."""
        tokens = tables.tokens if tables is not None else None
        return await self.tokens.mint(cluster, lifetime=lifetime, replace=replace, tokens=tokens)


@dataclass(frozen=True, slots=True)
class BearerTokens:
    """``hub.api`` looks up who a bearer token stands for, and keeps new ones."""

    tokens: ApiTokenStore

    async def lookup(self, token_hash: str) -> ApiToken | None:
        """The token of this hash, expired or not."""
        return _token(await self.tokens.get(token_hash))

    async def list(self) -> tuple[ApiToken, ...]:
        """All tokens by subject."""
        return tuple(ApiToken(**asdict(row)) for row in await self.tokens.list())


def _token(row: ApiTokenRow | None) -> ApiToken | None:
    return None if row is None else ApiToken(**asdict(row))
