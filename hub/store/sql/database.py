"""Connections and transactions: many readers, one writer, and a write that its caller cannot tear in half.

Invariants: a write transaction runs in a task of its own, so a caller that is cancelled (a stream that ended) neither
aborts it half-way nor leaves a connection in it; subscribers are woken after the commit, or after what may have been
one, never before it; inside a transaction everything is read and written through it, so that nothing is decided on what
another moment showed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.tasks import heard, to_its_end
from hub.store.changes import ChangeBus
from hub.store.errors import DAMAGED, MOVED, OUT_OF_RANGE, UNAVAILABLE, UNSUPPORTED
from hub.store.sql import dialect
from hub.store.sql.backend import POLL_SECONDS, Backend
from hub.store.sql.sqlite import Sqlite
from hub.store.sql.tables import changes, revisions

T = TypeVar("T")
_log = structlog.get_logger()
#: How often a transaction that met another one is run again.
TRIES: Final = 12
#: Changes that are kept for processes that have not looked for a while.
KEPT_CHANGES: Final = 100_000


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


#: Row of ``revisions``: how often the database was checked.
_CHECKED: Final = "checks"
_TELL: Final = insert(changes)
_NEXT: Final = {revisions.c.revision: revisions.c.revision + 1}
#: Row of ``revisions``: the newest change that was pruned.
_PRUNED: Final = "pruned-changes"


class _Seen(NamedTuple):
    """How far the changes of others were read: below which place, the newest number, and the version of the file."""

    place: int
    number: int
    version: int


class Database:
    """One database; made by ``connect``."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._writer = backend.writer
        self._reader = backend.reader
        self._connections = backend.connections
        self.clock = clock
        self.changes = ChangeBus()
        self.dialect = backend.writer.dialect.name
        #: Whose changes these are: a process does not wake itself twice.
        self._origin = secrets.token_hex(16)
        #: How far the changes of others were announced.
        self._seen: _Seen | None = None
        self._turn = asyncio.Semaphore(backend.writers)
        self._running: set[asyncio.Task[object]] = set()
        self._closed = False

    async def write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``job`` in one transaction and return its result once it is durable.

        It is run again when the database says that it met another transaction, so it has no effect but its writes.

        Raises what the job raises (then nothing is written), store/full, store/unavailable, store/damaged.
        """
        check_outside()
        self._check_open()
        return await self._whole(self._write(job), "store-write")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Read at one moment: everything inside sees the same state."""
        check_outside()
        self._check_open()
        with _translated():
            async with self._connections.opened(self._reader) as connection, connection.begin():
                yield connection

    async def migrate(self, upgrade: Callable[[Connection], None]) -> None:
        """Change the schema, alone of all processes."""
        with _translated():
            async with self._backend.migrating() as connection:
                await connection.run_sync(upgrade)

    async def watch(self) -> None:
        """Wake the subscribers of what other processes change (ADR 0004, 0025); runs until cancelled."""
        missed = False
        while True:
            try:
                self._check_open()
                with _translated():
                    async with self._backend.told() as told:
                        while True:
                            told.clear()
                            await self._whole(self.look(), "store-look")
                            missed = False
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(POLL_SECONDS):
                                    await told.wait()
            except Exception as error:  # noqa: BLE001 - a store that does not answer now may answer later
                if not missed:
                    code = error.code if isinstance(error, CellwardError) else type(error).__name__
                    _log.warning("store-watch-failed", code=code, reason=str(error))
                missed = True
            await asyncio.sleep(POLL_SECONDS)

    async def check(self) -> None:
        """Write once, and keep room for the next start; raises what stands in the way."""

        async def job(tx: Transaction) -> None:
            # A row of its own: an empty transaction asks nothing of the disk.
            await tx.connection.execute(update(revisions).where(revisions.c.name == _CHECKED).values(_NEXT))

        await self.write(job)
        await self._backend.reserve()

    async def verify(self) -> str:
        """Look for damage, reading all of it; return what kind of look it was. Raises store/damaged."""
        with _translated():
            found = await self._backend.damage()
        if found:
            raise DAMAGED(f"pages of the database do not fit together: {found[:200]}")
        with _translated():
            return await self._backend.looked()

    async def prepare(self) -> None:
        """Do what must be done before an engine opens it; raises what opening raises."""
        with _translated():
            await self._backend.prepare()

    async def close(self) -> None:
        """Let running transactions and reads finish, then close every connection; whoever is cancelled leaves it to."""
        await to_its_end(self._close(), "store-close")

    def _check_open(self) -> None:
        """Refuse whoever comes late: a pool that was closed opens again by itself, and then nobody closes it."""
        if self._closed:
            raise UNAVAILABLE("the database is closed")

    async def _close(self) -> None:
        while self._running:
            await asyncio.wait(tuple(self._running))
        self._closed = True
        await self._connections.all_back()
        await self._reader.dispose()
        await self._writer.dispose()
        self._connections.end()

    async def _write(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        _inside.set(True)
        async with self._turn:
            for attempt in itertools.count(1):
                try:
                    return await self._once(job)
                except DBAPIError as error:
                    if not dialect.is_overtaken(error):
                        raise
                    if attempt == TRIES:
                        raise MOVED("other transactions changed the same rows all the time") from error
                await asyncio.sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311 - spreads who tries again
        raise AssertionError("unreachable")

    async def _once(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        topics: set[str] = set()
        try:
            with _translated(overtaken=True):
                async with self._connections.opened(self._writer) as connection, connection.begin():
                    transaction = Transaction(connection, self.clock)
                    result = await job(transaction)
                    await self._tell(transaction)
                    topics = transaction.topics
                return result
        except OverflowError as error:
            raise OUT_OF_RANGE("a number does not fit into 64 bits with a sign") from error
        finally:
            # Also when the commit failed: it may be durable and its answer lost; a wake for nothing costs a look.
            self.changes.notify(topics)

    async def _tell(self, tx: Transaction) -> None:
        if tx.topics:
            rows = [{"origin": self._origin, "topic": topic} for topic in sorted(tx.topics)]
            await tx.connection.execute(_TELL, rows)
            await self._backend.tell(tx.connection)

    async def look(self) -> None:
        """Wake for what others have committed since the last look; the first one is taken before anything is read."""
        self._check_open()
        seen = self._seen
        place, number = self._backend.place, changes.c.number
        # First: what is committed in between is seen below, or by the next look.
        with _translated():
            async with self._turn:
                version = await self._backend.version()
        if seen is not None and self._backend.version_tells and version == seen.version:
            # Nobody else has committed: so it is mostly, and this is asked twice a second.
            return
        async with self.read() as connection:
            final = await self._backend.final(connection)
            new = _Seen(final, await connection.scalar(select(func.max(number))) or 0, version)
            pruned = await connection.scalar(select(revisions.c.revision).where(revisions.c.name == _PRUNED))
            if seen is None:
                self._seen = new
                return
            others = (place >= seen.place, place < final, changes.c.origin != self._origin)
            topics = (await connection.execute(select(changes.c.topic).where(*others).distinct())).scalars().all()
        unsaid = version != seen.version and not topics
        if unsaid or (pruned is not None and pruned > seen.number):
            self.changes.notify_all()
        else:
            self.changes.notify(topics)
        self._seen = new

    async def _whole(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Wait for something that whoever is cancelled leaves to its end: torn in half, it keeps its connection."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        heard(task)


async def prune(tx: Transaction) -> None:
    """Forget changes that every process has seen for long."""
    below = (await tx.connection.scalar(select(func.max(changes.c.number))) or 0) - KEPT_CHANGES
    if below > 0:
        await tx.connection.execute(delete(changes).where(changes.c.number <= below))
        pruned = update(revisions).where(revisions.c.name == _PRUNED, revisions.c.revision < below)
        await tx.connection.execute(pruned.values(revision=below))


def check_outside() -> None:
    """Refuse to open a second transaction inside one: it would wait for the first, or see another moment."""
    if _inside.get():
        raise RuntimeError("inside a transaction the store it was given is used")


@contextmanager
def _translated(*, overtaken: bool = False) -> Iterator[None]:
    """Raise what an error of the database means to the rooms; a broken constraint is for whoever broke it.

    With ``overtaken`` what only met another transaction is for the caller, who runs it again.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        if overtaken and dialect.is_overtaken(error):
            raise
        raise dialect.translate(error) from error
    except PoolTimeoutError as error:
        raise UNAVAILABLE("every connection of the database is in use") from error
    except OSError as error:
        # asyncpg lets those of a connection through that cannot be made.
        raise dialect.unreachable(error) from error


def database_file(url: str) -> Path | None:
    """Return where the database of a URL is that ``connect`` has taken; None where it is not a file."""
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == dialect.SQLITE else None


def connect(url: str, clock: Clock, *, keep: bool = True) -> Database:
    """Return the database of a URL; nothing is opened before it is used. Raises store/unsupported, store/unavailable.

    Without ``keep`` every transaction opens a connection and closes it, so that there is nothing to close at the end.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not chained, not quoted: a URL may hold a password.
        raise UNSUPPORTED("the database URL cannot be read") from None
    match parsed.get_backend_name():
        case dialect.SQLITE:
            return Database(Sqlite(parsed, keep=keep), clock)
        case dialect.POSTGRESQL:
            # Only where it is used, as its dialect is.
            from hub.store.sql.postgres import Postgres  # noqa: PLC0415

            return Database(Postgres(parsed, keep=keep), clock)
        case other:
            raise UNSUPPORTED(f"{other} is not supported; SQLite and PostgreSQL are")
