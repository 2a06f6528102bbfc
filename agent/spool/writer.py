"""One thread that owns the SQLite connection, with group commit.

Jobs are functions of the connection. Whatever waits when the thread turns to its queue is done in one transaction, so
that one fsync serves many; each job has its own savepoint, so that one that fails takes nobody with it. A job may be
run twice (after a commit failed as a whole) and must therefore depend on nothing but the connection.

Invariants: a job's future resolves only after its transaction is on disk (WAL, ``synchronous=FULL``); after any
failure the file holds what it held before the job; the thread outlives every failure. When even a rollback fails, the
connection is dropped (SQLite then forgets what was not committed) and the file is opened again for the next group.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agent.spool.errors import CLOSED, FULL, UNWRITABLE

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], Any]

#: Jobs in one transaction at most; bounds how long the first one waits.
MAX_GROUP = 512


@dataclass(slots=True)
class _Pending:
    job: Job
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """Runs jobs on its own thread; see the module's text.

    Args:
        path: the SQLite file.
        max_bytes: bound of the file, enforced by SQLite itself; reaching it is ``spool/full``.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def start(self) -> None:
        """Open the file; raises ``sqlite3.DatabaseError`` when it is not a database."""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(opened,), name="spool-writer", daemon=True)
        self._thread.start()
        try:
            await asyncio.wrap_future(opened)
        except BaseException:
            self._closed = True
            raise

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job in a transaction and return its result once it is durable.

        Raises:
            CellwardError: ``spool/full``, ``spool/unwritable``, ``spool/closed``, or what the job raised.
        """
        pending = _Pending(job)
        with self._lock:
            # Under the lock, so that nothing can be queued behind the end marker and wait for ever.
            if self._closed:
                raise CLOSED("the durable state was closed")
            self._queue.put(pending)
        result: T = await asyncio.wrap_future(pending.future)
        return result

    async def close(self) -> None:
        """Finish what is queued and close the file; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _serve(self, opened: Future[None]) -> None:
        try:
            connection = _open(self._path, self._max_bytes)
        except BaseException as error:  # noqa: BLE001 - handed to the caller of start()
            opened.set_exception(error)
            return
        opened.set_result(None)
        held: sqlite3.Connection | None = connection
        try:
            while True:
                group, ended = self._take()
                if group:
                    held = self._serve_group(held, group)
                if ended:
                    return
        finally:
            if held is not None:
                held.close()

    def _serve_group(self, connection: sqlite3.Connection | None, group: list[_Pending]) -> sqlite3.Connection | None:
        """Answer everybody in the group, whatever happens; return the connection if it can still be used."""
        try:
            if connection is None:
                connection = _open(self._path, self._max_bytes, mode="rw")
            _run_group(connection, group)
        except BaseException as error:  # noqa: BLE001 - a dead thread would let everybody after wait for ever
            failure = _translated(error)
            for pending in group:
                if not pending.future.done():
                    pending.future.set_exception(failure)
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            return None
        return connection

    def _take(self) -> tuple[list[_Pending], bool]:
        group: list[_Pending] = []
        item = self._queue.get()
        while item is not None:
            # A caller that gave up before its job began gets no job done.
            if item.future.set_running_or_notify_cancel():
                group.append(item)
            if len(group) >= MAX_GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True


def _open(path: Path, max_bytes: int, mode: str = "rwc") -> sqlite3.Connection:
    """Open the file; with ``rw`` only one that is there: an empty one in place of what was lost would be no state."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # Frees pages and keeps deleted audit records from lingering in the file.
        connection.execute("PRAGMA secure_delete=FAST")
        page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
        connection.execute(f"PRAGMA max_page_count={max(64, max_bytes // page_size)}")
        connection.execute(f"PRAGMA journal_size_limit={16 * 1024 * 1024}")
        check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise sqlite3.DatabaseError(f"quick_check: {check}")  # noqa: TRY301 - closing is the same for all
    except BaseException:
        connection.close()
        raise
    return connection


def _run_group(connection: sqlite3.Connection, group: list[_Pending]) -> None:
    outcomes = _try_together(connection, group) if len(group) > 1 else None
    if outcomes is None:
        outcomes = [_run_alone(connection, pending) for pending in group]
    for pending, (result, error) in zip(group, outcomes, strict=True):
        if error is not None:
            pending.future.set_exception(error)
        else:
            pending.future.set_result(result)


Outcome = tuple[Any, BaseException | None]


def _try_together(connection: sqlite3.Connection, group: list[_Pending]) -> list[Outcome] | None:
    """Run all jobs in one transaction; None when that failed as a whole and nothing was written."""
    outcomes: list[Outcome] = []
    try:
        connection.execute("BEGIN")
        for pending in group:
            connection.execute("SAVEPOINT job")
            try:
                outcomes.append((pending.job(connection), None))
            except sqlite3.Error:
                # A full disk may have rolled back everything; each job then gets its own answer.
                _rollback(connection)
                return None
            except BaseException as error:  # noqa: BLE001 - belongs to the job's caller
                connection.execute("ROLLBACK TO job")
                outcomes.append((None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except sqlite3.Error:
        _rollback(connection)
        return None
    return outcomes


def _run_alone(connection: sqlite3.Connection, pending: _Pending) -> Outcome:
    try:
        connection.execute("BEGIN")
        result = pending.job(connection)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _rollback(connection)
        return None, _translated(error)
    except BaseException as error:  # noqa: BLE001 - belongs to the job's caller
        _rollback(connection)
        return None, error
    return result, None


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _translated(error: BaseException) -> BaseException:
    code = getattr(error, "sqlite_errorcode", 0)
    name = getattr(error, "sqlite_errorname", "")
    # SQLite reports ENOSPC as FULL on writes and as SHMSIZE when the WAL index cannot grow.
    if code == sqlite3.SQLITE_FULL or name == "SQLITE_IOERR_SHMSIZE":
        failure: BaseException = FULL(f"the state file is full ({name})")
    else:
        failure = UNWRITABLE(f"the state file cannot be used ({name or type(error).__name__}: {error})")
    failure.__cause__ = error
    return failure
