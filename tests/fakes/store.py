"""The real store for tests that only need one: its own file, migrated once a process, and nothing to close."""

from __future__ import annotations

import asyncio
import functools
import secrets
import shutil
import sqlite3
import threading
import weakref
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from cellward.runtime.clock import Clock, SystemClock
from hub.store.sql.database import Transaction, connect
from hub.store.sql.store import EPOCH_KEY, SqlStore, open_store


def scratch_store(clock: Clock | None = None) -> SqlStore:
    """Return an empty store of this version, with an epoch of its own; it goes with the last reference to a part of it.

    No connection stays open between two transactions, so a test has nothing to close, whatever loop it runs on.
    """
    directory = TemporaryDirectory(prefix="cellward-store-")
    file = Path(directory.name) / "hub.db"
    shutil.copy(_template(), file)
    epoch = secrets.token_hex(16)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (epoch.encode(), EPOCH_KEY))
    database = connect(f"sqlite:///{file}", clock or SystemClock(), keep=False)
    # Of the database, which every part of the store holds: some tests keep one part alone.
    weakref.finalize(database, directory.cleanup)
    return SqlStore(database, epoch)


@functools.cache
def _template() -> Path:
    directory = TemporaryDirectory(prefix="cellward-store-")
    weakref.finalize(_template, directory.cleanup)
    file = Path(directory.name) / "hub.db"
    # A thread, because a loop may be running in this one already.
    maker = threading.Thread(target=lambda: asyncio.run(_made(file)))
    maker.start()
    maker.join()
    return file


async def _made(file: Path) -> None:
    await (await open_store(f"sqlite:///{file}")).close()


async def run_sql(store: SqlStore, statement: str) -> None:
    """Change rows as nothing of ours does, for example back to what a backup had."""

    async def job(tx: Transaction) -> None:
        await tx.connection.exec_driver_sql(statement)

    await store._db.write(job)
