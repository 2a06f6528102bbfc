"""In-memory implementations of what the authority needs: tokens, bindings, and a record of decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from cellward.identity import keys
from cellward.identity.locks import Lock, LockSet, lock_of, parse_lock
from cellward.identity.x509 import make_ca
from cellward.runtime.clock import Clock
from hub.authority.authority import Authority
from hub.authority.copies import Copies
from hub.authority.errors import BAD_TOKEN
from hub.authority.interfaces import IdentityTables
from hub.authority.model import HubKeys
from hub.authority.service import IdentityService
from hub.authority.tokens import Grant, JoinTokens
from hub.store.interfaces import ClusterRow, LockRow
from hub.store.log import AuditEvent

T = TypeVar("T")

REALM = "sha256:" + "ab" * 32


@dataclass
class FakeAudit:
    """Keeps what was recorded."""

    entries: list[AuditEvent] = field(default_factory=list)

    async def put_events(self, events: Sequence[AuditEvent]) -> None:
        """Keep events."""
        self.entries += events


@dataclass
class FakeTokens:
    """Tokens by hash; spending is atomic because nothing is awaited in between."""

    rows: dict[str, tuple[str, datetime, str]] = field(default_factory=dict)

    async def put(self, token_hash: str, cluster: str, expires_at: datetime) -> None:
        """Keep a new token."""
        self.rows[token_hash] = (cluster, expires_at, "")

    async def live(self, token_hashes: Sequence[str], now: datetime) -> frozenset[str]:
        """Those that have not expired."""
        return frozenset(key for key in token_hashes if key in self.rows and self.rows[key][1] > now)

    async def spend(self, token_hash: str, spki_sha256: str, now: datetime) -> Grant:
        """Spend by one key."""
        cluster, expires_at, spent_by = self.rows.get(token_hash, ("", now, ""))
        if not cluster or now >= expires_at or spent_by not in ("", spki_sha256):
            raise BAD_TOKEN("the token is unknown, expired or spent")
        self.rows[token_hash] = (cluster, expires_at, spki_sha256)
        return Grant(cluster, replace=False)


@dataclass
class FakeClusters:
    """Clusters by name."""

    rows: dict[str, ClusterRow] = field(default_factory=dict)
    #: Called after each change of a binding or lock.
    on_change: list[Callable[[], None]] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    clock: Clock | None = None

    def create(self, name: str) -> None:
        """Add a cluster nobody has joined as."""
        self.rows[name] = ClusterRow(name, datetime(2026, 1, 1, tzinfo=UTC), "test")

    def lock(self, name: str) -> None:
        """Lock a cluster."""
        self.lock_by(f"cluster/{name}")

    def lock_by(self, text: str) -> None:
        """Lock by whatever a lock can name."""
        self.locks.append(parse_lock(text))
        self._changed()

    async def current(self) -> LockSet:
        """All locks."""
        return LockSet(self.locks)

    async def signed(self) -> Sequence[Lock]:
        """None."""
        return ()

    async def moved(self, name: str, platform_uid: str, platform_ca: str) -> None:
        """Note where it runs."""
        self.rows[name] = replace(self.rows[name], platform_uid=platform_uid, platform_ca=platform_ca)
        self._changed()

    async def get(self, name: str) -> ClusterRow | None:
        """The cluster of this name."""
        return self.rows.get(name)

    async def keys_of(self, uids: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Keys bound to uids."""
        rows = (row for row in self.rows.values() if row.uid and row.uid in uids)
        return {row.uid: frozenset({row.spki_sha256, row.previous_spki_sha256} - {""}) for row in rows}

    async def name_of_uid(self, uid: str) -> str | None:
        """Name a uid is bound to."""
        return next((row.name for row in self.rows.values() if row.uid == uid), None)

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
    ) -> None:
        """Bind all of it."""
        self.rows[name] = replace(
            self.rows[name],
            uid=uid,
            spki_sha256=spki_sha256,
            statement_spki=statement_spki,
            generation=generation,
            serial=serial,
            previous_spki_sha256=previous_spki_sha256,
            generation_floor=max(self.rows[name].generation_floor, generation_floor),
            bound_at=self.clock.now() if self.clock is not None else None,
        )
        self._changed()

    async def used(self, name: str, spki_sha256: str) -> None:
        """Forget the key before the newest one."""
        if self.rows[name].spki_sha256 == spki_sha256:
            self.rows[name] = replace(self.rows[name], previous_spki_sha256="")
            self._changed()

    def _changed(self) -> None:
        for callback in self.on_change:
            callback()


def hub_keys(now: datetime) -> HubKeys:
    """Fresh keys of a hub, never on a disk."""
    return HubKeys(
        agent_ca=make_ca("agents", keys.new_tls_key(), now),
        hub_ca=make_ca("hubs", keys.new_tls_key(), now),
        timestamp=keys.new_signing_key(),
        tree_head=keys.new_signing_key(),
        attestation=keys.new_signing_key(),
    )


@dataclass
class FakeLocks:
    """The hub's own locks, which are those of the clusters."""

    clusters: FakeClusters

    async def put(self, lock: LockRow) -> LockRow:
        """Keep a lock."""
        self.clusters.locks.append(lock_of(lock.kind, lock.subject, lock.reason))
        self.clusters._changed()
        return lock

    async def list(self) -> tuple[LockRow, ...]:
        """All of them."""
        now = datetime(2026, 1, 1, tzinfo=UTC)
        return tuple(LockRow(lock.kind, lock.subject, lock.reason, now, "") for lock in self.clusters.locks)


@dataclass
class FakeStore:
    """The part of the store that the authority uses; what a job raises takes back what it did."""

    clusters: FakeClusters
    tokens: FakeTokens
    audit: FakeAudit

    def __post_init__(self) -> None:
        self.locks = FakeLocks(self.clusters)
        self._turn = asyncio.Lock()

    async def transact(self, job: Callable[[IdentityTables], Awaitable[T]]) -> T:
        """Run a job alone."""
        async with self._turn:
            before = dict(self.clusters.rows), list(self.clusters.locks), dict(self.tokens.rows)
            recorded = len(self.audit.entries)
            try:
                return await job(self)
            except BaseException:
                # In place: tests hold them.
                for now, old in ((self.clusters.rows, before[0]), (self.tokens.rows, before[2])):
                    now.clear()
                    now.update(old)  # type: ignore[arg-type]
                self.clusters.locks[:] = before[1]
                del self.audit.entries[recorded:]
                raise


@dataclass
class FakeHub:
    """The identity side of a hub on fakes, with the realm already known."""

    clock: Clock
    realm: str | None = REALM
    audit: FakeAudit = field(default_factory=FakeAudit)
    tokens: FakeTokens = field(default_factory=FakeTokens)
    clusters: FakeClusters = field(default_factory=FakeClusters)

    def __post_init__(self) -> None:
        self.keys = hub_keys(self.clock.now())
        self.clusters.clock = self.clock
        self.authority = Authority(self.keys, self.clock, lambda: self.realm)
        self.join_tokens = JoinTokens(self.tokens, self.clock)
        self.store = FakeStore(self.clusters, self.tokens, self.audit)
        self.identity = IdentityService(
            authority=self.authority,
            tokens=self.join_tokens,
            store=self.store,
            locks=self.clusters,
            copies=Copies(self.store, self.clock),
            clock=self.clock,
        )
