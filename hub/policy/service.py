"""The hub's TUF repository: verifies uploads as a client would, stores them, signs the timestamp alone.

The hub is a courier: everything but the timestamp is signed by keys it never holds. What it refuses here an agent
would refuse too; checking it at the door keeps a mistake of the publisher from becoming a denial for the fleet.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from cellward.documents import canonical, numbers
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import NOTHING_REVOKED, Revocations
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.bundle import MAX_ARCHIVE, check_disjoint, read_bundle
from cellward.policy.errors import (
    FOREIGN_REALM,
    INCOMPLETE,
    NOTHING_PUBLISHED,
    OLD_BASE,
    OVERTAKEN,
    ROLLBACK,
    UNVERIFIED,
)
from cellward.policy.floors import PolicyFloors
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from cellward.policy.published import RepositoryState
from cellward.policy.publisher import MetadataFile, Publication, sign_timestamp
from cellward.runtime.tasks import stopped_within
from hub.policy.races import who_came_first
from hub.store.errors import MOVED
from hub.store.interfaces import TufMetadata

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer
    from cellward.policy.client import Candidate, Fetch
    from cellward.runtime.clock import Clock
    from hub.store.interfaces import Commit, Tables, TufStore

#: How long a timestamp lives unless the settings say otherwise; agents refuse more than 24 h.
TIMESTAMP_LIFE = timedelta(hours=12)
#: It is renewed when less than this share of its life is left: three tries a day may fail before agents notice.
RENEW_BELOW = 0.75
#: How often the timer looks, seconds.
RENEW_INTERVAL = 600.0
#: How often a process that may not renew looks whether it may now, seconds.
WAIT_INTERVAL = 5.0
ROLES = ("root", "targets", KEYRING_ROLE, "snapshot", "timestamp")
_MAX_UPLOAD = 128
#: How often a publication is decided again because something else was published meanwhile.
_TRIES = 5
#: Most roots sent at once; agents follow as many rotations in one go.
_MAX_ROOTS = 64
#: Largest bundle sent along with a set, and all of them, bytes.
_BUNDLE, _BUNDLES = 64 * 1024, 128 * 1024
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Versions now served."""

    realm: str
    root_version: int
    targets_version: int
    keyring_version: int
    snapshot_version: int
    timestamp_version: int
    snapshot_expires: datetime


@dataclass(frozen=True, slots=True)
class NewerFiles:
    """Part of the newest set: metadata files, and the contents of small targets."""

    metadata: tuple[MetadataFile, ...]
    targets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _MappingFetch:
    """A :class:`cellward.policy.client.Fetch` over bytes at hand."""

    metadata_by_version: Mapping[tuple[str, int | None], bytes]
    targets: Mapping[str, bytes]

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        data = self.metadata_by_version.get((role, version))
        return data if data is None or len(data) <= limit else None

    def target(self, digest: str, limit: int) -> bytes | None:
        data = self.targets.get(digest)
        return data if data is None or len(data) <= limit else None


class TufRepository:
    """Serves policy metadata and content; the only key it holds signs the timestamp.

    Attributes:
        on_new_timestamp: awaited with the new version after each publish and renewal; must not raise.
    """

    def __init__(
        self,
        store: TufStore,
        signer: Ed25519Signer,
        clock: Clock,
        *,
        realm: Callable[[], str | None] = lambda: None,
        life: timedelta = TIMESTAMP_LIFE,
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._realm = realm
        # Agents would refuse a longer one; better cut here than refused everywhere.
        self._life = min(life, trust.TIMESTAMP_MAX_LIFE)
        self._lock = asyncio.Lock()
        #: The last timestamp whose version was asked for, and that version.
        self._parsed = (b"", 0)
        self.on_new_timestamp: list[Callable[[int], Awaitable[None]]] = []

    async def publish(self, upload: Publication, *, commit: Commit[PublishResult] | None = None) -> PublishResult:
        """Verify an upload as an agent would, store it, and sign a timestamp for it, all or nothing.

        Raises policy/* when it does not verify, is older than what is served, or is incomplete; policy/overtaken when
        another publication came first, here or at another process; store/moved when that happens all the time.
        Nothing has changed then.
        """
        async with self._lock:
            given, replaced = await self._as_kept(self._given(upload))
            try:
                version, result = await self._decide(upload, given, replaced, commit)
            except CellwardError as error:
                first = await self._came_first(given, error)
                if not first:
                    raise
                raise OVERTAKEN(f"another publication came first: {first} is served") from error
        await self._announce(version)
        return result

    async def _decide(
        self,
        upload: Publication,
        given: Mapping[tuple[str, int], bytes],
        replaced: Mapping[tuple[str, int], bytes],
        commit: Commit[PublishResult] | None,
    ) -> tuple[int, PublishResult]:
        """Publish, and decide again when another process has published, or signed a timestamp, meanwhile."""
        for _ in range(_TRIES - 1):
            try:
                return await self._publish(upload, given, replaced, commit)
            except CellwardError as error:
                if error.code != MOVED.code:
                    raise
        return await self._publish(upload, given, replaced, commit)

    async def _publish(
        self,
        upload: Publication,
        given: Mapping[tuple[str, int], bytes],
        replaced: Mapping[tuple[str, int], bytes],
        commit: Commit[PublishResult] | None,
    ) -> tuple[int, PublishResult]:
        """Verify and keep; return the timestamp's version and what is served then."""
        before = {role: await self._newest(role) for role in ROLES}
        roots = await self._roots(given)
        realm = self._check_realm(roots[0])
        snapshot = _highest(given, "snapshot")
        _check_new_root(len(roots), snapshot, before)
        version = self._next_version(before["timestamp"])
        timestamp = self._timestamp(version, snapshot)
        fetch = await self._fetch_for(given, roots, timestamp, upload.targets)
        floors = await self._floors(before)
        candidate = await asyncio.to_thread(self._verify, roots[0], realm, fetch, floors)
        files = _files(given, replaced, candidate, timestamp)
        used = {name: data for name, data in upload.targets.items() if name in candidate.verified.digests.values()}
        expect = {role: file.version if file else 0 for role, file in before.items()}
        result = _result(candidate)

        async def keep(tables: Tables) -> PublishResult:
            await tables.tuf.publish(files, used, expect)
            return result

        if commit is not None:
            await commit(keep)
        else:
            await self._store.publish(files, used, expect)
        return version, result

    async def _came_first(self, given: Mapping[tuple[str, int], bytes], error: CellwardError) -> str:
        """Say what is served instead where a publication was refused for coming later than another; empty otherwise."""
        if error.code not in {ROLLBACK.code, OLD_BASE.code}:
            return ""
        uploaded = {role: _highest(given, role) for role in ("targets", KEYRING_ROLE, "snapshot")}
        served_now = {role: await self._newest(role) for role in uploaded}
        snapshot = uploaded["snapshot"]
        known = await self._store.get_metadata("snapshot", snapshot.version) == snapshot.data
        return who_came_first(
            {role: file.data for role, file in uploaded.items()},
            {role: file.data for role, file in served_now.items() if file is not None},
            known=known,
        )

    async def _floors(self, before: Mapping[str, MetadataFile | None]) -> PolicyFloors:
        """Return what an agent that has what is served now would hold an upload to."""
        roles = {
            role: trust.floor_in(role, file.data)
            for role, file in before.items()
            if file and role != "timestamp"  # our own; see _next_version
        }
        served = before[KEYRING_ROLE]
        data = None if served is None else await self._small(served, KEYRING_TARGET)
        floors = PolicyFloors(roles)
        return floors if data is None else floors.with_keys(Keyring.from_json(canonical.decode(data)))

    def _given(self, upload: Publication) -> dict[tuple[str, int], bytes]:
        if len(upload.metadata) > _MAX_UPLOAD or len(upload.targets) > _MAX_UPLOAD:
            raise UNVERIFIED(f"an upload has at most {_MAX_UPLOAD} metadata files and {_MAX_UPLOAD} targets")
        given: dict[tuple[str, int], bytes] = {}
        for file in upload.metadata:
            if file.role not in ROLES or file.role == "timestamp":
                raise UNVERIFIED(f"metadata of role {file.role[:40]!r} cannot be uploaded")
            if (file.role, file.version) in given:
                raise UNVERIFIED(f"{file.role} version {file.version} is given twice")
            given[file.role, file.version] = file.data
        for digest, data in upload.targets.items():
            if len(data) > MAX_ARCHIVE or trust.digest_of(data) != digest:
                raise UNVERIFIED(f"the target {digest[:80]} is not what its digest says")
        return given

    async def _as_kept(
        self, given: Mapping[tuple[str, int], bytes]
    ) -> tuple[dict[tuple[str, int], bytes], dict[tuple[str, int], bytes]]:
        """Return what is given, and the stored bytes that some of it takes the place of.

        Both are one document each time, with other signatures. Root and snapshot stay as they are stored: nothing the
        publishers sign names their bytes, so whoever may upload could change them. Targets and keyring are as the
        publisher's snapshot names them.
        """
        kept, replaced = dict(given), {}
        for (role, version), data in given.items():
            stored = await self._store.get_metadata(role, version)
            if stored is None or stored == data or trust.floor_in(role, stored) != trust.floor_in(role, data):
                continue
            if role in {Root.type, Snapshot.type}:
                kept[role, version] = stored
            else:
                replaced[role, version] = stored
        return kept, replaced

    async def _roots(self, given: Mapping[tuple[str, int], bytes]) -> list[bytes]:
        roots: list[bytes] = []
        while True:
            version = len(roots) + 1
            stored = await self._store.get_metadata("root", version)
            offered = given.get(("root", version))
            if stored is not None and offered is not None and stored != offered:
                raise UNVERIFIED(f"root version {version} was published before with other content")
            data = stored or offered
            if data is None:
                break
            roots.append(data)
        if not roots:
            raise INCOMPLETE("the upload has no root of version 1, and none is stored")
        return roots

    def _check_realm(self, root: bytes) -> str:
        realm = trust.realm_of(root)
        expected = self._realm()
        if expected is not None and realm != expected:
            raise FOREIGN_REALM(f"the upload belongs to realm {realm}")
        return realm

    async def _fetch_for(
        self,
        given: Mapping[tuple[str, int], bytes],
        roots: list[bytes],
        timestamp: bytes,
        targets: Mapping[str, bytes],
    ) -> _MappingFetch:
        metadata: dict[tuple[str, int | None], bytes] = {("timestamp", None): timestamp}
        metadata.update(given.items())
        for index, root in enumerate(roots):
            metadata["root", index + 1] = root
        content = dict(targets)
        for role in ("targets", KEYRING_ROLE):
            # Unverified names, only to know what to read ahead; the client run verifies all of it.
            for info in trust.parse(Targets, _highest(given, role).data).signed.targets.values():
                digest = f"sha256:{info.hashes.get('sha256', '')}"
                stored = None if digest in content else await self._store.get_target(digest)
                if stored is not None:
                    content[digest] = stored
        return _MappingFetch(metadata, content)

    def _verify(self, root: bytes, realm: str, fetch: Fetch, floors: PolicyFloors) -> Candidate:
        # Only now: python-tuf's client with its HTTP is 2 MB that a hub has no use for until somebody uploads.
        from cellward.policy import client  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="cellward-publish-") as name:
            candidate = client.update(
                Path(name),
                bootstrap=root,
                realm=realm,
                fetch=fetch,
                wanted=client.select_all,
                floors=floors,
                now=self._clock.now(),
            )
        for path, data in candidate.verified.bundles.items():
            bundle = read_bundle(data)
            check_disjoint([bundle])
            if bundle.target_path != path:
                raise UNVERIFIED(f"target {path} holds bundle {bundle.name} {bundle.version}")
        return candidate

    def _timestamp(self, version: int, snapshot: MetadataFile) -> bytes:
        return sign_timestamp(version, snapshot, self._signer, now=self._clock.now(), life=self._life)

    def _next_version(self, old: MetadataFile | None) -> int:
        return numbers.next_number(self._clock.now(), (old.version,) if old else ())

    async def renew_timestamp(self, commit: Commit[None] | None = None) -> int | None:
        """Sign a new timestamp for the snapshot served; return its version, or None when nothing was published.

        Raises store/moved when something was published meanwhile, and what ``commit`` raises.
        """
        async with self._lock:
            snapshot, old = await self._newest("snapshot"), await self._newest("timestamp")
            if snapshot is None or old is None:
                return None
            version = self._next_version(old)
            data = self._timestamp(version, snapshot)
            expect = {"timestamp": old.version, "snapshot": snapshot.version}

            async def keep(tables: Tables) -> None:
                await tables.tuf.publish([TufMetadata("timestamp", version, data)], {}, expect)

            if commit is not None:
                await commit(keep)
            else:
                await self._store.publish([TufMetadata("timestamp", version, data)], {}, expect)
        await self._announce(version)
        return version

    async def renew_if_due(self, commit: Commit[None] | None = None) -> int | None:
        """Renew when less than RENEW_BELOW of its life is left."""
        old = await self._newest("timestamp")
        if old is None:
            return None
        left = trust.parse(Timestamp, old.data).signed.expires - self._clock.now()
        return await self.renew_timestamp(commit) if left < self._life * RENEW_BELOW else None

    async def run(self, stop: asyncio.Event, fence: Callable[[], Commit[None] | None]) -> None:
        """Renew on a timer until ``stop``, while this process may; a failure is logged and tried again next time.

        ``fence`` gives how to write under the lease, None while another process has it.
        """
        while not stop.is_set():
            seconds = WAIT_INTERVAL
            try:
                if (commit := fence()) is not None:
                    seconds = RENEW_INTERVAL
                    await self.renew_if_due(commit)
            except CellwardError as error:
                _log.warning("timestamp-renewal-failed", code=error.code, reason=error.message)
            except Exception:  # noqa: BLE001 - logged whole and tried again
                # V16: the timestamp has hours left, and the hub has other things to do.
                _log.exception("timestamp-renewal-failed")
            await stopped_within(stop, seconds)

    async def fetch(self, role: str, version: int | None) -> bytes | None:
        """Return stored metadata of a role, the newest when ``version`` is None."""
        if role not in ROLES or (version is not None and version < 1):
            return None
        return await self._store.get_metadata(role, version)

    async def newer(self, root_version: int, snapshot_version: int) -> NewerFiles | None:
        """Return what an agent with these versions lacks of the newest set, large bundles apart; None before any.

        Read without a transaction: what a publish makes of it in between, an agent finds not to fit and fetches singly.
        """
        found = {role: await self._newest(role) for role in ("timestamp", "snapshot", "targets", KEYRING_ROLE)}
        files = [file for file in found.values() if file is not None]
        if len(files) < len(found):
            return None
        roots: list[MetadataFile] = []
        while len(roots) < _MAX_ROOTS:
            version = root_version + len(roots) + 1
            data = await self._store.get_metadata("root", version)
            if data is None:
                break
            roots.append(MetadataFile("root", version, data))
        if files[1].version == snapshot_version:
            return NewerFiles((*roots, files[0]), ())
        places = ((files[2], BINDINGS_TARGET), (files[3], KEYRING_TARGET), (files[3], REVOCATIONS_TARGET))
        targets = [await self._small(file, path) for file, path in places]
        targets += await self._new_bundles(files[2], snapshot_version)
        return NewerFiles((*roots, *files), tuple(data for data in targets if data is not None))

    async def _new_bundles(self, targets: MetadataFile, snapshot_version: int) -> Sequence[bytes | None]:
        """Small bundles that the set of a snapshot had not; which of them an agent wants, its bindings say."""
        before = await self._targets_of(snapshot_version)
        digests: list[str] = []
        room = _BUNDLES
        for path, info in trust.parse(Targets, targets.data).signed.targets.items():
            digest = info.hashes.get("sha256", "")
            if path != BINDINGS_TARGET and digest not in before and info.length <= min(room, _BUNDLE):
                digests.append(digest)
                room -= info.length
        return [await self._store.get_target(f"sha256:{digest}") for digest in digests]

    async def _targets_of(self, snapshot_version: int) -> frozenset[str]:
        """Digests of what the set of a snapshot named; empty where the snapshot is not known here."""
        data = await self._store.get_metadata("snapshot", snapshot_version) if snapshot_version else None
        if data is None:
            return frozenset()
        version = trust.parse(Snapshot, data).signed.meta["targets.json"].version
        found = await self._store.get_metadata("targets", version)
        if found is None:
            return frozenset()
        named = trust.parse(Targets, found).signed.targets.values()
        return frozenset(info.hashes.get("sha256", "") for info in named)

    async def _small(self, file: MetadataFile, path: str) -> bytes | None:
        info = trust.parse(Targets, file.data).signed.targets.get(path)
        return None if info is None else await self._store.get_target(f"sha256:{info.hashes.get('sha256', '')}")

    async def fetch_target(self, digest: str) -> bytes | None:
        """Return a stored target."""
        return await self._store.get_target(digest)

    async def state(self) -> RepositoryState | None:
        """Return what is published, for the publisher to build upon; None before the first publish."""
        if await self._store.get_metadata("root", 1) is None:
            return None
        targets, keyring, snapshot = [await self.fetch(role, None) for role in ("targets", KEYRING_ROLE, "snapshot")]
        return RepositoryState(tuple(await self._roots({})), targets, keyring, snapshot)

    async def revocations(self) -> Revocations:
        """Return what the set that is served revokes; it was verified when it was published."""
        served = await self._newest(KEYRING_ROLE)
        data = None if served is None else await self._small(served, REVOCATIONS_TARGET)
        return NOTHING_REVOKED if data is None else Revocations.from_bytes(data)

    async def status(self) -> PublishResult | None:
        """Return the versions served, None before the first publish."""
        found = {role: await self._newest(role) for role in ROLES}
        if any(file is None for file in found.values()):
            return None
        versions = {role: file.version for role, file in found.items() if file is not None}
        first = await self._store.get_metadata("root", 1)
        snapshot = found["snapshot"]
        if first is None or snapshot is None:
            raise NOTHING_PUBLISHED("there is no root of version 1")
        return PublishResult(
            realm=trust.realm_of(first),
            root_version=versions["root"],
            targets_version=versions["targets"],
            keyring_version=versions[KEYRING_ROLE],
            snapshot_version=versions["snapshot"],
            timestamp_version=versions["timestamp"],
            snapshot_expires=trust.parse(Snapshot, snapshot.data).signed.expires,
        )

    async def timestamp_version(self) -> int:
        """Return the version of the timestamp served, 0 before the first publish; one read, asked once per agent."""
        data = await self._store.get_metadata("timestamp")
        if data is None:
            return 0
        if data != self._parsed[0]:
            self._parsed = (data, _version_of("timestamp", data))
        return self._parsed[1]

    async def _newest(self, role: str) -> MetadataFile | None:
        data = await self._store.get_metadata(role)
        return None if data is None else MetadataFile(role, _version_of(role, data), data)

    async def _announce(self, version: int) -> None:
        for callback in tuple(self.on_new_timestamp):
            await callback(version)


def _version_of(role: str, data: bytes) -> int:
    if role == "root":
        return trust.parse(Root, data).signed.version
    if role == "snapshot":
        return trust.parse(Snapshot, data).signed.version
    if role == "timestamp":
        return trust.parse(Timestamp, data).signed.version
    return trust.parse(Targets, data).signed.version


def _check_new_root(newest: int, snapshot: MetadataFile, before: Mapping[str, MetadataFile | None]) -> None:
    """Refuse a new root that comes without a new snapshot (policy/incomplete-set).

    Whoever completes one makes a set for it. By itself it comes from somebody who has the file of a ceremony and no
    key, ahead of its publishers.
    """
    root, served = before[Root.type], before[Snapshot.type]
    if root is not None and served is not None and newest > root.version and snapshot.version <= served.version:
        raise INCOMPLETE(f"root version {newest} comes without a new snapshot")


def _highest(given: Mapping[tuple[str, int], bytes], role: str) -> MetadataFile:
    versions = [version for name, version in given if name == role]
    if not versions:
        raise INCOMPLETE(f"the upload has no {role} metadata")
    return MetadataFile(role, max(versions), given[role, max(versions)])


def _files(
    given: Mapping[tuple[str, int], bytes],
    replaced: Mapping[tuple[str, int], bytes],
    candidate: Candidate,
    timestamp: bytes,
) -> list[TufMetadata]:
    """Return what is kept of an upload: what was verified, and the timestamp made for it."""
    verified = candidate.verified
    newest = {
        "targets": verified.targets_version,
        KEYRING_ROLE: verified.keyring_version,
        "snapshot": verified.snapshot_version,
    }
    files = [TufMetadata("timestamp", verified.timestamp_version, timestamp)]
    for (role, version), data in given.items():
        if version == newest.get(role) or (role == "root" and version <= verified.root_version):
            files.append(TufMetadata(role, version, data, replaced.get((role, version))))
    return files


def _result(candidate: Candidate) -> PublishResult:
    verified = candidate.verified
    return PublishResult(
        realm=verified.realm,
        root_version=verified.root_version,
        targets_version=verified.targets_version,
        keyring_version=verified.keyring_version,
        snapshot_version=verified.snapshot_version,
        timestamp_version=verified.timestamp_version,
        snapshot_expires=verified.snapshot_expires,
    )
