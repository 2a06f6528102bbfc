"""PostgreSQL 15 and later: serialisable transactions, one lock for migrations, LISTEN/NOTIFY for wake-ups.

Facts this stands on (PostgreSQL documentation, 9.26.8, 13.2, 13.5 and NOTIFY): a serialisable transaction that met
another one fails with 40001 and succeeds when it is run again; a notification is delivered after the commit, never
without it; transactions become visible in another order than that of their ids, but every one below
``pg_snapshot_xmin`` has ended.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Column, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from cellward.identity.contexts import outside_context
from hub.store.errors import UNSUPPORTED
from hub.store.sql.backend import READERS
from hub.store.sql.dialect import POSTGRESQL
from hub.store.sql.opening import Connections
from hub.store.sql.tables import changes

#: The driver; a URL may leave it out.
DRIVER: Final = "postgresql+asyncpg"
#: Oldest version taken: ``xid8`` functions are as they are here since 13, and 15 is what is tested.
OLDEST: Final = 150000
#: Write transactions at once.
WRITERS: Final = 8
#: Notifications carry nothing, so one channel is enough.
CHANNEL: Final = "cellward"
#: Lock of migrations; any number that nobody else uses.
_MIGRATION_LOCK: Final = 0x63656C6C77617264
#: A connection that cannot be made within this many seconds is not there.
_CONNECT_SECONDS: Final = 10
#: A transaction that nobody goes on with would keep changes from being seen; the server ends it.
_SETTINGS: Final = {
    "application_name": "cellward-hub",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "30s",
    "statement_timeout": "120s",
}
_TLS_MODES: Final = frozenset({"disable", "prefer", "require", "verify-ca", "verify-full"})


class Postgres:
    """A server; satisfies ``Backend``.

    Args:
        url: with libpq's parameters ``sslmode`` (default ``verify-full``; ``disable`` is for a trusted network) and
            ``sslrootcert``.
        keep: whether connections stay open between two transactions.

    Raises store/unsupported.
    """

    writers = WRITERS
    version_tells = False
    place: Column[int] = changes.c.transaction

    def __init__(self, url: URL, *, keep: bool) -> None:
        if url.drivername not in {POSTGRESQL, DRIVER}:
            raise UNSUPPORTED(f"the driver {url.drivername} is not supported, {DRIVER} is")
        url, tls = _tls(url.set(drivername=DRIVER))
        self.connections = Connections(lambda connection: connection.terminate())
        self.writer = self.connections.of(_engine(url, tls, WRITERS, keep=keep, isolation_level="SERIALIZABLE"))
        self.reader = self.connections.of(_engine(url, tls, READERS + 1, keep=keep, isolation_level="REPEATABLE READ"))

    async def prepare(self) -> None:
        """Refuse a server that is too old."""
        async with self.connections.opened(self.reader) as connection:
            version = int((await connection.execute(text("SHOW server_version_num"))).scalar_one())
        if version < OLDEST:
            raise UNSUPPORTED(f"the server is PostgreSQL {version // 10000}, {OLDEST // 10000} or later is needed")

    async def reserve(self) -> None:
        """Nothing to do: the server keeps its own room."""

    async def damage(self) -> str:
        """Nothing to look for: the server checks what it reads, where it was set up with page checksums."""
        return ""

    async def looked(self) -> str:
        """Say whether the server has page checksums."""
        async with self.connections.opened(self.reader) as connection:
            on = (await connection.execute(text("SHOW data_checksums"))).scalar_one() == "on"
        if on:
            return "the server checks the pages it reads (data checksums)"
        return "the server was set up without data checksums, so a flipped page may go unseen (pg_checksums --enable)"

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """Wait for whoever migrates, then look: a serialisable transaction would look first."""
        async with self.connections.opened(self.writer) as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
                yield connection

    async def tell(self, connection: AsyncConnection) -> None:
        """Notify; delivered with the commit."""
        await connection.execute(text(f"NOTIFY {CHANNEL}"))

    async def final(self, connection: AsyncConnection) -> int:
        """Return the oldest transaction that still runs."""
        oldest = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
        return int((await connection.execute(oldest)).scalar_one())

    async def version(self) -> int:
        """Return always the same: who writes past this program is nobody's peer."""
        return 0

    @asynccontextmanager
    async def told(self) -> AsyncIterator[asyncio.Event]:
        """Listen on a connection of its own."""
        event = asyncio.Event()

        def wake(*_: object) -> None:
            event.set()

        async with self.connections.opened(self.reader) as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            raw.add_termination_listener(wake)
            await raw.add_listener(CHANNEL, wake)
            try:
                yield event
            finally:
                await connection.invalidate()


def _engine(url: URL, tls: ssl.SSLContext | str, size: int, *, keep: bool, isolation_level: Any) -> AsyncEngine:
    pool: dict[str, Any] = {"pool_size": size, "max_overflow": 0, "pool_pre_ping": True, "pool_recycle": 1800}
    return create_async_engine(
        url,
        isolation_level=isolation_level,
        connect_args={"ssl": tls, "timeout": _CONNECT_SECONDS, "server_settings": _SETTINGS},
        **(pool if keep else {"poolclass": NullPool}),
    )


def _tls(url: URL) -> tuple[URL, ssl.SSLContext | str]:
    """Take the TLS parameters out of the URL; raises store/unsupported."""
    query = dict(url.query)
    mode, roots = str(query.pop("sslmode", "verify-full")), query.pop("sslrootcert", None)
    if query:
        raise UNSUPPORTED(f"the database URL has parameters this hub does not know: {', '.join(sorted(query))}")
    if mode not in _TLS_MODES:
        raise UNSUPPORTED("sslmode is one of " + ", ".join(sorted(_TLS_MODES)))
    if mode not in {"verify-ca", "verify-full"}:
        return url.set(query={}), mode
    try:
        context = outside_context(str(roots) if roots else None)
    except (OSError, ssl.SSLError) as error:
        raise UNSUPPORTED(f"sslrootcert cannot be used: {type(error).__name__}") from error
    context.check_hostname = mode == "verify-full"
    return url.set(query={}), context
