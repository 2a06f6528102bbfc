"""SQLite's driver below SQLAlchemy: a statement, its rows and its end in one turn of the connection's thread.

SQLAlchemy asks a cursor for four things (open, execute, fetch, close), and aiosqlite hands each of them to the thread
and wakes the event loop for its answer. Those turns were most of what a short statement cost.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.util.concurrency import await_


class _Done(NamedTuple):
    """What a statement left: its columns, None for none; its rows; how many it changed; the last row it put in."""

    description: Any
    rows: Sequence[Any]
    changed: int
    last: int | None


class Cursor:
    """Implements what SQLAlchemy uses of a DB-API cursor; nothing is open between two statements."""

    arraysize = 1
    server_side = False

    def __init__(self, connection: Connection) -> None:
        self._adapted = connection
        self._done = _Done(None, (), -1, None)
        self._rows: deque[Any] = deque()

    @property
    def description(self) -> Any:
        """Columns of the rows, None when the statement has none."""
        return self._done.description

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed, -1 for one that changes none."""
        return self._done.changed

    @property
    def lastrowid(self) -> int | None:
        """Number of the row that was put in last."""
        return self._done.last

    def execute(self, operation: str, parameters: Sequence[Any] | None = None) -> None:
        """Run one statement and take all its rows."""
        self._run(lambda held: _finished(held.execute(operation, parameters or ())))

    def executemany(self, operation: str, seq_of_parameters: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each of many parameters."""
        self._run(lambda held: _finished(held.executemany(operation, seq_of_parameters)))

    def fetchone(self) -> Any:
        """Return the next row, None after the last one."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Return the next rows."""
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        """Take row by row."""
        while self._rows:
            yield self._rows.popleft()

    def setinputsizes(self, *_: object) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """Nothing is open; SQLAlchemy asks before it keeps rows for a caller outside its greenlet."""

    def _run(self, work: Callable[[sqlite3.Connection], _Done]) -> None:
        self._done = self._adapted.run(work)
        self._rows = deque(self._done.rows)


class Connection(AsyncAdapt_aiosqlite_connection):
    """A connection of aiosqlite that gives our cursors, and asks its thread for nothing that need not be."""

    __slots__ = ("_begin", "_clean")

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        #: How the next statement begins a transaction; empty when it has begun, or none is wanted.
        self._begin = ""
        #: Whether no transaction can be open: the last thing asked of the thread ended one, and was answered.
        self._clean = True

    def begin(self, statement: str) -> None:
        """Begin a transaction together with its first statement."""
        self._begin = statement

    def cursor(self, server_side: bool = False) -> Any:  # noqa: FBT002 - as SQLAlchemy calls it
        """Return a cursor; one that reads while it is asked is not given, whoever streams reads in pages."""
        if server_side:
            raise NotImplementedError("rows are read all at once")
        return Cursor(self)

    def commit(self) -> None:
        """Commit what was begun."""
        self._end(super().commit)

    def rollback(self) -> None:
        """Take back what was begun; a pool asks for it again whenever a connection is given back."""
        self._end(super().rollback)

    def run(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        """Run something on the connection's thread and return its result."""
        begin, self._begin, self._clean = self._begin, "", False
        try:
            return await_(self._turn(begin, work))
        except Exception as error:  # noqa: BLE001 - it says which of them a lost connection is, and raises
            self._handle_exception(error)

    async def _turn(self, begin: str, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        held: Any = self._connection

        def turn() -> _Done:
            connection: sqlite3.Connection = held._conn  # noqa: SLF001 - as aiosqlite's own parts
            if begin:
                connection.execute(begin).close()
            return work(connection)

        async with self._execute_mutex:
            return cast("_Done", await held._execute(turn))  # noqa: SLF001 - as above

    def _end(self, how: Callable[[], None]) -> None:
        self._begin = ""
        if not self._clean:
            how()
            # Not reached by whoever is cancelled: then nobody knows what the thread has done.
            self._clean = True


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """The DB-API module that an engine is given."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *arg: Any, **kw: Any) -> Connection:
        """Open a connection."""
        opening = self.aiosqlite.connect(*arg, **kw)
        # What ends without closing its store does not wait for the thread.
        opening._thread.daemon = True  # noqa: SLF001 - aiosqlite has no word for it, SQLAlchemy does the same
        return Connection(self, await_(opening))


def _finished(cursor: sqlite3.Cursor) -> _Done:
    try:
        rows = cursor.fetchall() if cursor.description else ()
        # After the rows: what RETURNING changed is counted while they are read.
        return _Done(cursor.description, rows, cursor.rowcount, cursor.lastrowid)
    finally:
        cursor.close()
