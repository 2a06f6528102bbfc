"""Keeping the hub's data: backups, restores, the look for damage, and the retention of the audit log.

``cellward-hub backup|fsck|restore|archive|prune|compact`` on the hub's machine, and what of it the admin API offers.
Invariants: a client names no path; a restore changes nothing before the backup was checked whole, and never while a hub
runs; a restored store begins a new history, so agents compare instead of resuming (V1), and says so in its log.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from cellward.runtime.clock import Clock, SystemClock
from hub.audit.damage import verify_log
from hub.audit.errors import SEGMENT_DIFFERS
from hub.audit.export import SEGMENT_FORMAT
from hub.audit.segments import RECORDS, Segments
from hub.documents.realm import RealmService
from hub.store.errors import NO_BACKUP_DIRECTORY, NO_BACKUP_NAMED, NOT_SQLITE, UNAVAILABLE
from hub.store.log import AuditEvent
from hub.store.sql.alone import alone
from hub.store.sql.backup import Backup, compact, copy_of, forget_copy, put_in_place, write_backup
from hub.store.sql.database import database_file
from hub.store.sql.store import SqlStore, open_store

if TYPE_CHECKING:
    from hub.settings import HubSettings
    from hub.store.interfaces import Store, Tables


@dataclass(frozen=True, slots=True)
class Found:
    """What a look for damage found: nothing, or it would have raised. ``records`` are those of the audit log."""

    pages: str
    records: int


async def look_through(store: Store) -> Found:
    """Look for damage of a whole store; raises store/damaged, naming the first thing that does not fit."""
    pages = await store.verify()
    known = await RealmService(store.meta).current()
    size = await store.audit.size()
    await verify_log(store.audit, known.realm if known is not None else "")
    return Found(pages, size)


class Keeping:
    """Backups and looks for damage that an admin asks a running hub for, one at a time.

    Args:
        url: of the database.
        directory: where backups go; None where none was set.
        store: the open database.
        clock: names the files.
    """

    def __init__(self, url: str, directory: Path | None, store: Store, clock: Clock) -> None:
        self._url = url
        self._directory = directory
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()

    async def back_up(self) -> Backup:
        """Write a backup into the directory; raises store/no-backup-directory and what ``write_backup`` raises."""
        if self._directory is None:
            raise NO_BACKUP_DIRECTORY("backup_dir is not set")
        async with self._turn:
            return await asyncio.to_thread(write_backup, self._url, self._directory, self._clock.now())

    async def check(self) -> Found:
        """Look for damage of all of it; raises store/damaged."""
        async with self._turn:
            return await look_through(self._store)


async def back_up(settings: HubSettings, target: Path | None) -> Mapping[str, object]:
    """``cellward-hub backup``: write a backup to a file or into a directory, whether a hub runs or not."""
    assert target is not None, "the command asks for it"
    made = await asyncio.to_thread(write_backup, settings.database, target, SystemClock().now())
    return {"file": str(made.file), "bytes": made.size, "digest": made.digest}


async def fsck(settings: HubSettings, backup: Path | None) -> Mapping[str, object]:
    """``cellward-hub fsck``: look for damage of the database, whether a hub runs or not, or of a backup."""
    if backup is None:
        found = await _looked(settings.database, change=False)
    else:
        # Of a copy: opening a database changes it.
        with TemporaryDirectory(prefix="cellward-fsck-", dir=backup.parent) as name:
            copy = Path(name) / "hub.db"
            await asyncio.to_thread(copy_of, backup, copy)
            found = await _looked(f"sqlite:///{copy}", change=True)
    return {"pages": found.pages, "auditRecords": found.records}


async def _looked(url: str, *, change: bool) -> Found:
    store = await open_store(url, change=change)
    try:
        return await look_through(store)
    finally:
        await store.close()


async def restore(settings: HubSettings, backup: Path | None) -> Mapping[str, object]:
    """``cellward-hub restore``: check a backup and put it in the place of the database; refused while a hub runs.

    What the tools of PostgreSQL have restored is in its place already, and no file is named: it is checked, and a new
    history begins.

    Raises store/in-use, store/damaged, store/newer-schema, store/not-sqlite, store/no-backup-named; then the database
    is what it was.
    """
    clock = SystemClock()
    database = database_file(settings.database)
    if database is None:
        if backup is not None:
            raise NOT_SQLITE("the hub's database is PostgreSQL; pg_restore has restored it before this, without a file")
        return await _begin(settings.database, "of PostgreSQL", unused=True)
    if backup is None:
        raise NO_BACKUP_NAMED(f"{database} is restored from a file")
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(settings.database):
        copy = database.with_name(f"{database.name}.restoring")
        try:
            await asyncio.to_thread(copy_of, backup, copy)
            said = await _begin(f"sqlite:///{copy}", backup.name)
            kept = await asyncio.to_thread(put_in_place, copy, database, clock.now())
        finally:
            await asyncio.to_thread(forget_copy, copy)
    return {"database": str(database), "replaced": str(kept) if kept is not None else "", **said}


async def _begin(url: str, name: str, *, unused: bool = False) -> Mapping[str, object]:
    """Check what a backup brought whole, and begin a new history over it; ``unused``: refuse where a hub uses it."""
    store = await open_store(url)
    try:
        found = await look_through(store)
        reason = f"restored from the backup {name} with {found.records} records of this log"
        size = {"size": str(found.records)}
        event = AuditEvent("hub", "hub.restore", "Hub", "finding", reason=reason, details=size, new_epoch=True)
        epoch = await store.begin_restored(event, unused=unused)
        # What was revoked after the backup was made is in force again.
        tokens = [token.subject for token in await store.api_tokens.list()]
    finally:
        await store.close()
    return {"auditRecords": found.records, "hubEpoch": epoch, "apiTokensInForce": tokens}


async def archive(settings: HubSettings, directory: Path | None) -> Mapping[str, object]:
    """``cellward-hub archive``: write every sealed segment of the audit log that is not in a directory yet."""
    assert directory is not None, "the command asks for it"
    written: list[dict[str, object]] = []
    async with _segments(settings) as (_, segments):
        for segment in await segments.list():
            if segment.pruned:
                continue
            file = directory / f"audit-segment-{segment.number:06d}.ndjson"
            await segments.get(segment.number)
            digest = await _write(segments, segment.number, file)
            written.append({"segment": segment.number, "file": str(file), "digest": digest})
    return {"segments": written}


async def prune(settings: HubSettings, file: Path | None) -> Mapping[str, object]:
    """``cellward-hub prune``: forget the segment that a file is the export of; it must be the oldest that is here.

    Raises audit/segment-differs unless the file is exactly that, and as ``Segments.prune``.
    """
    assert file is not None, "the command asks for it"
    number, digest = await asyncio.to_thread(_read, file)
    async with _segments(settings) as (store, segments):
        event = AuditEvent("hub", "audit.prune", f"AuditSegment//{number}", "done", details={"digest": digest})

        async def commit(job: Callable[[Tables], Awaitable[None]], /) -> None:
            async def recorded(tables: Tables) -> None:
                await job(tables)
                await tables.audit.put_events([event])

            await store.transact(recorded)

        gone = await segments.prune(number, digest, commit)
    return {"segment": gone.number, "first": gone.first, "end": gone.end, "digest": digest}


async def give_back(settings: HubSettings, _: Path | None) -> Mapping[str, object]:
    """``cellward-hub compact``: give the room of what was pruned back to the volume; refused while a hub runs.

    Raises store/in-use, store/full, store/not-sqlite: PostgreSQL has VACUUM FULL for it.
    """
    with alone(settings.database):
        before, after = await asyncio.to_thread(compact, settings.database)
    return {"database": str(database_file(settings.database)), "bytesBefore": before, "bytesAfter": after}


@asynccontextmanager
async def _segments(settings: HubSettings) -> AsyncIterator[tuple[SqlStore, Segments]]:
    store = await open_store(settings.database, change=False)
    try:
        known = await RealmService(store.meta).current()
        yield store, Segments(store.audit, lambda: known.realm if known is not None else "", RECORDS)
    finally:
        await store.close()


async def _write(segments: Segments, number: int, file: Path) -> str:
    """Write one segment, durable; one that is there already must be the same."""
    part = file.with_name(f"{file.name}.part")
    found = sha256()
    try:
        with part.open("wb") as out:

            async def write(data: bytes) -> None:
                found.update(data)
                await asyncio.to_thread(out.write, data)

            await segments.export(number, write)
            out.flush()
            os.fsync(out.fileno())
        digest = f"sha256:{found.hexdigest()}"
        if await asyncio.to_thread(_digest, file) not in {"", digest}:
            raise SEGMENT_DIFFERS(f"{file} is not the export of segment {number}")
        part.replace(file)
    except OSError as error:
        raise UNAVAILABLE(f"{file} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return digest


def _read(file: Path) -> tuple[int, str]:
    """Return the number of the segment that a file says it is, and the file's digest."""
    try:
        with file.open("rb") as lines:
            header = json.loads(lines.readline(_LONGEST_HEADER))
        first = header["first"]
        if header["format"] != SEGMENT_FORMAT or type(first) is not int or first % RECORDS:
            raise SEGMENT_DIFFERS(f"{file} is no segment of this log")
        return first // RECORDS, _digest(file)
    except OSError as error:
        raise UNAVAILABLE(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SEGMENT_DIFFERS(f"{file} is no segment of this log") from error


def _digest(file: Path) -> str:
    """Return a file's digest, empty where there is none."""
    if not file.exists():
        return ""
    with file.open("rb") as content:
        return f"sha256:{file_digest(content, 'sha256').hexdigest()}"


_LONGEST_HEADER: Final = 4096
