"""What is true of the SQLite file and of nothing else: durability, schema, other processes, damage, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.store.log import AuditAppend, AuditEntry
from hub.store.sql.store import SqlStore, open_store
from hub.store.sql.tables import metadata
from tests.contract.store_rows import deployment
from tests.fakes.clock import ManualClock

KEY = CellKey("shop", "cart", "dev")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path of a database."""
    return tmp_path / "hub.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqlStore]:
    """Give an open store."""
    opened = await open_store(f"sqlite+aiosqlite:///{file}", ManualClock())
    yield opened
    await opened.close()


async def test_migrations_make_exactly_the_tables_in_use(store: SqlStore, file: Path) -> None:
    """The migrated schema and the tables the code uses are one."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_reopened_store_is_the_same_history(store: SqlStore, file: Path) -> None:
    """Epoch and content survive; the epoch is made once."""
    await store.clusters.create("eu-1", "alice")
    epoch = store.hub_epoch
    await store.close()
    again = await open_store(f"sqlite+aiosqlite:///{file}", ManualClock())
    assert again.hub_epoch == epoch
    assert [row.name for row in await again.clusters.list()] == ["eu-1"]
    await again.close()


async def test_two_openers_at_once_agree(file: Path) -> None:
    """Migration and epoch are made by one of them, and both see the result."""
    url = f"sqlite+aiosqlite:///{file}"
    stores = await asyncio.gather(*(open_store(url, ManualClock()) for _ in range(3)))
    assert len({store.hub_epoch for store in stores}) == 1
    for store in stores:
        await store.close()


async def test_connection_settings_make_commits_durable(store: SqlStore) -> None:
    """V13: WAL with synchronous=FULL (2), foreign keys on, and readers cannot write."""

    def settings(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    async with store._db._writer.connect() as writer, store._db.read() as reader:
        assert await writer.run_sync(settings) == ["wal", 2, 1, 0]
        assert (await reader.run_sync(settings))[3] == 1


async def test_a_commit_past_this_program_wakes_everybody(store: SqlStore, file: Path) -> None:
    """A repair by hand tells nobody what it changed, so everybody looks; our own commit wakes nobody twice."""
    await store.meta.put("own", b"1")
    stamp = store.changes.stamp("policy")
    await store._db.look()
    assert store.changes.stamp("policy") == stamp
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("INSERT INTO meta VALUES ('by hand', x'00')")
        other.commit()
    await store._db.look()
    assert store.changes.stamp("policy") != stamp


async def test_v16_the_watch_outlives_a_store_that_does_not_answer(store: SqlStore, file: Path) -> None:
    """V16: a failed look is told and repeated; afterwards what others committed meanwhile is told after all."""
    aside = file.with_suffix(".aside")
    other = await open_store(f"sqlite+aiosqlite:///{file}", ManualClock())
    await store._db.look()
    with structlog.testing.capture_logs() as logs:
        async with store.changes.subscribe("documents") as subscription:
            file.rename(aside)
            file.mkdir()
            # Before anybody looks again: a connection that comes back to a pool that is gone is closed by nobody.
            await store._db._reader.dispose()
            await store._db._writer.dispose()
            watcher = asyncio.create_task(store.watch())
            async with asyncio.timeout(30):
                while not logs:
                    await asyncio.sleep(0.01)
            await other.documents.put(deployment("missed", 1))
            file.rmdir()
            aside.rename(file)
            async with asyncio.timeout(30):
                assert await subscription.wait() == {"documents"}
        assert not watcher.done()
        watcher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watcher
    await other.close()
    assert {entry["code"] for entry in logs} == {"store/unavailable"}


async def test_cancelled_caller_does_not_tear_a_transaction(store: SqlStore) -> None:
    """V16: a stream that ends at any point of a write leaves that write whole, and a store that works."""
    await store.clusters.create("eu-1", "alice")
    for number in range(20):
        writing = asyncio.create_task(store.desired.upsert("eu-1", KEY, f"sha256:{number}"))
        for _ in range(1 + number):
            await asyncio.sleep(0)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
    revision = await store.desired.upsert("eu-1", KEY, "sha256:last")
    items = await store.desired.items("eu-1")
    assert [(item.revision, item.deployment_digest) for item in items] == [(revision, "sha256:last")]
    assert await store.desired.revision("eu-1") == revision == 21


async def test_full_disk_refuses_and_keeps_what_was_there(store: SqlStore) -> None:
    """V16: without room a write says so, nothing of it is kept, and the store works once there is room."""
    await store.meta.put("before", b"1")
    async with store._db._writer.connect() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    entries = [AuditEntry(n, b"x" * 4000, "agent:u", 1, n + 1, ManualClock().now()) for n in range(100)]
    with pytest.raises(CellwardError) as caught:
        await store.audit.append(AuditAppend(0, entries))
    assert caught.value.code == "store/full"
    assert await store.audit.size() == 0
    async with store._db._writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count=100000")
    await store.audit.append(AuditAppend(0, entries))
    assert (await store.audit.size(), await store.meta.get("before")) == (100, b"1")


async def test_database_of_a_newer_version_is_left_alone(store: SqlStore, file: Path) -> None:
    """An older hub refuses a database it does not know and changes nothing in it."""
    await store.close()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE alembic_version SET version_num='9999'")
        other.commit()
    before = file.read_bytes()
    with pytest.raises(CellwardError) as caught:
        await open_store(f"sqlite+aiosqlite:///{file}", ManualClock())
    assert caught.value.code == "store/newer-schema"
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is not a database, it only looks like a file " * 100])
async def test_damaged_file_is_refused(file: Path, content: bytes) -> None:
    """V16: a file that is no database is reported, not replaced."""
    file.write_bytes(content)
    with pytest.raises(CellwardError) as caught:
        await open_store(f"sqlite+aiosqlite:///{file}", ManualClock())
    assert caught.value.code == "store/damaged"
    assert file.read_bytes() == content


@pytest.mark.parametrize("place", ["no/hub.db", "."])
async def test_missing_place_is_unavailable(tmp_path: Path, place: str) -> None:
    """A volume that is not mounted, or a directory where the file should be, has a code of its own."""
    with pytest.raises(CellwardError) as caught:
        await open_store(f"sqlite+aiosqlite:///{tmp_path / place}", ManualClock())
    assert caught.value.code == "store/unavailable"


async def test_memory_database_is_refused() -> None:
    """A database in memory would be another one for each connection."""
    with pytest.raises(CellwardError) as caught:
        await open_store("sqlite+aiosqlite:///:memory:", ManualClock())
    assert caught.value.code == "store/unavailable"


async def test_locked_by_another_writer_is_unavailable(store: SqlStore, file: Path) -> None:
    """A second writer that does not let go is told, and the hub goes on when it does."""
    async with store._db._writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA busy_timeout=20")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CellwardError) as caught:
            await store.meta.put("k", b"v")
        assert caught.value.code == "store/unavailable"
        other.execute("ROLLBACK")
    await store.meta.put("k", b"v")
    assert await store.meta.get("k") == b"v"


async def test_v1_a_new_epoch_outlives_the_process_and_is_one_for_all(tmp_path: Path) -> None:
    """It is in the database: a process that opens it later, and one that had it open, name the same history."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    first, second = await open_store(url), await open_store(url)
    before = first.hub_epoch
    assert second.hub_epoch == before
    after = await first.new_epoch()
    assert await second.new_epoch() == after, "who comes second takes what the first began"
    await first.close()
    await second.close()
    again = await open_store(url)
    assert again.hub_epoch == after != before
    await again.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://hub:secret@db/hub", "nonsense", "", "://", "sqlite+pysqlite:////tmp/hub.db",
        "nodb+nodriver://hub:secret@db/hub", "postgresql+psycopg://hub:secret@db/hub",
        "postgresql://hub:secret@db/hub?sslmode=maybe", "postgresql://hub:secret@db/hub?options=-c%20x",
        "postgresql://hub:secret@db/hub?sslrootcert=/nowhere",
    ],
)  # fmt: skip
async def test_what_is_no_database_of_ours_is_refused_with_a_code_and_without_its_password(url: str) -> None:
    """Told apart from a database that does not answer."""
    with pytest.raises(CellwardError) as caught:
        await open_store(url)
    assert caught.value.code == "store/unsupported"
    assert "secret" not in f"{caught.value} {caught.value.__cause__} {caught.value.hint}"


async def test_a_url_may_leave_the_driver_out(tmp_path: Path) -> None:
    """There is one."""
    store = await open_store(f"sqlite:///{tmp_path / 'hub.db'}")
    assert len(store.hub_epoch) == 32
    await store.close()


async def test_a_look_reads_nothing_while_nobody_else_has_committed(store: SqlStore, file: Path) -> None:
    """It is asked twice a second by a hub that is idle; a commit by somebody else is still told."""
    read = list[str]()
    reader = store._db._reader.sync_engine
    await store._db.look()
    event.listen(reader, "before_cursor_execute", lambda *told: read.append(told[2]))
    await store.clusters.create("eu-1", "alice")
    await store._db.look()
    assert read == []
    async with store.changes.subscribe("clusters") as subscription:
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("update clusters set created_by = 'bob'")
            other.commit()
        await store._db.look()
        async with asyncio.timeout(5):
            assert await subscription.wait() == {"clusters"}


async def test_another_connection_that_counts_anew_is_a_change(store: SqlStore, file: Path) -> None:
    """What was committed while the writer's connection was broken and made anew is not missed."""
    await store._db.look()
    await store._db._writer.dispose()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("update clusters set created_by = 'bob'")
        other.commit()
    async with store.changes.subscribe("clusters") as subscription:
        await store._db.look()
        async with asyncio.timeout(5):
            assert await subscription.wait() == {"clusters"}
