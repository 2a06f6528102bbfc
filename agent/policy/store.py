"""PolicyStore: the accepted set on disk with its floors, and the staged directory each refresh works in.

Layout below the given directory, which is private to the agent::

    current.json        which generation holds, the digest of every file, and the highest versions ever accepted
    accepted/<n>/       metadata/ (python-tuf's own layout) and targets/<sha256 hex>
    staged/<random>/    a copy that one refresh works on; thrown away unless everything succeeded

A copy of the floors is kept elsewhere by whoever uses the store, and given back at start: so a directory that was
emptied or restored from an older backup is noticed, and the floors outlive it. All methods are synchronous and run in
a worker thread, one at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellward.errors import CellwardError
from cellward.policy import client, trust
from cellward.policy.errors import STATE_CORRUPT, STATE_OLDER, STATE_UNWRITABLE
from cellward.policy.floors import PolicyFloors
from cellward.runtime.files import write_atomic

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.policy.model import Binding, VerifiedSet

SCHEMA = "cellward.policy-state/v1"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found at start: the set accepted before, or none; and what was wrong with the files, if anything."""

    verified: VerifiedSet | None
    finding: CellwardError | None = None


class PolicyStore:
    """One agent's accepted policy; only one process may use the directory."""

    def __init__(self, directory: Path, *, root: bytes, realm: str) -> None:
        self._directory = directory
        self._root = root
        self._realm = realm
        self._generation = 0
        self._files: dict[str, bytes] = {}
        self._floors = PolicyFloors()
        self._capabilities = ""

    @property
    def floors(self) -> PolicyFloors:
        """Highest versions ever accepted; they outlive a corrupted set, root rotation and replaced keys."""
        return self._floors

    @property
    def capabilities_digest(self) -> str:
        """Capabilities under which the accepted bundles were compiled, empty when that is not known."""
        return self._capabilities

    def load(self, wanted: Callable[[Binding], bool], kept: PolicyFloors | None = None) -> Loaded:
        """Read the accepted set, re-hash every file, and verify all signatures again, offline.

        ``kept`` is the copy of the floors from elsewhere. Never raises for what is on disk: a set that is not what was
        recorded, or below its floors, is a finding, and then there is none.
        """
        self._floors = kept or PolicyFloors()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.rmtree(self._directory / "staged", ignore_errors=True)
            current = self._read_current()
            if current is None:
                return Loaded(None, STATE_OLDER("the accepted policy is gone") if self._floors.roles else None)
            self._floors = self._floors.merged(PolicyFloors.from_json(current.get("floors")))
            return Loaded(self._verify(current, wanted))
        except CellwardError as error:
            finding = error if error.code == STATE_OLDER.code else STATE_CORRUPT(f"the policy cannot be used: {error}")
        except (ValueError, TypeError, OSError) as error:
            finding = STATE_CORRUPT(f"the accepted policy cannot be read: {type(error).__name__}")
        return Loaded(None, finding)

    def _read_current(self) -> Mapping[str, object] | None:
        try:
            current = json.loads((self._directory / "current.json").read_bytes())
        except FileNotFoundError:
            return None
        if not isinstance(current, dict) or current.get("schema") != SCHEMA:
            raise STATE_CORRUPT("current.json is not of a known schema")
        return current

    def _verify(self, current: Mapping[str, object], wanted: Callable[[Binding], bool]) -> VerifiedSet:
        generation, recorded = current.get("generation"), current.get("files")
        if not isinstance(generation, int) or not isinstance(recorded, dict):
            raise STATE_CORRUPT("current.json misses generation or files")
        self._generation = generation
        files = client.read_files(self._directory / "accepted" / str(generation))
        found = {path: trust.digest_of(data) for path, data in files.items()}
        if found != recorded:
            wrong = sorted(path for path in {*found, *recorded} if found.get(path) != recorded.get(path))
            raise STATE_CORRUPT(f"{wrong[0]} is not the file that was accepted", file=wrong[0])
        parsed = trust.verify_set(client.metadata_of(files, self._root))
        older = self._floors.undercut_by(trust.floors_of(parsed))
        if older:
            raise STATE_OLDER(f"the {older} on disk is not the newest that was accepted", role=older)
        verified = client.assemble(parsed, files, realm=self._realm, wanted=wanted)
        self._files = files
        self._capabilities = str(current.get("capabilitiesDigest", ""))
        return verified

    def fetch(self, fetch: client.Fetch, wanted: Callable[[Binding], bool], now: datetime) -> client.Candidate:
        """Fetch and verify the newest set in a staged copy, which is removed whatever happens.

        Raises policy/*; nothing that was accepted is touched.
        """
        staged = self._directory / "staged" / secrets.token_hex(8)
        try:
            for path, data in self._files.items():
                target = staged / path
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                target.write_bytes(data)
            return client.update(
                staged,
                bootstrap=self._root,
                realm=self._realm,
                fetch=fetch,
                wanted=wanted,
                floors=self._floors,
                now=now,
            )
        except OSError as error:
            raise STATE_UNWRITABLE(f"the staged policy could not be written: {error.strerror}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def changed(self, candidate: client.Candidate) -> bool:
        """Whether a candidate differs from what is accepted in any byte."""
        return dict(candidate.files) != self._files

    def commit(self, candidate: client.Candidate, now: datetime, capabilities_digest: str | None = None) -> None:
        """Make a candidate the accepted set: files, then current.json, each durable before the next.

        ``capabilities_digest`` says what its bundles were compiled with; None when they are those accepted before.
        A crash in between leaves the old set. Raises policy/state-unwritable; then the old set decides on, and after a
        restart one of the two, whole.
        """
        capabilities = self._capabilities if capabilities_digest is None else capabilities_digest
        accepted, generation = self._directory / "accepted", self._generation + 1
        begun = False
        try:
            place = _fresh(accepted / str(generation))
            for path, data in candidate.files.items():
                target = place / path
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomic(target, data)
            for directory in (place, accepted, self._directory):
                _sync(directory)
            begun = True
            # From here on the files may be what current.json names, also when this raises.
            self._generation = generation
            record = _record(candidate, generation, now, capabilities)
            write_atomic(self._directory / "current.json", _encode(record))
        except OSError as error:
            if not begun:
                shutil.rmtree(accepted / str(generation), ignore_errors=True)
            raise STATE_UNWRITABLE(f"the accepted policy could not be written: {error.strerror}") from error
        self._files, self._floors, self._capabilities = dict(candidate.files), candidate.floors, capabilities
        for old in accepted.iterdir():
            if old.name != str(generation):
                with contextlib.suppress(OSError):
                    shutil.rmtree(old)


def _fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, mode=0o700)
    return place


def _record(candidate: client.Candidate, generation: int, now: datetime, capabilities: str) -> dict[str, object]:
    verified = candidate.verified
    return {
        "schema": SCHEMA,
        "generation": generation,
        "realm": verified.realm,
        "acceptedAt": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "snapshotExpires": f"{verified.snapshot_expires:%Y-%m-%dT%H:%M:%SZ}",
        "capabilitiesDigest": capabilities,
        "floors": candidate.floors.to_json(),
        "files": {path: trust.digest_of(data) for path, data in candidate.files.items()},
    }


def _encode(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
