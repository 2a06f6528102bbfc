"""A store in memory that keeps every promise of ``hub.store.interfaces`` but durability; the contract suite says so."""

from __future__ import annotations

import asyncio
import copy
import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cellward.runtime.clock import Clock, SystemClock
from hub.store.changes import AUDIT, CLUSTERS, DOCUMENTS, POLICY, ChangeBus, desired_topic
from hub.store.cursor import decode_cursor, encode_cursor, page_size
from hub.store.errors import (
    CLUSTER_EXISTS,
    IMMUTABLE,
    MOVED,
    OUT_OF_RANGE,
    SUBJECT_HAS_TOKEN,
    TOKEN_EXPIRED,
    TOKEN_SPENT,
    UID_TAKEN,
    UNKNOWN_CLUSTER,
    UNKNOWN_TOKEN,
)
from hub.store.interfaces import (
    ApiTokenRow,
    CellKey,
    CellRow,
    ClusterRow,
    DesiredChange,
    DesiredRow,
    DocumentRow,
    Json,
    Judged,
    LockRow,
    Page,
    ReceiptRow,
    SeenRow,
    Standing,
    StatusRow,
    TufMetadata,
)
from hub.store.log import (
    AuditAppend,
    AuditChain,
    AuditEntry,
    AuditFilter,
    AuditRow,
    AuditSnapshot,
    TileKey,
    is_dense,
)
from hub.store.tokens import TokenGrant


def in_range(*numbers: int) -> None:
    """Refuse what a column of 64 bits cannot hold."""
    if any(not -(2**63) <= number < 2**63 for number in numbers):
        raise OUT_OF_RANGE("a number does not fit into 64 bits with a sign")


class MemoryClusters:
    """Implements ``ClusterStore``."""

    def __init__(self, clock: Clock, changes: ChangeBus) -> None:
        self._clock = clock
        self._changes = changes
        self.rows: dict[str, ClusterRow] = {}
        #: What else is to be forgotten with a cluster.
        self.on_remove: list[Callable[[str], None]] = []

    async def create(self, name: str, created_by: str, invited: Json | None = None) -> ClusterRow:
        await asyncio.sleep(0)
        if name in self.rows:
            raise CLUSTER_EXISTS(f"cluster {name} exists", cluster=name)
        self.rows[name] = ClusterRow(name, self._clock.now(), created_by, invited=dict(invited or {}))
        self._changes.notify([CLUSTERS])
        return self.rows[name]

    async def get(self, name: str) -> ClusterRow | None:
        return self.rows.get(name)

    async def get_many(self, names: Sequence[str]) -> Mapping[str, ClusterRow]:
        return {name: self.rows[name] for name in names if name in self.rows}

    async def list(self) -> tuple[ClusterRow, ...]:
        return tuple(self.rows[name] for name in sorted(self.rows))

    async def count(self) -> int:
        return len(self.rows)

    async def keys_of(self, uids: Sequence[str]) -> Mapping[str, frozenset[str]]:
        rows = (row for row in self.rows.values() if row.uid and row.uid in uids)
        return {row.uid: frozenset({row.spki_sha256, row.previous_spki_sha256} - {""}) for row in rows}

    async def name_of_uid(self, uid: str) -> str | None:
        return next((row.name for row in self.rows.values() if row.uid and row.uid == uid), None)

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
        expected_serial: str | None = None,
    ) -> ClusterRow:
        await asyncio.sleep(0)
        row = self.require(name)
        if expected_serial not in {None, row.serial}:
            raise MOVED(f"cluster {name} was bound to another certificate meanwhile", cluster=name)
        if await self.name_of_uid(uid) not in {None, name}:
            raise UID_TAKEN(f"uid {uid} is bound to another name", cluster=name)
        self.rows[name] = replace(
            row,
            uid=uid,
            spki_sha256=spki_sha256,
            statement_spki=statement_spki,
            generation=generation,
            serial=serial,
            bound_at=self._clock.now(),
            platform_uid=row.platform_uid if row.uid == uid else "",
            platform_ca=row.platform_ca if row.uid == uid else "",
            previous_spki_sha256=previous_spki_sha256,
            generation_floor=max(row.generation_floor, generation_floor),
        )
        self._changes.notify([CLUSTERS])
        return self.rows[name]

    async def update_seen(self, name: str, at: datetime, report: Json | None = None) -> None:
        row = self.require(name)
        self.rows[name] = replace(row, last_seen=at, report={**row.report, **copy.deepcopy(dict(report or {}))})

    async def update_seen_many(self, rows: Sequence[SeenRow]) -> None:
        for row in rows:
            self.require(row.cluster)
        for row in rows:
            await self.update_seen(row.cluster, row.at, row.report)

    async def names_of_uids(self, uids: Sequence[str]) -> Mapping[str, str]:
        return {row.uid: row.name for row in self.rows.values() if row.uid and row.uid in uids}

    async def retire_certificates(self, name: str, spare: int) -> int:
        row = self.require(name)
        floor = row.generation_floor
        if floor <= row.generation:
            floor = row.generation + spare if row.generation else 1
        self.rows[name] = replace(row, generation_floor=floor)
        self._changes.notify([CLUSTERS])
        return floor

    async def set_platform(self, name: str, uid: str, ca: str) -> None:
        self.rows[name] = replace(self.require(name), platform_uid=uid, platform_ca=ca)
        self._changes.notify([CLUSTERS])

    async def remove(self, name: str) -> None:
        self.rows[name] = replace(self.require(name), removed_at=self._clock.now())
        for forget in self.on_remove:
            forget(name)
        self._changes.notify([CLUSTERS, desired_topic(name)])

    async def set_invited(self, name: str, invited: Json) -> None:
        self.rows[name] = replace(self.require(name), invited=dict(invited))
        self._changes.notify([CLUSTERS])

    async def used(self, name: str, spki_sha256: str) -> None:
        row = self.rows.get(name)
        if row is not None and row.spki_sha256 == spki_sha256 and row.previous_spki_sha256:
            self.rows[name] = replace(row, previous_spki_sha256="")
            self._changes.notify([CLUSTERS])

    async def standing(self) -> Standing:
        return Standing(
            frozenset(row.name for row in self.rows.values() if row.removed_at is not None),
            {row.name: row.generation_floor for row in self.rows.values() if row.generation_floor},
        )

    def require(self, name: str) -> ClusterRow:
        if name not in self.rows:
            raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
        return self.rows[name]


class MemoryLocks:
    """Implements ``LockStore``."""

    def __init__(self, changes: ChangeBus) -> None:
        self._changes = changes
        self._rows: dict[tuple[str, str], LockRow] = {}

    async def put(self, lock: LockRow) -> LockRow:
        kept = self._rows.setdefault((lock.kind, lock.subject), lock)
        self._changes.notify([CLUSTERS])
        return kept

    async def get(self, kind: str, subject: str) -> LockRow | None:
        return self._rows.get((kind, subject))

    async def remove(self, kind: str, subject: str) -> LockRow | None:
        gone = self._rows.pop((kind, subject), None)
        self._changes.notify([CLUSTERS])
        return gone

    async def list(self) -> tuple[LockRow, ...]:
        return tuple(self._rows[key] for key in sorted(self._rows))


class MemoryTokens:
    """Implements ``TokenStore``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[str, tuple[str, datetime, str]] = {}

    async def put(self, token_hash: str, cluster: str, expires_at: datetime) -> None:
        old = self._clock.now() - timedelta(days=1)
        self._rows = {key: row for key, row in self._rows.items() if row[1] >= old}
        if token_hash in self._rows:
            raise IMMUTABLE("a token of this hash is kept already")
        self._rows[token_hash] = (cluster, expires_at, "")

    async def revoke(self, cluster: str) -> int:
        kept = {key: row for key, row in self._rows.items() if row[0] != cluster}
        gone, self._rows = len(self._rows) - len(kept), kept
        return gone

    async def live(self, token_hashes: Sequence[str], now: datetime) -> frozenset[str]:
        return frozenset(key for key in token_hashes if key in self._rows and self._rows[key][1] > now)

    async def spend(self, token_hash: str, spki_sha256: str, now: datetime) -> TokenGrant:
        await asyncio.sleep(0)
        if token_hash not in self._rows:
            raise UNKNOWN_TOKEN("no token of this hash was made here")
        cluster, expires_at, spent_by = self._rows[token_hash]
        if expires_at <= now:
            raise TOKEN_EXPIRED("the token has expired", cluster=cluster)
        if spent_by not in {"", spki_sha256}:
            raise TOKEN_SPENT("the token was spent by another key", cluster=cluster)
        self._rows[token_hash] = (cluster, expires_at, spki_sha256)
        return TokenGrant(cluster)


class MemoryDocuments:
    """Implements ``DocumentStore``."""

    def __init__(self, clock: Clock, changes: ChangeBus) -> None:
        self._clock = clock
        self._changes = changes
        self._rows: dict[str, DocumentRow] = {}

    async def put(self, document: DocumentRow, seen: bytes | None = None) -> bool:
        return (await self.put_many([document], {} if seen is None else {document.digest: seen}))[0]

    async def put_many(self, batch: Sequence[DocumentRow], seen: Mapping[str, bytes] | None = None) -> tuple[bool, ...]:
        new = []
        rows = dict(self._rows)
        for document in batch:
            known = rows.get(document.digest)
            new.append(known is None)
            if known is None:
                received = document.received_at or self._clock.now()
                rows[document.digest] = replace(document, received_at=received)
                continue
            if known.envelope != (seen or {}).get(document.digest, document.envelope):
                raise MOVED(f"document {document.digest} has another envelope by now", document=document.digest)
            rows[document.digest] = replace(
                known, envelope=document.envelope, standing=document.standing, judgement=document.judgement
            )
        self._rows = rows
        self._changes.notify([DOCUMENTS])
        return tuple(new)

    async def judge_many(self, judged: Sequence[Judged]) -> None:
        for one in judged:
            if one.digest in self._rows:
                row = self._rows[one.digest]
                self._rows[one.digest] = replace(row, standing=one.standing, judgement=dict(one.judgement))
        self._changes.notify([DOCUMENTS])

    async def drop(self, digests: Sequence[str]) -> frozenset[str]:
        gone = {digest for digest in digests if digest in self._rows and self._rows[digest].standing != "verified"}
        self._rows = {digest: row for digest, row in self._rows.items() if digest not in gone}
        if digests:
            self._changes.notify([DOCUMENTS])
        return frozenset(gone)

    async def get(self, digest: str) -> DocumentRow | None:
        return self._rows.get(digest)

    async def list(
        self, kind: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[DocumentRow]:
        after, size = decode_cursor(cursor, (int,)), page_size(limit)
        start = after[0] if after is not None else 0
        assert isinstance(start, int)
        found = [
            (number, row)
            for number, row in enumerate(self._rows.values(), start=1)
            if number > start and kind in {"", row.kind} and project in {"", row.project} and cell in {"", row.cell}
        ]
        more = encode_cursor([found[size - 1][0]]) if len(found) > size else ""
        return Page(tuple(row for _, row in found[:size]), more)


class MemoryDesired:
    """Implements ``DesiredStore``."""

    def __init__(self, clock: Clock, changes: ChangeBus, clusters: MemoryClusters) -> None:
        self._clock = clock
        self._changes = changes
        self._clusters = clusters
        self._rows: dict[tuple[CellKey, str], DesiredRow] = {}
        self._revisions: dict[str, int] = {}
        self._receipts: dict[tuple[CellKey, str], ReceiptRow] = {}
        self._statuses: dict[tuple[CellKey, str], StatusRow] = {}
        clusters.on_remove.append(self._forget)

    def _forget(self, cluster: str) -> None:
        for rows in (self._rows, self._receipts, self._statuses):
            for key in [key for key in rows if key[1] == cluster]:
                del rows[key]  # type: ignore[attr-defined]

    async def upsert(
        self,
        cluster: str,
        key: CellKey,
        deployment_digest: str,
        evidence: Sequence[str] = (),
        hub_state: str = "run",
    ) -> int:
        await self.upsert_many([DesiredChange(cluster, key, deployment_digest, tuple(evidence), hub_state)])
        return self._rows[key, cluster].revision

    async def upsert_many(self, changes: Sequence[DesiredChange]) -> Mapping[str, int]:
        for change in changes:
            self._clusters.require(change.cluster)
        changed: dict[str, int] = {}
        for change in changes:
            held = self._rows.get((change.key, change.cluster))
            content = (change.deployment_digest, tuple(change.evidence), change.hub_state)
            same = held is not None and (held.deployment_digest, held.evidence, held.hub_state) == content
            same = same and held is not None and held.hub_state_role == change.hub_state_role
            if same and not change.again:
                continue
            revision = self._revisions.get(change.cluster, 0) + 1
            changed[change.cluster] = self._revisions[change.cluster] = revision
            row = DesiredRow(change.cluster, change.key, revision, *content, self._clock.now(), change.hub_state_role)
            self._rows[change.key, change.cluster] = row
        self._changes.notify(desired_topic(name) for name in changed)
        return changed

    async def get(self, cluster: str, key: CellKey) -> DesiredRow | None:
        return self._rows.get((key, cluster))

    async def items(self, cluster: str, since_revision: int = 0) -> tuple[DesiredRow, ...]:
        found = [row for row in self._rows.values() if row.cluster == cluster and row.revision > since_revision]
        return tuple(sorted(found, key=lambda row: row.revision))

    async def items_of(self, clusters: Sequence[str]) -> Mapping[str, tuple[DesiredRow, ...]]:
        return {name: await self.items(name) for name in clusters}

    async def count(self) -> int:
        return len(self._rows)

    async def revision(self, cluster: str) -> int:
        return self._revisions.get(cluster, 0)

    async def put_receipt(self, receipt: ReceiptRow) -> None:
        self._clusters.require(receipt.cluster)
        in_range(receipt.revision)
        kept = self._receipts.get((receipt.key, receipt.cluster))
        given = self._revisions.get(receipt.cluster)
        unknown = kept is not None and given is not None and kept.revision > given
        if kept is None or kept.revision <= receipt.revision or unknown:
            received = receipt.received_at or self._clock.now()
            self._receipts[receipt.key, receipt.cluster] = replace(receipt, received_at=received)

    async def put_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        for row in rows:
            self._clusters.require(row.cluster)
            in_range(row.revision)
        for row in rows:
            await self.put_receipt(row)

    async def put_status(self, cluster: str, key: CellKey, body: Json, at: datetime) -> None:
        await self.put_statuses([StatusRow(cluster, key, body, at)])

    async def put_statuses(self, rows: Sequence[StatusRow]) -> None:
        for row in rows:
            self._clusters.require(row.cluster)
        for row in rows:
            self._statuses[row.key, row.cluster] = replace(row, body=copy.deepcopy(dict(row.body)))

    async def statuses(
        self, cluster: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[CellRow]:
        after, size = decode_cursor(cursor, (str, str, str, str)), page_size(limit)
        found = [
            (key, name)
            for key, name in sorted(self._rows)
            if cluster in {"", name}
            and project in {"", key.project}
            and cell in {"", key.cell}
            and (after is None or [str(part) for part in after] < [*key, name])
        ]
        rows = tuple(CellRow(self._rows[at], self._statuses.get(at), self._receipts.get(at)) for at in found[:size])
        more = encode_cursor([*found[size - 1][0], found[size - 1][1]]) if len(found) > size else ""
        return Page(rows, more)


class MemoryTuf:
    """Implements ``TufStore``."""

    def __init__(self, changes: ChangeBus) -> None:
        self._changes = changes
        self._metadata: dict[str, dict[int, bytes]] = {}
        self._targets: dict[str, bytes] = {}

    async def put_metadata(self, role: str, version: int, data: bytes) -> None:
        await self.publish([TufMetadata(role, version, data)], {})

    async def get_metadata(self, role: str, version: int | None = None) -> bytes | None:
        versions = self._metadata.get(role, {})
        return versions.get(max(versions, default=0) if version is None else version)

    async def put_target(self, digest: str, data: bytes) -> None:
        await self.publish([], {digest: data})

    async def get_target(self, digest: str) -> bytes | None:
        return self._targets.get(digest)

    async def publish(
        self,
        metadata: Sequence[TufMetadata],
        targets: Mapping[str, bytes],
        expect: Mapping[str, int] | None = None,
    ) -> None:
        for role, version in (expect or {}).items():
            if max(self._metadata.get(role, {}), default=0) != version:
                raise MOVED(f"{role} is not at version {version}", role=role)
        new = copy.deepcopy(self._metadata)
        for item in metadata:
            if item.role == "timestamp":
                new["timestamp"] = {key: data for key, data in new.get("timestamp", {}).items() if key <= item.version}
            kept = new.setdefault(item.role, {}).setdefault(item.version, item.data)
            if kept == item.replaces:
                new[item.role][item.version] = item.data
            elif kept != item.data:
                raise IMMUTABLE(f"{item.role} version {item.version} is published with other bytes", role=item.role)
        self._metadata = new
        self._targets = {**targets, **self._targets}
        if metadata:
            self._changes.notify([POLICY])


class MemoryAudit:
    """Implements ``AuditStore``."""

    def __init__(self, changes: ChangeBus) -> None:
        self._changes = changes
        self._entries: list[AuditEntry] = []
        self._places: dict[tuple[str, int, int], int] = {}
        self._chains: dict[tuple[str, int], AuditChain] = {}
        self._tiles: dict[TileKey, bytes] = {}

    async def append(self, batch: AuditAppend) -> None:
        await asyncio.sleep(0)
        places = [(entry.origin, entry.epoch, entry.seq) for entry in batch.entries]
        if batch.expected_size != len(self._entries) or any(place in self._places for place in places):
            raise MOVED("the log has moved")
        if len(set(places)) < len(places) or not is_dense(batch):
            raise MOVED("the log has moved")
        in_range(*(number for entry in batch.entries for number in (entry.epoch, entry.seq)))
        in_range(*(number for chain in batch.chains for number in (chain.epoch, chain.seq, chain.checkpoint_seq)))
        self._places |= {place: entry.index for place, entry in zip(places, batch.entries, strict=True)}
        self._entries += batch.entries
        self._chains |= {(chain.origin, chain.epoch): chain for chain in batch.chains}
        self._tiles |= batch.tiles
        if batch.entries:
            self._changes.notify([AUDIT])

    async def size(self) -> int:
        return len(self._entries)

    async def origin_state(self, origin: str, epoch: int | None = None) -> AuditChain | None:
        epochs = [number for name, number in self._chains if name == origin]
        wanted = max(epochs, default=0) if epoch is None else epoch
        return self._chains.get((origin, wanted))

    async def snapshot(self) -> AuditSnapshot:
        return AuditSnapshot(len(self._entries), tuple(self._chains[key] for key in sorted(self._chains)))

    async def tiles(self, keys: Sequence[TileKey]) -> Mapping[TileKey, bytes]:
        return {key: self._tiles[key] for key in keys if key in self._tiles}

    async def records(
        self, cursor: int, limit: int, filters: AuditFilter | None = None, end: int | None = None
    ) -> tuple[AuditRow, ...]:
        wanted = filters or AuditFilter()
        project, _, cell = wanted.cell.rpartition("/")
        found = (
            AuditRow(entry.index, entry.record, entry.cluster)
            for entry in self._entries[cursor:end]
            if wanted.cluster in {"", entry.cluster}
            and wanted.action in {"", entry.action}
            and wanted.decision in {"", entry.decision}
            and wanted.origin in {"", entry.origin}
            and project in {"", entry.project}
            and cell in {"", entry.cell}
        )
        return tuple(itertools.islice(found, limit))

    async def chain_records(self, origin: str, epoch: int, first_seq: int, last_seq: int) -> tuple[AuditRow, ...]:
        places = [self._places.get((origin, epoch, seq)) for seq in range(first_seq, last_seq + 1)]
        return tuple(
            AuditRow(at, self._entries[at].record, self._entries[at].cluster) for at in places if at is not None
        )


class MemoryApiTokens:
    """Implements ``ApiTokenStore``."""

    def __init__(self) -> None:
        self._rows: dict[str, ApiTokenRow] = {}

    async def add(self, token: ApiTokenRow) -> None:
        await asyncio.sleep(0)
        if token.token_hash in self._rows or any(row.subject == token.subject for row in self._rows.values()):
            raise SUBJECT_HAS_TOKEN(f"{token.subject} has a token already")
        self._rows[token.token_hash] = token

    async def put_only(self, token_hash: str, subject: str, role: str) -> None:
        self._rows = {key: row for key, row in self._rows.items() if row.subject != subject}
        self._rows[token_hash] = ApiTokenRow(token_hash, subject, role)

    async def get(self, token_hash: str) -> ApiTokenRow | None:
        return self._rows.get(token_hash)

    async def list(self) -> tuple[ApiTokenRow, ...]:
        return tuple(sorted(self._rows.values(), key=lambda row: row.subject))

    async def remove(self, subject: str) -> ApiTokenRow | None:
        for key, row in self._rows.items():
            if row.subject == subject:
                return self._rows.pop(key)
        return None


class MemoryMeta:
    """Implements ``MetaStore``."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self._rows.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self._rows[key] = value

    async def put_if_absent(self, key: str, value: bytes) -> bytes:
        return self._rows.setdefault(key, value)


class MemoryStore:
    """Implements ``Store``."""

    def __init__(self, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.changes = ChangeBus()
        self.clusters = MemoryClusters(clock, self.changes)
        self.locks = MemoryLocks(self.changes)
        self.tokens = MemoryTokens(clock)
        self.documents = MemoryDocuments(clock, self.changes)
        self.desired = MemoryDesired(clock, self.changes, self.clusters)
        self.tuf = MemoryTuf(self.changes)
        self.audit = MemoryAudit(self.changes)
        self.api_tokens = MemoryApiTokens()
        self.meta = MemoryMeta()
        self._epoch = secrets.token_hex(16)

    @property
    def hub_epoch(self) -> str:
        return self._epoch

    async def new_epoch(self) -> str:
        self._epoch = secrets.token_hex(16)
        return self._epoch

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass
