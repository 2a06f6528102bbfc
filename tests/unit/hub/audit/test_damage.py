"""Whatever is flipped in the rows of the log is found by the log's own hashes, and nothing is signed over it (V13)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cellward.errors import CellwardError
from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from hub.store.sql.database import Transaction
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.audit_writer import AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Server
from tests.unit.hub.audit.logs import make_log, send

#: Full tiles of level 0, one of level 1 that is not, and a few records more.
AGENT, HUB = 600, 20


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: object) -> AsyncIterator[SqlStore]:
    """Give a store of each kind with a log of an agent's and the hub's records."""
    url = f"sqlite:///{tmp_path}/hub.db"
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        url = await server.new()
    opened = await open_store(url, ManualClock())
    log, writer = make_log(opened.audit), AuditWriter(1)
    await send(log, writer, writer.batch(AGENT))
    for number in range(HUB):
        # A time with microseconds, and text that is cut: what is filed follows from the record all the same.
        event = AuditEvent("ada", "lock.set", f"Cluster//{'x' * 600}", "done", details={"project": f"p{number}"})
        await opened.audit.put_events([event])
    await log.settle()
    await log.verify()
    yield opened
    await opened.close()


async def flip(store: SqlStore, table: str, column: str, where: str) -> None:
    """Change one bit of the last byte of a value, or one letter of a text, or a number by one; of exactly one row."""

    async def job(tx: Transaction) -> None:
        query = f"SELECT {column} FROM {table} WHERE {where}"  # noqa: S608 - names from this file
        (old,) = (await tx.connection.exec_driver_sql(query)).scalars()
        if isinstance(old, bytes | memoryview):
            value = bytes(old)
            new = f"x'{(value[:-1] + bytes([value[-1] ^ 1])).hex()}'"
            if store._db.dialect == "postgresql":
                new = f"'\\x{new[2:-1]}'::bytea"
        elif isinstance(old, str):
            new = f"'{old[:-1]}{'b' if old[-1:] != 'b' else 'c'}'"
        else:
            new = str(int(old) + 1_000_000)
        change = f"UPDATE {table} SET {column} = {new} WHERE {where}"  # noqa: S608 - as above
        await tx.connection.exec_driver_sql(change)

    await store._db.write(job)


FLIPS = [
    *(("audit_records", column, "idx = 7") for column in ("record", "epoch", "seq", "time", "action", "decision")),
    *(("audit_records", column, "idx = 7") for column in ("origin", "project", "cell", "cluster")),
    ("audit_records", "record", "idx = 0"),
    ("audit_records", "record", f"idx = {AGENT + HUB - 1}"),
    ("audit_tiles", "hashes", "level = 0 AND idx = 0"),
    ("audit_tiles", "hashes", "level = 0 AND idx = 2"),
    ("audit_tiles", "hashes", "level = 1"),
    ("audit_log", "root", "id = 1"),
    ("audit_chains", "head", "origin = 'hub'"),
    ("audit_chains", "checkpoint", "origin <> 'hub'"),
    ("audit_chains", "statement_spki", "origin <> 'hub'"),
]


@pytest.mark.parametrize(("table", "column", "where"), FLIPS)
async def test_v13_what_was_flipped_is_found(store: SqlStore, table: str, column: str, where: str) -> None:
    """Each value of each row that the log is made of, on both databases."""
    await flip(store, table, column, where)
    with pytest.raises(CellwardError) as caught:
        await make_log(store.audit).verify()
    assert caught.value.code == "store/damaged"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM audit_records WHERE idx = 300", "record 300 of the audit log is missing"),
        ("DELETE FROM audit_tiles WHERE level = 0 AND idx = 1", "record 256 of the audit log, or its hash in level 0"),
        ("DELETE FROM audit_tiles WHERE level = 1", "or its hash in level 1"),
    ],
)
async def test_v13_what_is_missing_is_found_and_named(store: SqlStore, statement: str, said: str) -> None:
    """A row that is gone is damage, not a shorter log."""

    async def job(tx: Transaction) -> None:
        await tx.connection.exec_driver_sql(statement)

    await store._db.write(job)
    with pytest.raises(CellwardError, match=said) as caught:
        await make_log(store.audit).verify()
    assert caught.value.code == "store/damaged"


async def test_the_end_alone_is_looked_at_where_that_is_asked(store: SqlStore) -> None:
    """A start has no time for all of it: damage far back is not seen by it, damage at the end is."""
    log = make_log(store.audit)
    await flip(store, "audit_records", "record", "idx = 7")
    await log.verify(100)
    await flip(store, "audit_records", "record", "idx = 515")
    with pytest.raises(CellwardError, match="record 515"):
        await log.verify(100)


@pytest.mark.parametrize("table", ["audit_tiles", "audit_log"])
async def test_v13_no_head_is_signed_over_a_damaged_edge(store: SqlStore, table: str) -> None:
    """A head that contradicts an earlier one would look like a fork to every agent: nothing is appended or signed."""
    column, where = ("root", "id = 1") if table == "audit_log" else ("hashes", "level = 0 AND idx = 2")
    await flip(store, table, column, where)
    log: AuditLog = make_log(store.audit)
    writer = AuditWriter(2)
    for attempt in (log.head(), send(log, writer, writer.batch(1)), log.export(_nowhere)):
        with pytest.raises(CellwardError) as caught:
            await attempt
        assert caught.value.code == "store/damaged"
    assert await store.audit.size() == AGENT + HUB


async def _nowhere(_: bytes) -> None:
    pass
