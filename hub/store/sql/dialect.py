"""Everything in which databases differ: pragmas, how a transaction begins, upserts, and what an error means.

SQLite facts this stands on (design §10): WAL with ``synchronous=FULL`` makes a commit durable; one writer at a time; a
deferred transaction that becomes a writer may fail at once with "locked", so writers begin IMMEDIATE;
``PRAGMA data_version`` on the writing connection changes exactly when somebody else has committed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, event, insert, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cellward.errors import CellwardError
from hub.store.errors import DAMAGED, FULL, UNAVAILABLE

SQLITE: Final = "sqlite"
#: Execution option: ``none`` keeps a SQLite connection from opening a transaction.
BEGIN_OPTION: Final = "cellward_begin"
#: How long SQLite waits for another process' writer, milliseconds.
BUSY_MS: Final = 5000

_FULL = ("database or disk is full", "no space left", "could not extend file")
_DAMAGED = ("malformed", "not a database", "is corrupt")


def prepare_sqlite(engine: Engine, *, writer: bool) -> None:
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
        if connection.get_execution_options().get(BEGIN_OPTION) != "none":
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

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
        raise _meaning(error) from error


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


async def data_version(connection: AsyncConnection) -> int:
    """Return SQLite's counter of commits by others, as this connection sees it."""
    return int((await connection.exec_driver_sql("PRAGMA data_version")).scalar_one())


def upsert(
    dialect: str,
    table: Table,
    key: Sequence[str],
    *,
    update: Sequence[str] = (),
    not_older: str = "",
    at_most: Any = None,
) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that sets ``update`` where ``key`` exists; with nothing to set it leaves the row alone.

    With ``not_older`` a row whose value there is greater than the new one stays as it is, unless it is greater than
    ``at_most``, an expression, as well: then it is not believed.
    """
    add: sqlite.Insert | postgresql.Insert = sqlite.insert(table) if dialect == SQLITE else postgresql.insert(table)
    if not update:
        return add.on_conflict_do_nothing(index_elements=list(key))
    values = {name: add.excluded[name] for name in update}
    where = table.c[not_older] <= add.excluded[not_older] if not_older else None
    if where is not None and at_most is not None:
        where = or_(where, table.c[not_older] > at_most)
    return add.on_conflict_do_update(index_elements=list(key), set_=values, where=where)


async def insert_many(
    connection: AsyncConnection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows whose values are what the database stores, in the order of ``columns``.

    For the one table where rows come by the thousand: on SQLite it goes straight to the driver, at a third of the cost.
    """
    if connection.dialect.name != SQLITE:
        await connection.execute(insert(table), [dict(zip(columns, row, strict=True)) for row in rows])
        return
    places = ",".join("?" * len(columns))
    statement = f"INSERT INTO {table.name} ({','.join(columns)}) VALUES ({places})"  # noqa: S608 - names of our tables
    await connection.exec_driver_sql(statement, list(rows))


def translate(error: DBAPIError) -> CellwardError:
    """Return what a database error means to the rooms."""
    return _meaning(error.orig)


def _meaning(error: BaseException | None) -> CellwardError:
    text = str(error).lower()
    if any(part in text for part in _FULL):
        return FULL("the database has no room left")
    if any(part in text for part in _DAMAGED):
        return DAMAGED("the database file is damaged")
    return UNAVAILABLE(f"the database does not answer: {type(error).__name__}")


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
