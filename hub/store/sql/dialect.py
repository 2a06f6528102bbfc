"""Statements in which SQL dialects differ, and what an error of a driver means to the rooms."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, Table, insert, or_
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.store.errors import DAMAGED, FULL, NOT_VERIFIED, OUT_OF_RANGE, UNAVAILABLE

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
#: Errors of PostgreSQL after which a transaction is run again (its documentation, 13.5 and appendix A).
_AGAIN: Final = frozenset({"40001", "40P01"})
#: Cells in one condition: SQLite takes a depth of 1,000, and 32,766 parameters in all.
_CELLS: Final = 100
_FULL = ("database or disk is full", "no space left", "could not extend file")
#: What SQLite says when there is no room for its shared memory file, beside a full disk.
_FULL_NAMES = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
_FULL_STATES = frozenset({"53100"})
_TOO_LARGE = "22003"
_DAMAGED_STATES = frozenset({"XX001", "XX002"})
#: What asyncpg says of a server that has TLS switched off.
_NO_TLS: Final = "rejected SSL upgrade"
_DAMAGED = ("malformed", "not a database", "is corrupt")


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
    add = _insert(dialect, table)
    if not update:
        return add.on_conflict_do_nothing(index_elements=list(key))
    values = {name: add.excluded[name] for name in update}
    where = table.c[not_older] <= add.excluded[not_older] if not_older else None
    if where is not None and at_most is not None:
        where = or_(where, table.c[not_older] > at_most)
    return add.on_conflict_do_update(index_elements=list(key), set_=values, where=where)


def _insert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    if dialect == SQLITE:
        return sqlite.insert(table)
    # Only where it is used: the dialect is 2 MB.
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415

    return postgresql.insert(table)


def about_cells(columns: Any, keys: Collection[CellKey]) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that together choose the rows of these keys, each for as many as fit into one statement.

    Not as a list of rows: SQLite searches an index for one alone, and reads the whole table for more.
    """
    environments: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys:
        environments[key.project, key.cell].add(key.environment)
    cells = sorted(environments)
    for start in range(0, len(cells), _CELLS):
        yield or_(
            *(
                (columns.project == project)
                & (columns.cell == cell)
                & columns.environment.in_(sorted(environments[project, cell]))
                for project, cell in cells[start : start + _CELLS]
            )
        )


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
    return meaning(error.orig)


def is_overtaken(error: DBAPIError) -> bool:
    """Whether the transaction only met another one, and succeeds when it is run again."""
    return _state(error.orig) in _AGAIN


def meaning(error: BaseException | None) -> CellwardError:
    """Return what a driver's error means to the rooms."""
    text, state = str(error).lower(), _state(error)
    if state == _TOO_LARGE or "out of int64 range" in text:
        return OUT_OF_RANGE("a number does not fit into 64 bits with a sign")
    name = getattr(error, "sqlite_errorname", "")
    if state in _FULL_STATES or name in _FULL_NAMES or any(part in text for part in _FULL):
        return FULL("the database has no room left")
    if state in _DAMAGED_STATES or any(part in text for part in _DAMAGED):
        return DAMAGED("the database is damaged")
    return UNAVAILABLE(f"the database does not answer: {type(error).__name__}")


def unreachable(error: OSError) -> CellwardError:
    """Return what it means that no connection can be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NOT_VERIFIED(f"the certificate of the database server does not hold: {error.verify_message}")
    if isinstance(error, ssl.SSLError) or _NO_TLS in str(error):
        return NOT_VERIFIED("the database server speaks no TLS that this hub takes")
    return UNAVAILABLE(f"the database cannot be reached: {type(error).__name__}")


def _state(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", None) or "")
