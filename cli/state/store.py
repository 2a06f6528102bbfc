"""Reading and writing the local state: one lock, whole files, durable before the call returns.

``state/state.json`` is the index and ``state/previous.json`` the one before, ``state/blobs/HEX`` are whole payloads by
their digest, ``state/lock`` is held while the state is changed. A blob is written before the index names it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellward.documents.strict import strict_json
from cellward.errors import CellwardError
from cellward.runtime.files import write_atomic
from cli.state.errors import BAD_STATE, FOREIGN_STATE, STATE_BUSY, STATE_FORMAT
from cli.state.model import FORMAT, READABLE, State, upgraded

#: Seconds to wait for another command.
PATIENCE = 30.0
_STEP = 0.05
_MAX_STATE, _MAX_BLOB = 64 * 1024**2, 4 * 1024**2


class Change:
    """The state while it is locked; what ``state`` is at the end is kept."""

    def __init__(self, store: Store, state: State) -> None:
        self._store = store
        self.state = state

    def put(self, payload: bytes) -> str:
        """Keep a whole payload, durably at once; returns its digest."""
        return self._store.put(payload)


class Store:
    """The local state of one home and one realm; makes nothing before it is changed."""

    def __init__(self, home: Path, realm: str) -> None:
        self.directory = home / "state"
        self._realm = realm

    @property
    def file(self) -> Path:
        """The index."""
        return self.directory / "state.json"

    @property
    def previous(self) -> Path:
        """The index before the last change."""
        return self.directory / "previous.json"

    def read(self) -> State:
        """Read it; raises cli/bad-state, cli/state-format, cli/foreign-state."""
        data = self._bytes(self.file, _MAX_STATE)
        if data is None:
            return State(realm=self._realm)
        state = parse_state(data, self.file)
        if state.realm != self._realm:
            raise FOREIGN_STATE(f"{self.file} is of realm {state.realm}, trust.yaml names {self._realm}")
        return state

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Change it under the lock; durable when the block has ended, unchanged when it raises.

        Raises cli/state-busy, and what :meth:`read` raises.
        """
        with self.locked():
            change = Change(self, self.read())
            before = change.state
            yield change
            if change.state != before:
                self.write(change.state)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; raises cli/state-busy."""
        for directory in (self.directory.parent, self.directory, self.directory / "blobs"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(descriptor, self.directory)
            yield
        finally:
            os.close(descriptor)

    def write(self, state: State) -> None:
        """Write the index; the caller holds the lock."""
        checked = State.model_validate_json(state.model_dump_json(by_alias=True))
        if self._is_state():
            # A second name for the same durable bytes; `trust repair` reads it where the newer file is damaged.
            fresh = self.directory / ".previous"
            fresh.unlink(missing_ok=True)
            os.link(self.file, fresh)
            fresh.replace(self.previous)
        write_atomic(self.file, checked.model_dump_json(by_alias=True, indent=1).encode() + b"\n")

    def _is_state(self) -> bool:
        """Whether the index there is can be read: a damaged one does not take the place of the one before."""
        try:
            data = self._bytes(self.file, _MAX_STATE)
            return data is not None and bool(parse_state(data, self.file))
        except CellwardError:
            return False

    def put(self, payload: bytes) -> str:
        """Keep a blob; returns its digest."""
        name = hashlib.sha256(payload).hexdigest()
        write_atomic(self.directory / "blobs" / name, payload)
        return f"sha256:{name}"

    def payload(self, digest: str) -> bytes:
        """Return a blob whose bytes have this digest; raises cli/bad-state when it is missing or another one."""
        path = self.directory / "blobs" / digest.removeprefix("sha256:")
        data = self._bytes(path, _MAX_BLOB)
        if data is None or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise BAD_STATE(f"{path} is missing or damaged")
        return data

    def blobs(self) -> Iterator[tuple[Path, bytes]]:
        """Every blob whose name is the digest of its bytes; other files there are none of ours."""
        for path in sorted((self.directory / "blobs").glob("*")):
            data = self._bytes(path, _MAX_BLOB) if path.is_file() and not path.is_symlink() else None
            if data is not None and hashlib.sha256(data).hexdigest() == path.name:
                yield path, data

    @staticmethod
    def _bytes(path: Path, limit: int) -> bytes | None:
        try:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BAD_STATE(f"{path}: {error.strerror}") from error
        if len(data) > limit:
            raise BAD_STATE(f"{path} is larger than {limit} bytes")
        return data


def parse_state(data: bytes, path: Path) -> State:
    """Read the index strictly; raises cli/bad-state, cli/state-format."""
    try:
        value = strict_json(data)
        found = value.get("format") if isinstance(value, dict) else None
        if type(found) is int and found not in READABLE:
            raise STATE_FORMAT(f"{path} has format {found}, this version reads formats up to {FORMAT}")
        if type(found) is int:
            value = upgraded(value)
        return State.model_validate_json(json.dumps(value))
    except (ValueError, RecursionError) as error:
        raise BAD_STATE(f"{path} is malformed: {' '.join(str(error).split())[:300]}") from error


def _lock(descriptor: int, directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise STATE_BUSY(f"{directory} is locked by another command for {PATIENCE:.0f} s") from None
            time.sleep(_STEP)
        else:
            return
