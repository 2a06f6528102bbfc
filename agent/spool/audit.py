"""The audit spool: chain head and records in one transaction, from durable to acknowledged by the hub's log."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable

import structlog

from agent.spool.errors import FULL
from agent.spool.interfaces import Also, ChainHead, Finding, LogView, StoredRecord
from agent.spool.writer import Writer
from cellward.audit.rechain import rechain
from cellward.audit.record import NO_RECORD, record_digest
from cellward.errors import CellwardError

_log = structlog.get_logger()

#: Makes the exact bytes of the next record and their digest, from the chain's head, the last checkpoint, and nothing
#: else: it may run twice.
Build = Callable[[ChainHead, LogView], tuple[bytes, str]]
#: Makes the record that tells how many records were lost.
BuildLoss = Callable[[ChainHead, LogView, int], tuple[bytes, str]]
#: Makes the record of a finding.
BuildFinding = Callable[[ChainHead, LogView, Finding], tuple[bytes, str]]
#: Makes the record that is owed, from what was noted of it.
BuildOwed = Callable[[ChainHead, LogView, str], tuple[bytes, str]]
#: Makes the first record of an epoch that is begun because the log takes no more of the last one, from the old head
#: and checkpoint and those now.
BuildRollback = Callable[[ChainHead, LogView, ChainHead, LogView], tuple[bytes, str]]
#: So many epochs at most are skipped on a hub's word: numbers must not be used up by one that lies.
MAX_JUMP = 1000
#: Records chained again at once.
CHUNK = 500


class SqliteAuditSpool:
    """Audit records in the state file.

    Args:
        writer: owner of the file.
        max_bytes: bound of the records' bytes; smaller than the file's, so that a hub that stays away fills the spool
            and not the room of floors and inventories.
    """

    def __init__(self, writer: Writer, max_bytes: int) -> None:
        self._writer = writer
        self._max_bytes = max_bytes
        #: The epoch of the chain when it was begun here, 0 for the one the state was opened with.
        self.epoch = 0
        # Losses that even the durable counter could not take; added to it as soon as it can.
        self._unwritten_losses = 0
        self._losses_lock = asyncio.Lock()

    async def append(self, build: Build, build_loss: BuildLoss, also: Also | None = None) -> int:
        """Chain one record, preceded by a record of what was lost, and return its sequence number when durable.

        ``also`` is done in the same transaction.

        Raises:
            CellwardError: ``spool/full`` or ``spool/unwritable``; then nothing of it was written.
        """
        await self._write_losses()

        def job(connection: sqlite3.Connection) -> int:
            lost = _lost(connection)
            if lost:
                head, view = _head(connection), _view(connection)
                self._insert(connection, head, build_loss(head, view, lost))
                connection.execute("UPDATE agent SET lost=0")
            head, view = _head(connection), _view(connection)
            seq = self._insert(connection, head, build(head, view))
            if also is not None:
                also(connection)
            return seq

        return await self._writer.run(job)

    async def append_findings(self, build: BuildFinding, build_owed: BuildOwed) -> int:
        """Chain every finding made at start and every record owed, and forget them, at once; return how many."""

        def job(connection: sqlite3.Connection) -> int:
            rows = connection.execute("SELECT code, reason, details FROM findings ORDER BY number").fetchall()
            for code, reason, details in rows:
                head, view = _head(connection), _view(connection)
                self._insert(connection, head, build(head, view, Finding(code, reason, json.loads(details))))
            owed = connection.execute("SELECT entry FROM owed ORDER BY key").fetchall()
            for (entry,) in owed:
                head, view = _head(connection), _view(connection)
                self._insert(connection, head, build_owed(head, view, entry))
            connection.execute("DELETE FROM findings")
            connection.execute("DELETE FROM owed")
            return len(rows) + len(owed)

        return await self._writer.run(job)

    async def owe(self, key: str, entry: str) -> None:
        """Note a record that is owed under ``key``; one owed before under it is replaced."""
        await self._writer.run(
            lambda connection: connection.execute("INSERT OR REPLACE INTO owed VALUES (?,?)", (key, entry)).rowcount
        )

    async def count_loss(self, also: Also | None = None) -> None:
        """Count one record that could not be written, and do ``also`` with it; never raises for a full disk."""
        self._unwritten_losses += 1
        await self._write_losses(also)

    async def _write_losses(self, also: Also | None = None) -> None:
        """Move the losses counted in memory to the file, if it takes them."""
        async with self._losses_lock:
            held = self._unwritten_losses
            if not held and also is None:
                return

            def job(connection: sqlite3.Connection) -> None:
                connection.execute("UPDATE agent SET lost=lost+?", (held,))
                if also is not None:
                    also(connection)

            try:
                await self._writer.run(job)
            except CellwardError as error:
                # Whatever keeps the file from taking it, the count stays in memory and is tried again.
                _log.warning("audit-loss-not-durable", lost=held, code=error.code)
                return
            self._unwritten_losses -= held

    async def head(self) -> ChainHead:
        """Return the state of the chain."""
        return await self._writer.run(_head)

    async def peek(self, limit: int, max_bytes: int) -> tuple[StoredRecord, ...]:
        """Return the oldest records of the oldest epoch, contiguous."""

        def job(connection: sqlite3.Connection) -> tuple[StoredRecord, ...]:
            rows = connection.execute(
                "SELECT epoch, seq, data FROM audit WHERE epoch=(SELECT min(epoch) FROM audit) ORDER BY seq LIMIT ?",
                (limit,),
            )
            taken: list[StoredRecord] = []
            size = 0
            for epoch, seq, data in rows:
                size += len(data)
                if taken and (size > max_bytes or seq != taken[-1].seq + 1):
                    break
                taken.append(StoredRecord(epoch, seq, bytes(data)))
            return tuple(taken)

        return await self._writer.run(job)

    async def free(self, epoch: int, seq: int, view: LogView) -> None:
        """Drop acknowledged records and remember the checkpoint that allowed it."""

        def job(connection: sqlite3.Connection) -> None:
            # Only what goes is looked at: the rest may be large, and this thread serves everything durable.
            freed = connection.execute(
                "SELECT coalesce(sum(length(data)), 0) FROM audit WHERE epoch=? AND seq <= ?", (epoch, seq)
            ).fetchone()[0]
            connection.execute("DELETE FROM audit WHERE epoch=? AND seq <= ?", (epoch, seq))
            connection.execute(
                "UPDATE agent SET log_size=?, log_root=?, log_key=?, log_note=?, log_epoch=?,"
                " audit_bytes=max(0, audit_bytes-?)",
                (view.size, view.root, view.key_spki, view.note, view.hub_epoch, freed),
            )

        await self._writer.run(job)

    async def log_view(self) -> LogView:
        """Return the last accepted checkpoint."""
        return await self._writer.run(_view)

    async def pin_log_key(self, key_spki: bytes) -> bytes:
        """Pin the log's public key at first contact; return the key that is pinned now."""

        def job(connection: sqlite3.Connection) -> bytes:
            pinned = bytes(connection.execute("SELECT log_key FROM agent").fetchone()[0])
            if pinned:
                return pinned
            connection.execute("UPDATE agent SET log_key=?", (key_spki,))
            return key_spki

        return await self._writer.run(job)

    async def depth(self) -> int:
        """Return how many records wait."""
        return await self._writer.run(_depth)

    async def lost(self) -> int:
        """Return the losses not yet counted in the chain."""
        return await self._writer.run(_lost) + self._unwritten_losses

    async def begin_epoch(
        self, build: BuildRollback, *, after: int = 0, forget_log: str | None = None, forget_key: bool = False
    ) -> int:
        """End the present epoch because the log takes no more of it; return the new one.

        The new epoch begins with the record ``build`` makes of the old head and checkpoint; everything that waits is
        chained again behind it, in order, in pieces: what else is to be durable waits for one of them, and a process
        that is killed in between finds the rest refused again, and goes on with it. A full spool does not stand in the
        way: this is how it gets emptied.

        Args:
            build: makes the first record.
            after: an epoch that the log has already; the new one is later, within a bound.
            forget_log: forget the log's last checkpoint, for a history of this name.
            forget_key: forget the log's key as well; only where the installation names another hub.
        """

        def job(connection: sqlite3.Connection) -> int:
            old, seen = _head(connection), _view(connection)
            epoch = max(old.epoch, min(after, old.epoch + MAX_JUMP)) + 1
            if forget_log is not None:
                connection.execute("UPDATE agent SET log_size=0, log_root='', log_note=x'', log_epoch=?", (forget_log,))
            if forget_key:
                connection.execute("UPDATE agent SET log_key=x''")
            connection.execute("UPDATE agent SET epoch=?, seq=0, head=?", (epoch, NO_RECORD))
            head, view = _head(connection), _view(connection)
            self._insert(connection, head, build(old, seen, head, view), bounded=False)
            return epoch

        self.epoch = epoch = await self._writer.run(job)
        while await self._writer.run(lambda connection: _rechain_some(connection, epoch)):
            pass
        return epoch

    def _insert(
        self, connection: sqlite3.Connection, head: ChainHead, built: tuple[bytes, str], *, bounded: bool = True
    ) -> int:
        data, digest = built
        used = int(connection.execute("SELECT audit_bytes FROM agent").fetchone()[0])
        if bounded and used + len(data) > self._max_bytes:
            raise FULL(f"the audit spool holds {used} of {self._max_bytes} bytes", used=used, limit=self._max_bytes)
        seq = head.seq + 1
        connection.execute("INSERT INTO audit VALUES (?,?,?)", (head.epoch, seq, data))
        connection.execute("UPDATE agent SET seq=?, head=?, audit_bytes=audit_bytes+?", (seq, digest, len(data)))
        return seq


def settle(connection: sqlite3.Connection, key: str) -> None:
    """Forget what was owed under ``key``, in the transaction that pays it."""
    connection.execute("DELETE FROM owed WHERE key=?", (key,))


def _rechain_some(connection: sqlite3.Connection, epoch: int) -> int:
    """Move the oldest records of earlier epochs to the end of ``epoch`` and return how many were looked at.

    What cannot be moved is counted lost.
    """
    view, head = _view(connection), _head(connection)
    rows = connection.execute(
        "SELECT epoch, seq, data FROM audit WHERE epoch<? ORDER BY epoch, seq LIMIT ?", (epoch, CHUNK)
    ).fetchall()
    seq, digest = head.seq, head.head
    moved: list[tuple[int, int, bytes]] = []
    for _, _, data in rows:
        try:
            new = rechain(bytes(data), epoch=epoch, seq=seq + 1, prev=digest, log_size=view.size, log_root=view.root)
        except CellwardError as error:
            _log.error("audit-record-not-rechained", code=error.code, reason=error.message)
            continue
        seq, digest = seq + 1, record_digest(new)
        moved.append((epoch, seq, new))
    connection.executemany("DELETE FROM audit WHERE epoch=? AND seq=?", [row[:2] for row in rows])
    connection.executemany("INSERT INTO audit VALUES (?,?,?)", moved)
    grown = sum(len(row[2]) for row in moved) - sum(len(row[2]) for row in rows)
    connection.execute(
        "UPDATE agent SET seq=?, head=?, lost=lost+?, audit_bytes=max(0, audit_bytes+?)",
        (seq, digest, len(rows) - len(moved), grown),
    )
    return len(rows)


def _head(connection: sqlite3.Connection) -> ChainHead:
    return ChainHead(*connection.execute("SELECT epoch, seq, head FROM agent").fetchone())


def _view(connection: sqlite3.Connection) -> LogView:
    row = connection.execute("SELECT log_size, log_root, log_key, log_note, log_epoch FROM agent").fetchone()
    return LogView(row[0], row[1], bytes(row[2]), bytes(row[3]), row[4])


def _depth(connection: sqlite3.Connection) -> int:
    """Count by the ends of each epoch: records of one are contiguous, and there are few epochs."""
    depth, epoch = 0, connection.execute("SELECT min(epoch) FROM audit").fetchone()[0]
    while epoch is not None:
        # One end at a time, or SQLite walks through the whole epoch.
        first = connection.execute("SELECT min(seq) FROM audit WHERE epoch=?", (epoch,)).fetchone()[0]
        last = connection.execute("SELECT max(seq) FROM audit WHERE epoch=?", (epoch,)).fetchone()[0]
        depth += int(last) - int(first) + 1
        epoch = connection.execute("SELECT min(epoch) FROM audit WHERE epoch>?", (epoch,)).fetchone()[0]
    return depth


def _lost(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT lost FROM agent").fetchone()[0])
