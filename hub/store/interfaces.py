"""What the hub's rooms may ask of its durable state: Protocols over plain rows.

All methods are asynchronous. A write is durable when it returns, or raises and left nothing behind (V16); every write
may raise ``store/full`` and ``store/unavailable``, every read ``store/unavailable``. Times are aware UTC. JSON values
are plain dictionaries. Cursors are opaque text, empty for the first page and after the last one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from cellward.documents.names import CellKey
from hub.store.changes import ChangeBus
from hub.store.documents import DocumentStore
from hub.store.leases import Lease, LeaseStore
from hub.store.links import LinkStore
from hub.store.log import AuditStore
from hub.store.rows import Json, Page
from hub.store.tokens import ApiTokenStore, TokenStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster and what is bound to its name.

    Attributes:
        uid: made by the agent, empty before the first join; belongs to one name only.
        spki_sha256: digest of the newest TLS key certified.
        statement_spki: SubjectPublicKeyInfo (DER) of the statement key.
        generation: generation of the newest certificate, 0 for none.
        serial: its serial number, lower-case hex.
        bound_at: when that certificate was issued.
        report: what the agent last said of itself; top-level keys are merged by ``update_seen``.
        previous_spki_sha256: digest of the key before the newest one, until the newest one was used; else empty.
        generation_floor: certificates of an earlier generation count for nothing.
        invited: what the invite named the cluster to be, empty for nothing (``hub.placement.delivery``).
        removed_at: when the cluster was decommissioned; its name and uid never come back.
        platform_uid: uid of the cluster's own namespace kube-system, as first seen after a join; empty before.
        platform_ca: digest of the authority of the cluster's API server, as last seen.
        placed: what everything was last placed on it by, as ``set_placed`` had it; empty before.
    """

    name: str
    created_at: datetime
    created_by: str
    uid: str = ""
    spki_sha256: str = ""
    statement_spki: bytes = b""
    generation: int = 0
    serial: str = ""
    bound_at: datetime | None = None
    last_seen: datetime | None = None
    report: Json = field(default_factory=dict)
    previous_spki_sha256: str = ""
    generation_floor: int = 0
    invited: Json = field(default_factory=dict)
    removed_at: datetime | None = None
    platform_uid: str = ""
    platform_ca: str = ""
    placed: str = ""


@dataclass(frozen=True, slots=True)
class Retired:
    """Whose name no longer counts: removed clusters, and the least generation that counts where it is not 0."""

    removed: frozenset[str] = frozenset()
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LockRow:
    """A lock as ``cellward.identity.locks`` has it, and who set it when."""

    kind: str
    subject: str
    reason: str
    created_at: datetime
    created_by: str


class LockStore(Protocol):
    """Locks set by this hub. A change notifies topic ``clusters``."""

    async def put(self, lock: LockRow) -> LockRow:
        """Keep a lock and return the one that holds now: of two with one subject the first stays as it is."""
        ...

    async def get(self, kind: str, subject: str) -> LockRow | None:
        """Return a lock."""
        ...

    async def remove(self, kind: str, subject: str) -> LockRow | None:
        """Forget a lock and return it; None when there is none."""
        ...

    async def list(self) -> tuple[LockRow, ...]:
        """Return all locks by kind and subject."""
        ...


@dataclass(frozen=True, slots=True)
class SeenRow:
    """An agent spoke at ``at``; ``report`` is what it said of itself, None when it only was there."""

    cluster: str
    at: datetime
    report: Json | None = None


class ClusterStore(Protocol):
    """Clusters and what is bound to their names. Changes of bindings notify topic ``clusters``."""

    async def create(self, name: str, created_by: str, invited: Json | None = None) -> ClusterRow:
        """Add a cluster; raises store/cluster-exists."""
        ...

    async def set_invited(self, name: str, invited: Json) -> None:
        """Set what the invite names the cluster to be; raises store/unknown-cluster."""
        ...

    async def set_placed(self, name: str, mark: str) -> None:
        """Note by what everything was placed on the cluster; wakes nobody."""
        ...

    async def get(self, name: str) -> ClusterRow | None:
        """Return the cluster of exactly this name."""
        ...

    async def get_many(self, names: Sequence[str]) -> Mapping[str, ClusterRow]:
        """Return those of the named clusters that exist, by exact name."""
        ...

    async def list(self) -> tuple[ClusterRow, ...]:
        """Return all clusters by name."""
        ...

    async def known_as(self, kind: str, subject: str) -> tuple[ClusterRow, ...]:
        """Return the clusters that a lock of this kind and subject is about, removed ones too, by name."""
        ...

    async def count(self) -> int:
        """Return how many clusters there are."""
        ...

    async def keys_of(self, uids: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return the digests of the TLS keys bound to each of these uids; a uid that nobody has is left out."""
        ...

    async def name_of_uid(self, uid: str) -> str | None:
        """Return the name a uid is bound to."""
        ...

    async def names_of_uids(self, uids: Sequence[str]) -> Mapping[str, str]:
        """Return the names that those of the uids are bound to which are bound at all, by uid."""
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
    ) -> ClusterRow:
        """Bind uid, keys and certificate to a name; the floor never goes down.

        Raises store/unknown-cluster, store/uid-taken.
        """
        ...

    async def used(self, name: str, spki_sha256: str) -> None:
        """Note that a certificate of this key was used: if it is the newest one, the one before is forgotten."""
        ...

    async def update_seen(self, name: str, at: datetime, report: Json | None = None) -> None:
        """Note that the agent spoke at ``at`` and merge what it said; raises store/unknown-cluster."""
        ...

    async def update_seen_many(self, rows: Sequence[SeenRow]) -> None:
        """``update_seen`` for many in one transaction, all or none; of one cluster in the order given."""
        ...

    async def retire_certificates(self, name: str, spare: int) -> int:
        """Raise the floor ``spare`` above the newest certificate known and return it; raises store/unknown-cluster."""
        ...

    async def set_platform(self, name: str, uid: str, ca: str) -> None:
        """Note where the installation runs; raises store/unknown-cluster."""
        ...

    async def remove(self, name: str) -> None:
        """Decommission: the name counts for nothing from now on, and its items, receipts and states are gone.

        What is bound stays bound, so that neither name nor uid can be used again. Raises store/unknown-cluster.
        """
        ...

    async def standing(self) -> Retired:
        """Return whose name or generation counts for nothing, of all clusters, as one read."""
        ...


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """A desired item to be written; with ``again`` it gets a new revision even where nothing of it changed.

    ``hub_state_role`` is the role that set the state, empty for ``run``.
    """

    cluster: str
    key: CellKey
    deployment_digest: str
    evidence: tuple[str, ...] = ()
    hub_state: str = "run"
    again: bool = False
    hub_state_role: str = ""


@dataclass(frozen=True, slots=True)
class DesiredRow:
    """A desired item: ``revision`` is unique within its cluster and grows with every change.

    ``hub_state_role`` is the role that set the state, empty for ``run`` and for what an older hub kept.
    """

    cluster: str
    key: CellKey
    revision: int
    deployment_digest: str
    evidence: tuple[str, ...]
    hub_state: str
    changed_at: datetime
    hub_state_role: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """The newest outcome an agent reported for an item; ``statement`` is its signed DSSE envelope."""

    cluster: str
    key: CellKey
    revision: int
    deployment_digest: str
    accepted: bool
    body: Json = field(default_factory=dict)
    statement: bytes = b""
    received_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StatusRow:
    """The newest state an agent reported for a cell."""

    cluster: str
    key: CellKey
    body: Json
    reported_at: datetime


@dataclass(frozen=True, slots=True)
class CellRow:
    """A desired item with what its agent last said about it."""

    desired: DesiredRow
    status: StatusRow | None
    receipt: ReceiptRow | None


class DesiredStore(Protocol):
    """Desired items per cluster, and what agents say about them. A change notifies ``desired:<cluster>``."""

    async def upsert(
        self,
        cluster: str,
        key: CellKey,
        deployment_digest: str,
        evidence: Sequence[str] = (),
        hub_state: str = "run",
    ) -> int:
        """Set an item and return its revision, which is new only when something changed."""
        ...

    async def upsert_many(self, changes: Sequence[DesiredChange]) -> Mapping[str, int]:
        """Set many items in one transaction; return the newest revision of each cluster that changed."""
        ...

    async def get(self, cluster: str, key: CellKey) -> DesiredRow | None:
        """Return one item."""
        ...

    async def items(self, cluster: str, since_revision: int = 0) -> tuple[DesiredRow, ...]:
        """Return the cluster's items changed after a revision, in order of revision."""
        ...

    async def items_of(self, clusters: Sequence[str]) -> Mapping[str, tuple[DesiredRow, ...]]:
        """Return all items of each of the named clusters, in order of revision; empty for one that has none."""
        ...

    async def of(self, keys: Collection[CellKey]) -> tuple[DesiredRow, ...]:
        """Return the items of all clusters that are about these, in no order."""
        ...

    async def count(self) -> int:
        """Return how many items all clusters have together."""
        ...

    async def revision(self, cluster: str) -> int:
        """Return the cluster's newest revision, 0 for none."""
        ...

    async def put_receipt(self, receipt: ReceiptRow) -> None:
        """Keep the newest receipt of a cell; one for an older revision than the kept one is dropped.

        Unless the kept one is for a revision that the cluster was never given: a restored store numbers again.
        """
        ...

    async def put_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        """``put_receipt`` for many in one transaction, all or none."""
        ...

    async def put_status(self, cluster: str, key: CellKey, body: Json, at: datetime) -> None:
        """Keep the newest state of a cell."""
        ...

    async def put_statuses(self, rows: Sequence[StatusRow]) -> None:
        """``put_status`` for many, in one transaction."""
        ...

    async def statuses(
        self, cluster: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[CellRow]:
        """Return desired items with status and receipt, by project, cell, environment, cluster; filtered by what is
        not empty. Raises store/bad-cursor."""  # noqa: D205, D209 - one sentence needs two lines
        ...


@dataclass(frozen=True, slots=True)
class TufMetadata:
    """One signed metadata file.

    ``replaces`` are the bytes stored of this version that it takes the place of: the same signed part, which the caller
    has checked, with other signatures.
    """

    role: str
    version: int
    data: bytes
    replaces: bytes | None = None


class TufStore(Protocol):
    """TUF metadata and targets; what is signed under a version never changes. New metadata notifies ``policy``."""

    async def put_metadata(self, role: str, version: int, data: bytes) -> None:
        """Keep metadata; the same bytes again are fine, others raise store/immutable."""
        ...

    async def get_metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return metadata, the highest version when None."""
        ...

    async def put_target(self, digest: str, data: bytes) -> None:
        """Keep a target under the digest of its bytes, which the caller has checked."""
        ...

    async def get_target(self, digest: str) -> bytes | None:
        """Return a target."""
        ...

    async def publish(
        self,
        metadata: Sequence[TufMetadata],
        targets: Mapping[str, bytes],
        expect: Mapping[str, int] | None = None,
    ) -> None:
        """Keep all of it in one transaction; a timestamp takes the place of those with higher versions.

        ``expect`` names the highest version each role must have before (0 for none); another one is store/moved.
        """
        ...


class MetaStore(Protocol):
    """Small named values."""

    async def get(self, key: str) -> bytes | None:
        """Return a value."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Set a value."""
        ...

    async def put_if_absent(self, key: str, value: bytes) -> bytes:
        """Set a value unless there is one; return the one that is there now."""
        ...


class Tables(Protocol):
    """Every part of the store, as the database has it or as one open transaction sees it."""

    @property
    def clusters(self) -> ClusterStore:
        """Clusters."""
        ...

    @property
    def locks(self) -> LockStore:
        """Locks."""
        ...

    @property
    def tokens(self) -> TokenStore:
        """Join tokens."""
        ...

    @property
    def documents(self) -> DocumentStore:
        """Signed documents."""
        ...

    @property
    def desired(self) -> DesiredStore:
        """Desired items, receipts and states."""
        ...

    @property
    def tuf(self) -> TufStore:
        """Policy metadata and targets."""
        ...

    @property
    def audit(self) -> AuditStore:
        """The audit log."""
        ...

    @property
    def api_tokens(self) -> ApiTokenStore:
        """Bearer tokens."""
        ...

    @property
    def meta(self) -> MetaStore:
        """Small named values."""
        ...

    @property
    def leases(self) -> LeaseStore:
        """What only one process does at a time."""
        ...

    @property
    def links(self) -> LinkStore:
        """Streams of agents, and commands to them."""
        ...


class Commit(Protocol[T]):
    """How a change is made: by the store's ``transact``, or by one that records it in the same transaction."""

    async def __call__(self, job: Callable[[Tables], Awaitable[T]], /) -> T:
        """Run ``job`` in one transaction and return its result once it is durable."""
        ...


class Store(Tables, Protocol):
    """All of it; ``hub.store.sql.store.open_store`` makes the real one."""

    async def transact(self, job: Callable[[Tables], Awaitable[T]]) -> T:
        """Run ``job`` in one transaction and return its result once it is durable.

        What decides, what changes and what is recorded about it goes in one: ``job`` reads and writes through the
        tables it is given alone, and may be run again where the database asks for that, so it has no other effect.
        Raises what ``job`` raises; then nothing was written.
        """
        ...

    @property
    def changes(self) -> ChangeBus:
        """Wakes whoever waits for a change."""
        ...

    @property
    def hub_epoch(self) -> str:
        """Identity of this history; a new one after a restore, so that agents compare instead of resuming."""
        ...

    async def new_epoch(self) -> str:
        """Begin a new history after a restore, once for all processes; returns the new ``hub_epoch``."""
        ...

    async def check(self) -> None:
        """Write once; raises store/full, store/unavailable, also where only the room for the next start is missing."""
        ...

    async def verify(self) -> str:
        """Look for damage, reading all of the database; return how far it can tell. Raises store/damaged."""
        ...

    async def prune(self, lease: Lease | None = None) -> None:
        """Forget changes that every process has seen for long; rows of anything else stay.

        Raises store/lease-moved where it is done under a lease that another one has by now.
        """
        ...

    async def watch(self) -> None:
        """Wake subscribers when another process changes the store; runs until cancelled (ADR 0004)."""
        ...

    async def close(self) -> None:
        """Finish and close; idempotent."""
        ...
