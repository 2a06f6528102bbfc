"""What the authority needs from others: a place for tokens and bindings, and a record of what it decided.

The two store protocols are the narrow part of ``hub.store.interfaces`` that is used here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from cellward.identity.locks import Lock, LockSet
    from hub.store.interfaces import ClusterRow, LockRow
    from hub.store.log import AuditEvent

T = TypeVar("T")


class Events(Protocol):
    """Where the hub's decisions are kept with what they decide, for the audit log (V13)."""

    async def put_events(self, events: Sequence[AuditEvent]) -> None:
        """Keep events in the transaction that does what they tell of, or in one of their own."""
        ...


class TokenGrant(Protocol):
    """What a spent token grants: one certificate for one cluster name."""

    @property
    def cluster(self) -> str:
        """Name of the cluster the token is bound to."""
        ...


class Tokens(Protocol):
    """Join tokens at rest: hashes only."""

    async def put(self, token_hash: str, cluster: str, expires_at: datetime) -> None:
        """Keep a new token."""
        ...

    async def live(self, token_hashes: Sequence[str], now: datetime) -> frozenset[str]:
        """Those of these hashes whose token has not expired, spent or not."""
        ...

    async def spend(self, token_hash: str, spki_sha256: str, now: datetime) -> TokenGrant:
        """Spend it for one key, atomically; the same key may spend it again until it expires.

        Raises an error of the store for a token that is unknown, expired, or spent by another key.
        """
        ...


class Locks(Protocol):
    """Who may not speak, by whatever a lock can name."""

    async def current(self) -> LockSet:
        """All locks that hold now: those of this hub, and the signed ones it can verify."""
        ...

    async def signed(self) -> Sequence[Lock]:
        """Those among them that a verified signed document holds, and no hub lifts."""
        ...


class OwnLocks(Protocol):
    """This hub's own locks."""

    async def put(self, lock: LockRow) -> LockRow:
        """Keep a lock; one that is there already stays as it is."""
        ...

    async def list(self) -> tuple[LockRow, ...]:
        """All of them."""
        ...


class Clusters(Protocol):
    """Clusters and what is bound to their names."""

    async def get(self, name: str) -> ClusterRow | None:
        """The cluster of this name, or None."""
        ...

    async def keys_of(self, uids: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Digests of the TLS keys bound to each of these uids; a uid that nobody has is left out."""
        ...

    async def name_of_uid(self, uid: str) -> str | None:
        """Name a uid is bound to, or None; a uid belongs to one name only."""
        ...

    async def bind(
        self,
        name: str,
        uid: str,
        spki_sha256: str,
        statement_spki: bytes,
        generation: int,
        serial: str,
        previous_spki_sha256: str = "",
        generation_floor: int = 0,
    ) -> object:
        """Bind uid, keys and certificate to the name; the floor never goes down."""
        ...


class IdentityTables(Protocol):
    """What a decision about an identity reads and writes, in one transaction."""

    @property
    def clusters(self) -> Clusters:
        """Bindings."""
        ...

    @property
    def tokens(self) -> Tokens:
        """Join tokens."""
        ...

    @property
    def locks(self) -> OwnLocks:
        """Locks of this hub."""
        ...

    @property
    def audit(self) -> Events:
        """Records."""
        ...


class IdentityStore(IdentityTables, Protocol):
    """The narrow part of the store."""

    async def transact(self, job: Callable[[IdentityTables], Awaitable[T]]) -> T:
        """Run ``job`` in one transaction; raises what it raises, and then nothing was written."""
        ...
