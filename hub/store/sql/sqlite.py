"""SQLite: its file, its pragmas, and how its transactions begin.

Facts this stands on (design §10): WAL with ``synchronous=FULL`` makes a commit durable; one writer at a time; a
deferred transaction that becomes a writer may fail at once with "locked", so writers begin IMMEDIATE;
``PRAGMA data_version`` on the writing connection changes exactly when somebody else has committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import Column, Connection, Engine, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from cellward.errors import CellwardError
from hub.store.errors import FULL, UNAVAILABLE, UNSUPPORTED
from hub.store.sql.backend import READERS
from hub.store.sql.ballast import Ballast
from hub.store.sql.dialect import SQLITE, meaning
from hub.store.sql.driver import Driver
from hub.store.sql.opening import Connections
from hub.store.sql.tables import changes

_log = structlog.get_logger()
#: The driver; a URL may leave it out.
DRIVER: Final = "sqlite+aiosqlite"
#: How long SQLite waits for another process' writer, milliseconds.
BUSY_MS: Final = 5000
#: Execution option: ``none`` keeps a connection from opening a transaction.
_BEGIN: Final = "cellward_begin"


class Sqlite:
    """A file; satisfies ``Backend``.

    Args:
        url: with a file: a database in memory would be another one for every connection.
        keep: whether connections stay open between two transactions.

    Raises store/unsupported, store/unavailable.
    """

    writers = 1
    place: Column[int] = changes.c.number

    def __init__(self, url: URL, *, keep: bool) -> None:
        if url.drivername not in {SQLITE, DRIVER}:
            raise UNSUPPORTED(f"the driver {url.drivername} is not supported, {DRIVER} is")
        if url.database in {None, "", ":memory:"}:
            raise UNAVAILABLE(
                "a SQLite database needs a file", hint="Use a URL such as sqlite+aiosqlite:////path/hub.db."
            )
        self._file = Path(str(url.database))
        # The counter is one of a connection: another one begins it again, and may come to the same.
        self.version_tells = keep
        self._writers_made = 0
        check_place(self._file)
        self._ballast = Ballast(self._file)
        url = url.set(drivername=DRIVER)
        self.connections = Connections(_abort)
        self.writer, self.reader = (self.connections.of(_engine(url, size, keep=keep)) for size in (1, READERS))
        _prepare(self.writer.sync_engine, writer=True)
        if keep:
            event.listen(self.writer.sync_engine, "connect", self._writer_made)
        _prepare(self.reader.sync_engine, writer=False)

    async def prepare(self) -> None:
        """Make the file a database in WAL mode before an engine opens it; on a full disk the ballast makes room."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        try:
            use_wal(self._file)
        except CellwardError as error:
            if error.code != FULL.code or not self._ballast.drop():
                raise
            _log.error("ballast-dropped", reason="the disk is full")
            use_wal(self._file)

    async def reserve(self) -> None:
        """Make the ballast, if it is not there."""
        await asyncio.to_thread(self._ballast.make)

    async def damage(self) -> str:
        """Run ``PRAGMA quick_check``; it reads every page."""
        async with self.connections.opened(self.reader) as connection, connection.begin():
            found = str((await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one())
        return "" if found == "ok" else found

    async def looked(self) -> str:
        """Say what was looked at."""
        return "pages fit together (quick_check)"

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that writes: it begins IMMEDIATE, so it is alone."""
        async with self.connections.opened(self.writer) as connection, connection.begin():
            yield connection

    async def tell(self, connection: AsyncConnection) -> None:
        """Nothing to do: SQLite tells nobody, others look."""

    async def final(self, connection: AsyncConnection) -> int:
        """Return the number of the next change: there is one writer, so they are committed in their order."""
        return int((await connection.execute(select(func.coalesce(func.max(changes.c.number), 0)))).scalar_one()) + 1

    async def version(self) -> int:
        """Return SQLite's counter of commits by others: on the writer's connection, because its own must not count."""
        async with self.connections.opened(self.writer) as connection:
            await connection.execution_options(**{_BEGIN: "none"})
            counted = int((await connection.exec_driver_sql("PRAGMA data_version")).scalar_one())
        # SQLite counts in 32 bits. A connection in the place of a broken one counts as a commit that said nothing.
        return self._writers_made << 32 | counted

    def _writer_made(self, *_: object) -> None:
        self._writers_made += 1

    @asynccontextmanager
    async def told(self) -> AsyncIterator[asyncio.Event]:
        """Give an event that nobody sets."""
        yield asyncio.Event()


def _abort(connection: Any) -> None:
    """Close a connection after the statement it is in, unless it is closed."""
    with contextlib.suppress(ValueError):
        # Asked for what only an open one knows.
        _ = connection.in_transaction
        connection.stop()


def _engine(url: URL, size: int, *, keep: bool) -> AsyncEngine:
    pool: dict[str, Any] = {"pool_size": size, "max_overflow": 0} if keep else {"poolclass": NullPool}
    return create_async_engine(url, module=Driver(), **pool)


def _prepare(engine: Engine, *, writer: bool) -> None:
    """Give every connection of a SQLite engine its pragmas and its way to begin."""

    def on_connect(connection: Any, _: object) -> None:
        # We say BEGIN ourselves: the driver's own opens transactions late and only for some statements.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if writer:
            cursor.execute("PRAGMA synchronous=FULL")
        else:
            cursor.execute("PRAGMA query_only=ON")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_BEGIN) != "none":
            begun: Any = connection.connection.dbapi_connection
            begun.begin("BEGIN IMMEDIATE" if writer else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def use_wal(file: Path) -> None:
    """Make the file a database in WAL mode, which it stays; blocking, so not on the event loop.

    SQLite does not honour busy_timeout for this one change, so two processes that open a new file wait for each other
    here. Raises store/unavailable, store/damaged, store/full.
    """
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=BUSY_MS / 1000)) as connection:
            _switch_to_wal(connection)
    except sqlite3.Error as error:
        raise meaning(error) from error


def check_place(file: Path) -> None:
    """Raise store/unavailable when no database can be opened or made at ``file``.

    Asked before the driver is, because its thread reports a failed connect to an event loop that may be gone by then.
    """
    if not file.parent.is_dir():
        raise UNAVAILABLE(
            f"the directory {file.parent} does not exist", hint="Create it, or mount the volume it is on."
        )
    target = file if file.exists() else file.parent
    if file.is_dir() or not os.access(target, os.R_OK | os.W_OK):
        raise UNAVAILABLE(f"{target} cannot be read and written", hint="Give it to the user the hub runs as.")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    for last in (*[False] * 200, True):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if last or "locked" not in str(error):
                raise
            time.sleep(0.02)
        else:
            return
