"""Connections and transactions: many readers, one writer, and a write that its caller cannot tear in half.

Invariants: a write transaction runs in a task of its own, so a caller that is cancelled (a stream that ended) neither
aborts it half-way nor leaves a connection in it; subscribers are woken after the commit, or after what may have been
one, never before it; inside a transaction everything is read and written through it, so that nothing is decided on what
another moment showed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.tasks import heard
from hub.store.changes import ChangeBus
from hub.store.errors import OUT_OF_RANGE, UNAVAILABLE, UNSUPPORTED
from hub.store.sql import dialect

T = TypeVar("T")
_log = structlog.get_logger()
#: Readers at once; SQLite readers never wait for the writer.
READERS = 4
#: The driver; a URL may leave it out.
DRIVER = "sqlite+aiosqlite"


#: Whether the running task is inside a write transaction.
_inside: ContextVar[bool] = ContextVar("store-transaction", default=False)


class Access(Protocol):
    """What the parts of a store read and write through: the database, or one open transaction of it."""

    @property
    def clock(self) -> Clock:
        """Time of rows."""
        ...

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect."""
        ...

    async def write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``job`` in the open transaction, or in one of its own."""
        ...

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Read at one moment."""
        ...


class Transaction:
    """A write transaction: the connection, and the topics to wake when it is durable. Satisfies ``Access``."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self.connection = connection
        self.clock = clock
        self.dialect = connection.dialect.name
        self.topics: set[str] = set()

    def notify(self, *topics: str) -> None:
        """Wake the subscribers of these topics after the commit."""
        self.topics.update(topics)

    async def write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``job`` as a part of this transaction."""
        return await job(self)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Read what this transaction has written, and what was there before it."""
        yield self.connection


class Database:
    """The engines of one database; made by ``connect``."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self.clock = clock
        self.changes = ChangeBus()
        self.dialect = writer.dialect.name
        # PostgreSQL takes many writers; there the pool alone bounds them.
        self._turn = asyncio.Semaphore(1 if self.dialect == dialect.SQLITE else READERS)
        self._running: set[asyncio.Task[object]] = set()

    async def write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``job`` in one transaction and return its result once it is durable.

        Raises what the job raises (then nothing is written), store/full, store/unavailable, store/damaged.
        """
        _check_outside()
        task = asyncio.create_task(self._write(job), name="store-write")
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Read at one moment: everything inside sees the same state."""
        _check_outside()
        with _translated():
            async with self._reader.connect() as connection, connection.begin():
                yield connection

    async def watch(self, seconds: float) -> None:
        """Wake every subscriber when another process has committed (ADR 0004); runs until cancelled."""
        seen: int | None = None
        missed = False
        while True:
            try:
                version = await self._version()
            except Exception as error:  # noqa: BLE001 - a store that does not answer now may answer later
                # Whatever was committed meanwhile was not seen.
                if not missed:
                    code = error.code if isinstance(error, CellwardError) else type(error).__name__
                    _log.warning("store-watch-failed", code=code, reason=str(error))
                missed = True
            else:
                if missed or (seen is not None and version != seen):
                    self.changes.notify_all()
                seen, missed = version, False
            await asyncio.sleep(seconds)

    async def prepare(self) -> None:
        """Do what must be done to the file before an engine opens it; raises what opening raises."""
        if self.dialect == dialect.SQLITE:
            await asyncio.to_thread(dialect.use_wal, Path(str(self._writer.url.database)))

    async def close(self) -> None:
        """Let running transactions finish, then close every connection."""
        while self._running:
            await asyncio.wait(tuple(self._running))
        await self._reader.dispose()
        await self._writer.dispose()

    async def _write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        transaction: Transaction | None = None
        _inside.set(True)
        async with self._turn:
            try:
                with _translated():
                    async with self._writer.begin() as connection:
                        transaction = Transaction(connection, self.clock)
                        return await job(transaction)
            except OverflowError as error:
                raise OUT_OF_RANGE("a number does not fit into 64 bits with a sign") from error
            finally:
                # Also when it failed: a commit may be durable and its answer lost; a wake for nothing costs a look.
                if transaction is not None:
                    self.changes.notify(transaction.topics)

    async def _version(self) -> int:
        if self.dialect != dialect.SQLITE:
            return 0
        # The writer's connection, because its own commits must not count.
        with _translated():
            async with self._turn, self._writer.connect() as connection:
                await connection.execution_options(**{dialect.BEGIN_OPTION: "none"})
                return await dialect.data_version(connection)

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        heard(task)


def _check_outside() -> None:
    """Refuse to open a second transaction inside one: it would wait for the first, or see another moment."""
    if _inside.get():
        raise RuntimeError("inside a transaction the store it was given is used")


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what an error of the database means to the rooms; a broken constraint is for whoever broke it."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise dialect.translate(error) from error
    except PoolTimeoutError as error:
        raise UNAVAILABLE("every connection of the database is in use") from error


def database_file(url: str) -> Path:
    """Return where the database of a URL is that ``connect`` has taken."""
    return Path(str(make_url(url).database))


def connect(url: str, clock: Clock, *, keep: bool = True) -> Database:
    """Return the engines for a URL; nothing is opened before it is used. Raises store/unsupported, store/unavailable.

    Without ``keep`` every transaction opens a connection and closes it, so that there is nothing to close at the end.
    SQLite needs a file: a database in memory would be another one for every connection.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not chained, not quoted: a URL may hold a password.
        raise UNSUPPORTED("the database URL cannot be read") from None
    if parsed.get_backend_name() != dialect.SQLITE:
        raise UNSUPPORTED(f"{parsed.get_backend_name()} is not supported yet, SQLite is")
    if parsed.drivername not in {dialect.SQLITE, DRIVER}:
        raise UNSUPPORTED(f"the driver {parsed.drivername} is not supported, {DRIVER} is")
    parsed = parsed.set(drivername=DRIVER)
    if parsed.database in (None, "", ":memory:"):
        raise UNAVAILABLE("a SQLite database needs a file", hint="Use a URL such as sqlite+aiosqlite:////path/hub.db.")
    dialect.check_place(Path(str(parsed.database)))
    pools: list[dict[str, Any]] = [{"pool_size": size, "max_overflow": 0} for size in (1, READERS)]
    writer, reader = (create_async_engine(parsed, **(pool if keep else {"poolclass": NullPool})) for pool in pools)
    dialect.prepare_sqlite(writer.sync_engine, writer=True)
    dialect.prepare_sqlite(reader.sync_engine, writer=False)
    return Database(writer, reader, clock)
