"""Copies of a SQLite database: made while a hub runs, and put in the place of one that is damaged or gone.

Facts this stands on (SQLite documentation, VACUUM INTO and Write-Ahead Logging): ``VACUUM INTO`` writes one moment of
the database and holds up nobody who writes; a write-ahead log that stays beside another database than its own would be
applied to it. Everything here blocks, so it is not for the event loop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import Final

from hub.store.errors import BACKUP_EXISTS, DAMAGED, FULL, NOT_SQLITE, UNAVAILABLE
from hub.store.sql.database import database_file
from hub.store.sql.dialect import meaning
from hub.store.sql.sqlite import BUSY_MS

#: Files that SQLite keeps beside a database; the first one holds what was committed.
_WAL, _SHM = "-wal", "-shm"
#: Room beyond the size of the database that must be free where a backup is written, bytes.
SPARE: Final = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was written: ``size`` in bytes, ``digest`` is ``sha256:<hex>`` of the file."""

    file: Path
    size: int
    digest: str


def write_backup(url: str, target: Path, now: datetime) -> Backup:
    """Write the database as it is at one moment into a new file, readable by its owner alone.

    ``target`` is the file, or a directory that gets one named after the time. A hub may run on the database.

    Raises store/not-sqlite, store/backup-exists, store/full, store/unavailable, store/damaged; then nothing is left.
    """
    source = _file_of(url)
    if target.is_dir():
        target = target / f"hub-{now:%Y%m%dT%H%M%SZ}.db"
    if target.exists():
        raise BACKUP_EXISTS(f"{target} exists")
    part = target.with_name(f"{target.name}.part")
    with _told(target):
        if shutil.disk_usage(target.parent).free < _size(source) + SPARE:
            raise FULL(f"there is no room for a backup in {target.parent}")
        # SQLite writes into an empty file; made here, because its own would be readable by whoever the umask lets.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(source, timeout=BUSY_MS / 1000)) as connection:
                connection.execute("VACUUM INTO ?", (str(part),))
            with part.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            part.rename(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync(target.parent)
    return Backup(target, target.stat().st_size, f"sha256:{digest}")


def compact(url: str) -> tuple[int, int]:
    """Give the room back that a database does not use; return its bytes before and after.

    The caller holds the lock of the database. SQLite writes what is used beside the database first, and then through
    its write-ahead log: a process that is killed leaves the database as it was.

    Raises store/not-sqlite, store/full, store/unavailable, store/damaged; then the database is what it was.
    """
    source = _file_of(url)
    with _told(source), contextlib.closing(sqlite3.connect(source, timeout=BUSY_MS / 1000)) as connection:
        before = _size(source)
        pages, free, page = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        if shutil.disk_usage(source.parent).free < 2 * (pages - free) * page + SPARE:
            raise FULL(f"there is no room to write what is used of {source} again, twice")
        with _temporary(source.parent):
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return before, _size(source)


@contextmanager
def _temporary(directory: Path) -> Iterator[None]:
    """Let SQLite write what is temporary into a directory: that of the system may be small, or memory."""
    before = os.environ.get(_TEMPORARY)
    os.environ[_TEMPORARY] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TEMPORARY]
        else:
            os.environ[_TEMPORARY] = before


_TEMPORARY: Final = "SQLITE_TMPDIR"


def copy_of(backup: Path, target: Path) -> None:
    """Copy a backup to a new file beside which it can be opened; raises store/damaged, store/unavailable, store/full.

    The copy is a whole database: what a backup has in a write-ahead log of its own is nobody's to guess.
    """
    with _told(target):
        if Path(f"{backup}{_WAL}").exists():
            raise UNAVAILABLE(f"{backup} is in use, or a bare copy of a database in use; use a finished backup")
        forget_copy(target)
        with backup.open("rb") as source, os.fdopen(os.open(target, _NEW, 0o600), "wb") as copy:
            shutil.copyfileobj(source, copy, 1024**2)
        with contextlib.closing(sqlite3.connect(target)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if found != "ok":
        raise DAMAGED(f"pages of {backup} do not fit together: {found[:200]}")


_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def put_in_place(copy: Path, database: Path, now: datetime) -> Path | None:
    """Make ``copy``, in the same directory, the database; return where the one before is now, None if there was none.

    The caller holds the lock of the database, and nobody has ``copy`` open. At every moment there is a database in the
    place, the one before or the new one. Raises store/unavailable, store/full.
    """
    with _told(database):
        _close(copy)
        if not database.exists():
            _rename(database, _WAL, database.with_name(f"{database.name}.lost-{now:%Y%m%dT%H%M%SZ}"))
            copy.replace(database)
            _sync(database.parent)
            return None
        kept = database.with_name(f"{database.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
        os.link(database, kept)
        # Not taken in first: SQLite throws away what does not fit, and this may be all there is of it.
        _rename(database, _WAL, kept)
        _rename(database, _SHM, kept)
        _sync(database.parent)
        copy.replace(database)
        _sync(database.parent)
        return kept


def _close(database: Path) -> None:
    """Take the write-ahead log into the database; closing the last connection removes it."""
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise meaning(error) from error


def _rename(database: Path, suffix: str, kept: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(f"{database}{suffix}").rename(f"{kept}{suffix}")


def forget_copy(database: Path) -> None:
    """Remove a copy that was not put in place."""
    for suffix in (_WAL, _SHM, ""):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def _file_of(url: str) -> Path:
    file = database_file(url)
    if file is None:
        raise NOT_SQLITE("the hub's database is PostgreSQL")
    if not file.exists():
        raise UNAVAILABLE(f"there is no database at {file}")
    return file


def _size(database: Path) -> int:
    return sum(
        Path(f"{database}{suffix}").stat().st_size for suffix in ("", _WAL) if Path(f"{database}{suffix}").exists()
    )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise meaning(error) from error
    except FileExistsError as error:
        raise BACKUP_EXISTS(f"{error.filename2 or error.filename} exists") from error
    except OSError as error:
        raise UNAVAILABLE(f"{target} cannot be written: {error.strerror}") from error
