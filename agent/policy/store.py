"""PolicyStore: the accepted set on disk, the floors, and the staged directory each refresh works in.

Layout below the given directory, which is private to the agent::

    current.json        which generation holds, with the digest of every file, versions and expiries
    floors.json         highest versions ever accepted; a copy is in current.json
    accepted/<n>/       metadata/ (python-tuf's own layout) and targets/<sha256 hex>
    staged/<random>/    a copy that one refresh works on; thrown away unless everything succeeded

All methods are synchronous and run in a worker thread, one at a time.
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
from cellward.policy.errors import STATE_CORRUPT, STATE_UNWRITABLE
from cellward.runtime.files import write_atomic

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.policy.model import Binding, VerifiedSet

SCHEMA = "cellward.policy-state/v1"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found at start: the set accepted before, or none; and what was wrong, if anything."""

    verified: VerifiedSet | None
    findings: tuple[CellwardError, ...]


class PolicyStore:
    """One agent's accepted policy; only one process may use the directory."""

    def __init__(self, directory: Path, *, root: bytes, realm: str) -> None:
        self._directory = directory
        self._root = root
        self._realm = realm
        self._generation = 0
        self._files: dict[str, bytes] = {}
        self._floors = trust.PolicyFloors()
        self._capabilities = ""

    @property
    def floors(self) -> trust.PolicyFloors:
        """Highest versions ever accepted; they outlive a corrupted set, root rotation and replaced keys."""
        return self._floors

    @property
    def capabilities_digest(self) -> str:
        """Capabilities under which the accepted bundles were compiled, empty when that is not known."""
        return self._capabilities

    def load(self, wanted: Callable[[Binding], bool]) -> Loaded:
        """Read the accepted set, re-hash every file, and verify all signatures again, offline.

        Never raises for what is on disk: a set that is not what was recorded is a finding, and then there is none.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(self._directory / "staged", ignore_errors=True)
        findings: list[CellwardError] = []
        kept = self._read_floors(findings)
        current = self._read_current(findings)
        if current is None:
            self._floors = kept
            return Loaded(None, tuple(findings))
        try:
            self._floors = kept.merged(trust.PolicyFloors.from_json(current.get("floors")))
            verified = self._verify(current, wanted)
        except (CellwardError, ValueError, TypeError, OSError) as error:
            self._floors = kept.merged(self._floors)
            findings.append(STATE_CORRUPT(f"the accepted policy cannot be used: {error}"))
            return Loaded(None, tuple(findings))
        return Loaded(verified, tuple(findings))

    def _read_floors(self, findings: list[CellwardError]) -> trust.PolicyFloors:
        file = self._directory / "floors.json"
        try:
            return trust.PolicyFloors.from_json(json.loads(file.read_bytes()))
        except FileNotFoundError:
            if (self._directory / "current.json").exists():
                findings.append(STATE_CORRUPT("floors.json is missing beside an accepted set"))
        except (OSError, ValueError) as error:
            findings.append(STATE_CORRUPT(f"floors.json cannot be read: {type(error).__name__}"))
        return trust.PolicyFloors()

    def _read_current(self, findings: list[CellwardError]) -> Mapping[str, object] | None:
        try:
            current = json.loads((self._directory / "current.json").read_bytes())
        except FileNotFoundError:
            if (self._directory / "floors.json").exists():
                findings.append(STATE_CORRUPT("there are floors, but no accepted set"))
            return None
        except (OSError, ValueError) as error:
            findings.append(STATE_CORRUPT(f"current.json cannot be read: {type(error).__name__}"))
            return None
        if not isinstance(current, dict) or current.get("schema") != SCHEMA:
            findings.append(STATE_CORRUPT("current.json is not of a known schema"))
            return None
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
        """Make a candidate the accepted set: files, floors, then current.json, each durable before the next.

        ``capabilities_digest`` says what its bundles were compiled with; None when they are those accepted before. A
        crash in between leaves the old set, at most with higher floors.
        Raises policy/state-unwritable; then the old set holds too.
        """
        generation = self._generation + 1
        capabilities = self._capabilities if capabilities_digest is None else capabilities_digest
        accepted = self._directory / "accepted"
        place = accepted / str(generation)
        shutil.rmtree(place, ignore_errors=True)
        try:
            for path, data in candidate.files.items():
                target = place / path
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomic(target, data)
            for directory in (place, accepted, self._directory):
                _sync(directory)
            floors = candidate.floors
            write_atomic(self._directory / "floors.json", _encode(floors.to_json()))
            write_atomic(self._directory / "current.json", _encode(_record(candidate, generation, now, capabilities)))
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise STATE_UNWRITABLE(f"the accepted policy could not be written: {error.strerror}") from error
        self._generation, self._files, self._floors = generation, dict(candidate.files), floors
        self._capabilities = capabilities
        for old in accepted.iterdir():
            if old.name != str(generation):
                with contextlib.suppress(OSError):
                    shutil.rmtree(old)


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
