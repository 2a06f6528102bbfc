"""What agents fetch: documents placed on them, policy targets and metadata; and which timestamp there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cellward.wire.codec import MAX_CARRIED, MAX_CARRIED_OF_ITEM, DesiredItem
from cellward.wire.v1 import content_pb2
from hub.policy.service import TufRepository
from hub.store.changes import DOCUMENTS, POLICY, ChangeBus
from hub.store.documents import DocumentStore
from hub.store.shared import Remembered

#: Content kept in memory, bytes: for documents and targets, for metadata, and for whole sets of it, each.
CONTENT_BYTES = 16 * 1024**2
#: What remembering an absence weighs, bytes.
_ABSENT = 256


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
    """That a version is absent is remembered: every agent asks for the next root, and a new one is always announced."""
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
