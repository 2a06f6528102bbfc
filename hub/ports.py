"""Adapters between rooms, used by ``hub.app`` alone: each gives one room the narrow port another room asks for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

from hub.api.interfaces import ApiToken
from hub.authority.tokens import JoinTokens
from hub.policy.service import TufRepository
from hub.store.changes import DOCUMENTS, POLICY, ChangeBus
from hub.store.interfaces import ApiTokenStore, ClusterRow, ClusterStore, DocumentStore
from hub.sync.interfaces import ClusterBinding

#: Immutable content kept in memory, bytes.
CONTENT_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Directory:
    """``hub.sync`` asks who is known; the store answers."""

    clusters: ClusterStore

    async def binding(self, cluster: str) -> ClusterBinding | None:
        """Binding of a cluster, None before somebody joined under the name."""
        row = await self.clusters.get(cluster)
        return _binding(row) if row is not None and row.uid else None

    async def locked(self) -> frozenset[str]:
        """Names of all locked clusters."""
        return await self.clusters.locked()


def _binding(row: ClusterRow) -> ClusterBinding:
    return ClusterBinding(row.name, row.uid, row.statement_spki, row.generation, row.locked)


class Content:
    """``hub.sync`` serves bytes by digest: documents first, then policy targets; and TUF metadata.

    Bytes of a digest and metadata of a version are kept in bounded memory: after a change every agent of the fleet asks
    for the same few. All of it is forgotten when documents or policy change, in this process or another one: an
    envelope may gain a signature, and a restored store may hold other metadata. What is absent, and the newest of
    anything, is looked up each time.
    """

    def __init__(
        self, documents: DocumentStore, policy: TufRepository, changes: ChangeBus, *, bound: int = CONTENT_BYTES
    ) -> None:
        self._documents = documents
        self._policy = policy
        self._bound = bound
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._changes = changes
        self._stamp: tuple[int, ...] = ()

    async def by_digest(self, digest: str) -> bytes | None:
        """Document envelope or target."""
        kept = self._recall((digest, 0))
        if kept is not None:
            return kept
        row = await self._documents.get(digest)
        return self._keep((digest, 0), row.envelope if row is not None else await self._policy.fetch_target(digest))

    async def tuf(self, role: str, version: int | None) -> bytes | None:
        """TUF metadata, the newest when ``version`` is None."""
        if version is None:
            return await self._policy.fetch(role, None)
        return self._recall((role, version)) or self._keep((role, version), await self._policy.fetch(role, version))

    def _recall(self, key: tuple[str, int]) -> bytes | None:
        stamp = self._changes.stamp(DOCUMENTS, POLICY)
        if stamp != self._stamp:
            self._stamp, self._size = stamp, 0
            self._kept.clear()
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _keep(self, key: tuple[str, int], data: bytes | None) -> bytes | None:
        if data is not None and key not in self._kept and len(data) <= self._bound:
            self._kept[key] = data
            self._size += len(data)
            while self._size > self._bound:
                self._size -= len(self._kept.popitem(last=False)[1])
        return data


@dataclass(frozen=True, slots=True)
class PolicyPosition:
    """``hub.sync`` tells agents which timestamp there is."""

    policy: TufRepository

    async def timestamp_version(self) -> int:
        """Version of the newest timestamp, 0 for none."""
        return await self.policy.timestamp_version()


@dataclass(frozen=True, slots=True)
class Enrolment:
    """``hub.api`` mints join tokens."""

    tokens: JoinTokens

    async def mint(self, cluster: str, *, lifetime: timedelta, replace: bool = False) -> str:
        """Make a token bound to one cluster name (V6)."""
        return await self.tokens.mint(cluster, lifetime=lifetime, replace=replace)


@dataclass(frozen=True, slots=True)
class BearerTokens:
    """``hub.api`` looks up who a bearer token stands for."""

    tokens: ApiTokenStore

    async def lookup(self, token_hash: str) -> ApiToken | None:
        """The token of this hash, expired or not."""
        row = await self.tokens.get(token_hash)
        return None if row is None else ApiToken(row.token_hash, row.subject, row.role, row.expires_at)
