"""One run of the TUF client, shared by the agent (to accept) and the hub (to check an upload as an agent would).

It works in a directory that the caller throws away when it fails: python-tuf persists timestamp and snapshot before
the targets verify, so a bad snapshot in a directory that is kept would wedge it for good. It is synchronous; callers
run it in a worker thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol
from urllib import parse as urls

from tuf.api import exceptions
from tuf.api.metadata import Root, TargetFile, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from cellward.documents import canonical
from cellward.documents.keyring import HUB_OWNER, Keyring
from cellward.documents.numbers import check_number
from cellward.documents.revocations import Revocations
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.bindings import parse_bindings
from cellward.policy.bundle import MAX_ARCHIVE
from cellward.policy.errors import (
    BAD_ROOT,
    EXPIRED,
    FOREIGN_REALM,
    INCOMPLETE,
    NOTHING_PUBLISHED,
    ROLLBACK,
    UNREACHABLE,
    UNVERIFIED,
)
from cellward.policy.floors import PolicyFloors
from cellward.policy.model import (
    BINDINGS_TARGET,
    KEYRING_ROLE,
    KEYRING_TARGET,
    REVOCATIONS_TARGET,
    Binding,
    VerifiedSet,
)

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

MAX_DOCUMENT = 1024 * 1024
_METADATA = "cellward-metadata://set/"
_TARGETS = "cellward-target://set/"
_METADATA_NAME = re.compile(r"(?:(\d{1,16})\.)?([a-z]{1,16})\.json\Z")
_TARGET_NAME = re.compile(r"(?:[\w.+-]+/)*([0-9a-f]{64})\.[\w.+-]+\Z")
#: Small targets that every set has.
_ALWAYS = (KEYRING_TARGET, REVOCATIONS_TARGET, BINDINGS_TARGET)
_LIMITS = {"root": 512_000, "timestamp": 16_384, "snapshot": 262_144, "targets": 2_000_000, KEYRING_ROLE: 262_144}


class Fetch(Protocol):
    """Blocking access to untrusted bytes; None means absent. Raises CellwardError when out of reach."""

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return metadata of a role, the newest when ``version`` is None."""
        ...

    def target(self, digest: str, limit: int) -> bytes | None:
        """Return the target with a digest."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set that verified and may be accepted; ``files`` are all bytes it consists of, by path in the directory."""

    verified: VerifiedSet
    floors: PolicyFloors
    files: Mapping[str, bytes]


class _Fetcher(FetcherInterface):
    """Gives python-tuf the bytes of a :class:`Fetch`; absent is a 404, as it expects."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_from = fetch
        self._limit = 0
        #: The timestamp as it came; python-tuf keeps what it has when the version is the same.
        self.timestamp: bytes | None = None

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Remember the length python-tuf allows, so that the source never has to read more."""
        self._limit = max_length
        with super().download_file(url, max_length) as file:
            yield file

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._read(url)
        if data is None:
            raise exceptions.DownloadHTTPError(f"{url} is absent", 404)
        return iter((data,))

    def _read(self, url: str) -> bytes | None:
        if url.startswith(_METADATA):
            name = _METADATA_NAME.match(urls.unquote(url.removeprefix(_METADATA)))
            if name is None or name.group(2) not in _LIMITS:
                return None
            version = int(name.group(1)) if name.group(1) else None
            data = self._fetch_from.metadata(name.group(2), version, min(self._limit, _LIMITS[name.group(2)]))
            if name.group(2) == "timestamp":
                self.timestamp = data
            return data
        target = _TARGET_NAME.match(url.removeprefix(_TARGETS))
        return None if target is None else self._fetch_from.target(f"sha256:{target.group(1)}", self._limit)


def update(
    directory: Path,
    *,
    bootstrap: bytes,
    realm: str,
    fetch: Fetch,
    wanted: Callable[[Binding], bool],
    floors: PolicyFloors,
    now: datetime,
) -> Candidate:
    """Fetch and verify the newest set into ``directory``, which may hold a copy of an accepted one.

    ``wanted`` says which bindings' bundles to fetch. Raises policy/* errors; the directory is then worthless.
    """
    fetcher = _Fetcher(fetch)
    (directory / "metadata").mkdir(parents=True, exist_ok=True)
    (directory / "targets").mkdir(exist_ok=True)
    try:
        _run(directory, bootstrap, fetcher, wanted)
        if _forget_snapshot(directory):
            _run(directory, bootstrap, fetcher, wanted)
    except (exceptions.RepositoryError, exceptions.DownloadError) as error:
        raise _translate(error) from error
    files = read_files(directory)
    parsed = trust.verify_set(metadata_of(files, bootstrap))
    served = None if fetcher.timestamp is None else trust.floor_in(Timestamp.type, fetcher.timestamp)
    if served is not None and served != trust.floor_of(parsed.timestamp):
        raise ROLLBACK(f"timestamp version {parsed.timestamp.version} was accepted before with other content")
    verified = assemble(parsed, files, realm=realm, wanted=wanted)
    used = {f"targets/{verified.digests[path].removeprefix('sha256:')}" for path in _needed(verified)}
    kept = {path: data for path, data in files.items() if path in used or not path.startswith("targets/")}
    keyring = keyring_of(parsed, files)
    # By the clock, since a step cannot be bounded: whoever was away did not see the versions in between.
    check_number(keyring.version, now, "the version of the keyring")
    accepted = trust.accept(parsed, floors, now).with_keys(keyring)
    return Candidate(verified, accepted, kept)


def _forget_snapshot(directory: Path) -> bool:
    """Take away a snapshot that is the one the timestamp names in version, and not in bytes; return whether it was one.

    python-tuf keeps the file it has of a version. With a signature more than the hub's it would not fit a timestamp
    again before the next snapshot.
    """
    file = directory / "metadata" / "snapshot.json"
    named = trust.parse(Timestamp, (directory / "metadata" / "timestamp.json").read_bytes()).signed.snapshot_meta
    try:
        named.verify_length_and_hashes(file.read_bytes())
    except exceptions.LengthOrHashMismatchError:
        file.unlink()
        return True
    return False


def _needed(verified: VerifiedSet) -> set[str]:
    return {*_ALWAYS, *verified.bundles}


def _run(directory: Path, bootstrap: bytes, fetcher: _Fetcher, wanted: Callable[[Binding], bool]) -> None:
    updater = Updater(
        str(directory / "metadata"),
        _METADATA,
        str(directory / "targets"),
        _TARGETS,
        fetcher=fetcher,
        config=UpdaterConfig(max_root_rotations=64, max_delegations=2, targets_max_length=_LIMITS["targets"]),
        bootstrap=bootstrap,
    )
    updater.refresh()
    for path in _ALWAYS:
        _download(updater, directory, path, MAX_DOCUMENT)
    bindings = parse_bindings(_download(updater, directory, BINDINGS_TARGET, MAX_DOCUMENT))
    for binding in bindings.bindings:
        if wanted(binding):
            _download(updater, directory, binding.bundle, MAX_ARCHIVE)


def _download(updater: Updater, directory: Path, path: str, limit: int) -> bytes:
    info = updater.get_targetinfo(path)
    if info is None:
        raise INCOMPLETE(f"target {path} is not part of the set", target=path)
    file = directory / "targets" / _hex(info)
    if info.length > limit:
        raise INCOMPLETE(f"target {path} has {info.length} bytes, more than {limit}", target=path)
    if updater.find_cached_target(info, str(file)) is None:
        updater.download_target(info, str(file))
    return file.read_bytes()


def _hex(info: TargetFile) -> str:
    value = info.hashes.get("sha256", "")
    if set(info.hashes) != {"sha256"} or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise UNVERIFIED(f"target {info.path} must be named by its sha256 and nothing else")
    return value


def _translate(error: Exception) -> CellwardError:
    cause = error.__cause__
    if isinstance(error, exceptions.ExpiredMetadataError):
        return EXPIRED(str(error))
    if isinstance(error, exceptions.BadVersionNumberError):
        return ROLLBACK(str(error))
    if isinstance(error, exceptions.DownloadHTTPError) and str(error).startswith(f"{_METADATA}timestamp.json"):
        return NOTHING_PUBLISHED("the hub has no policy to offer yet")
    if isinstance(error, exceptions.DownloadHTTPError):
        return INCOMPLETE(f"the hub does not have all of the set: {error}")
    if isinstance(error, exceptions.DownloadLengthMismatchError):
        return UNVERIFIED(str(error))
    if isinstance(error, exceptions.DownloadError):
        return cause if isinstance(cause, CellwardError) else UNREACHABLE(f"the content could not be fetched: {error}")
    return UNVERIFIED(f"the policy does not verify: {error}")


def read_files(directory: Path) -> dict[str, bytes]:
    """Read the set's plain files by relative path; links and strange names are left out."""
    files: dict[str, bytes] = {}
    for pattern in ("metadata/root_history/*.root.json", "metadata/*.json", "targets/*"):
        for item in sorted(directory.glob(pattern)):
            if item.is_file() and not item.is_symlink():
                files[item.relative_to(directory).as_posix()] = item.read_bytes()
    return files


def metadata_of(files: Mapping[str, bytes], bootstrap: bytes) -> trust.MetadataSet:
    """Take the metadata out of a set's files; the chain of roots begins with ``bootstrap``."""
    first = trust.parse(Root, bootstrap).signed.version
    roots = [bootstrap]
    while (following := files.get(f"metadata/root_history/{first + len(roots)}.root.json")) is not None:
        roots.append(following)
    try:
        return trust.MetadataSet(
            tuple(roots),
            *(files[f"metadata/{role}.json"] for role in ("timestamp", "snapshot", "targets", KEYRING_ROLE)),
        )
    except KeyError as error:
        raise INCOMPLETE(f"{error.args[0]} is missing") from error


def assemble(
    parsed: trust.ParsedSet, files: Mapping[str, bytes], *, realm: str, wanted: Callable[[Binding], bool]
) -> VerifiedSet:
    """Make the verified set out of verified metadata and target bytes, which are checked against it here.

    Raises policy/foreign-realm, policy/incomplete-set, policy/unverified, or what parsing a target raises.
    """
    first = parsed.source.roots[0]
    if parsed.roots[0].version == 1 and trust.realm_of(first) != realm:
        raise BAD_ROOT("the root of version 1 does not give the realm this side was installed for")
    bindings = parse_bindings(_target(parsed.targets.targets, BINDINGS_TARGET, files))
    keyring = keyring_of(parsed, files)
    revocations = Revocations.from_bytes(_target(parsed.keyring.targets, REVOCATIONS_TARGET, files))
    realms = {"bindings": bindings.realm, "keyring": keyring.realm, "revocations": revocations.realm}
    for what, found in realms.items():
        if found != realm:
            raise FOREIGN_REALM(f"the {what} belong to realm {found}")
    check_authors(keyring, trust.hub_keys(parsed.roots))
    bundles: dict[str, bytes] = {}
    for binding in bindings.bindings:
        info = parsed.targets.targets.get(binding.bundle)
        if info is None or f"sha256:{_hex(info)}" != binding.bundle_digest:
            raise INCOMPLETE(
                f"binding {binding.name} names a bundle that the targets do not have", target=binding.bundle
            )
        if wanted(binding):
            bundles[binding.bundle] = _target(parsed.targets.targets, binding.bundle, files)
    return VerifiedSet(
        realm=realm,
        root_version=parsed.root.version,
        timestamp_version=parsed.timestamp.version,
        snapshot_version=parsed.snapshot.version,
        targets_version=parsed.targets.version,
        keyring_version=parsed.keyring.version,
        snapshot_expires=parsed.snapshot.expires,
        keyring=revocations.narrow(keyring),
        binding_set=bindings,
        bundles=bundles,
        digests=_digests(parsed),
        revocations=revocations,
    )


def _digests(parsed: trust.ParsedSet) -> dict[str, str]:
    found: dict[str, str] = {}
    for role in (parsed.targets, parsed.keyring):
        for path, info in role.targets.items():
            if path in found:
                raise UNVERIFIED(f"target {path} is listed by two roles", target=path)
            found[path] = f"sha256:{_hex(info)}"
    return found


def keyring_of(parsed: trust.ParsedSet, files: Mapping[str, bytes]) -> Keyring:
    """Return the keyring as it was signed, before what is revoked; raises what parsing and verifying it raises."""
    return Keyring.from_json(canonical.decode(_target(parsed.keyring.targets, KEYRING_TARGET, files)))


def check_authors(keyring: Keyring, hub_keys: frozenset[bytes]) -> None:
    """Refuse a key of the hub's among the authors', under whatever owner: the hub would be one of them (design §2)."""
    for entry in keyring.entries:
        if entry.owner != HUB_OWNER and trust.point_of(entry.spki_der) in hub_keys:
            raise UNVERIFIED(f"the keyring gives the hub's timestamp key to {entry.owner!r}", keyid=entry.keyid)


def _target(targets: Mapping[str, TargetFile], path: str, files: Mapping[str, bytes]) -> bytes:
    info = targets.get(path)
    data = None if info is None else files.get(f"targets/{_hex(info)}")
    if info is None or data is None:
        raise INCOMPLETE(f"target {path} is not part of the set", target=path)
    try:
        info.verify_length_and_hashes(data)
    except exceptions.LengthOrHashMismatchError as error:
        raise UNVERIFIED(f"target {path} is not what was signed", target=path) from error
    return data


def select_all(_binding: Binding) -> bool:
    """Fetch every bundle: what a hub does."""
    return True


def select_none(_binding: Binding) -> bool:
    """Fetch no bundle: what a command line does, which decides nothing."""
    return False
