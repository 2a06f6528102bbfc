"""Databases of every older schema come to the one of this version with everything that was in them.

V13: an upgrade loses no record; V4: it loosens no lock. Rows are made from the schema as each step left it, so a new
step is tested as soon as it exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from cellward.documents.names import CellKey
from cellward.runtime.clock import Clock
from hub.store.documents import Judged, Usage
from hub.store.sql.database import connect
from hub.store.sql.migrate import LOCATION
from hub.store.sql.store import open_store
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Server

Row = dict[str, Any]
Rows = dict[str, list[Row]]
#: Rows that a step makes itself.
MADE = {"audit_log": [{"id": 1, "size": 0}]}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(LOCATION).replace("%", "%%"))
    return config


#: Oldest first.
REVISIONS = [step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


@dataclass
class Old:
    """A database at an older revision."""

    url: str
    clock: Clock

    async def change(self, job: Callable[[sa.Connection], Any]) -> Any:
        """Run something in a transaction of its own."""
        database = connect(self.url, self.clock, keep=False)

        async def run(connection: AsyncConnection) -> Any:
            return await connection.run_sync(job)

        try:
            await database.prepare()
            return await database.write(lambda tx: run(tx.connection))
        finally:
            await database.close()

    async def make(self, revision: str) -> None:
        """Bring an empty database to a revision."""

        def job(connection: sa.Connection) -> None:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

        await self.change(job)

    async def rows(self) -> Rows:
        """Return all there is, by table."""
        return await self.change(_read)  # type: ignore[no-any-return]

    async def upgrade(self) -> None:
        """Open it as the hub does."""
        await (await open_store(self.url, self.clock)).close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def old(request: pytest.FixtureRequest, tmp_path: Any) -> Old:
    """Give an empty database of each kind, without tables."""
    if request.param == "sqlite":
        return Old(f"sqlite:///{tmp_path / 'hub.db'}", ManualClock())
    server: Server = request.getfixturevalue("postgres")
    return Old(await server.new(migrated=False), ManualClock())


def _tables(connection: sa.Connection) -> Sequence[sa.Table]:
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def _read(connection: sa.Connection) -> Rows:
    return {
        table.name: sorted((dict(row._mapping) for row in connection.execute(sa.select(table))), key=repr)
        for table in _tables(connection)
    }


def _fill(connection: sa.Connection) -> None:
    """Put three rows into every table that has none; no two values of a column are the same, except truths."""
    for table in _tables(connection):
        if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one():
            continue
        columns = [column for column in table.columns if not _counted(column)]
        rows = [{column.name: _value(column, number) for column in columns} for number in (1, 2, 3)]
        connection.execute(sa.insert(table), rows)


def _value(column: sa.Column[Any], number: int) -> Any:
    kind = column.type
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return _value(key.column, number)
    if isinstance(kind, sa.Boolean):
        return number % 2 == 1
    if isinstance(kind, sa.JSON):
        # What a list of names and what a table of anything can be read as.
        return [f"{column.name}-{number}"] if column.name in _LISTS else {"of": f"{column.name}-{number}"}
    if isinstance(kind, sa.Integer):
        return number if column.primary_key else 1_700_000_000_000_000 + number
    if isinstance(kind, sa.LargeBinary):
        return f"{column.table.name}.{column.name}-{number}\x00\xff".encode("latin-1")
    return f"{column.name}-{number}"


def _counted(column: sa.Column[Any]) -> bool:
    """Whether the database counts the column up by itself."""
    return column.name in {"id", "number"} and isinstance(column.type, sa.Integer)


_LISTS = {"environments", "projects", "evidence"}


@pytest.mark.parametrize("revision", REVISIONS)
async def test_v13_an_upgrade_keeps_every_row(old: Old, revision: str) -> None:
    """Each row of each older schema is there afterwards, as it was, or where a step says; the store works with it."""
    await old.make(revision)
    await old.change(_fill)
    before = await old.rows()
    assert all(
        row.items() <= found.items() for name in MADE for row, found in zip(MADE[name], before[name], strict=True)
    )
    assert all(len(rows) == 3 for name, rows in before.items() if name not in {*MADE, "revisions"})
    await old.upgrade()
    after = await old.rows()
    for cluster in before["clusters"]:
        # Step 5 made rows of their own of these.
        if cluster.pop("locked", False):
            lock = {"kind": "cluster", "subject": cluster["name"], "reason": cluster["lock_reason"]}
            assert [row for row in after["locks"] if lock.items() <= row.items()]
        cluster.pop("lock_reason", None)
    # Step 4: what was derived from the documents is derived anew.
    before.pop("placements", None)
    assert _missing(before, after) == []
    await _can_be_read_and_written(old)


async def _can_be_read_and_written(old: Old) -> None:
    """What was filled in is read by this version's store, not only found by SQL."""
    store = await open_store(old.url, old.clock)
    try:
        assert [row.name for row in await store.clusters.list()] == ["name-1", "name-2", "name-3"]
        assert [token.subject for token in await store.api_tokens.list()] == ["subject-1", "subject-2", "subject-3"]
        assert len(await store.desired.items("name-2")) == 1
        assert [row.index for row in await store.audit.records(0, 10)] == [1, 2, 3]
        assert [lock.subject for lock in await store.locks.list()] != []
        await store.clusters.create("eu-1", "alice")
        await store.check()
    finally:
        await store.close()


def _missing(before: Rows, after: Rows) -> list[str]:
    return [
        f"{table}: {json.dumps(row, default=repr)}"
        for table, rows in before.items()
        for row in rows
        if not any(all(name in found and found[name] == row[name] for name in row) for found in after.get(table, []))
    ]


@pytest.mark.parametrize("revision", ["0001", "0002"])
async def test_tokens_of_one_subject_are_all_kept_and_told_apart(old: Old, revision: str) -> None:
    """Before step 3 a subject could have several tokens: each stays in force, under a name it can be revoked by."""
    long = "x" * 64
    names = ["ci", "ci", "ci", "ci.2", "dora", long, long, "bootstrap-admin", "bootstrap-admin"]
    rows = [
        {"token_hash": f"hash-{number}", "subject": name, "role": f"role-{number}", "expires_at": None}
        for number, name in enumerate(names)
    ]

    def fill(connection: sa.Connection) -> None:
        (table,) = (table for table in _tables(connection) if table.name == "api_tokens")
        connection.execute(sa.insert(table), rows)

    await old.make(revision)
    await old.change(fill)
    await old.upgrade()
    after = (await old.rows())["api_tokens"]
    assert {row["token_hash"]: (row["subject"], row["role"]) for row in after} == {
        "hash-0": ("ci", "role-0"),
        "hash-1": ("ci.3", "role-1"),
        "hash-2": ("ci.4", "role-2"),
        "hash-3": ("ci.2", "role-3"),
        "hash-4": ("dora", "role-4"),
        "hash-5": (long, "role-5"),
        "hash-6": (f"{long[:62]}.2", "role-6"),
        # Which of the first admin's is in force its file says, and the hub keeps that one anew at its start.
        "hash-7": ("bootstrap-admin", "role-7"),
    }


async def test_v14_what_was_kept_before_step_10_is_current_afterwards(old: Old) -> None:
    """The newest that is verified with its release, of each cell; names that no agent takes stay out."""
    release, older, newer, waits, foreign = (f"sha256:{name}" for name in ("r", "older", "newer", "waits", "foreign"))
    rows = [
        _kept(release, "release", []),
        _kept(older, "deployment", ["dev", "prod"], 1, subject=release, selector={"all": True}),
        _kept(newer, "deployment", ["dev"], 2, subject=release, selector={"all": True}),
        _kept(waits, "deployment", ["dev"], 3, standing="pending", subject=release, selector={"all": True}),
        _kept(foreign, "tombstone", ["a--b"], 4),
        {**_kept("sha256:was", "release", []), "standing": "unverified", "judgement": {"once": True}},
    ]

    def fill(connection: sa.Connection) -> None:
        (table,) = (table for table in _tables(connection) if table.name == "documents")
        connection.execute(sa.insert(table), rows)

    await old.make("0009")
    await old.change(fill)
    store = await open_store(old.url, old.clock)
    try:
        current = await store.documents.current(2**53)
        assert {key: [entry.digest for entry in found] for key, found in current.items()} == {
            ("shop", "cart", "dev"): [newer],
            ("shop", "cart", "prod"): [older],
        }
        assert await store.documents.usage("shop") == Usage(4, 4 * 8, 2, 2 * 8)
        assert await store.documents.named([release]) == {release}
        assert [entry.digest for entry in await store.documents.loose("shop", once=False)] == [waits]
        prod = (CellKey("shop", "cart", "prod"), 1)
        assert await store.documents.taken([prod]) == {prod: older}
        # What comes then is judged beside it, chosen alike by alike selectors.
        await store.documents.judge_many([Judged(waits, "verified", {})])
        found = await store.documents.current(2**53, [CellKey("shop", "cart", "dev")])
        assert [entry.digest for entries in found.values() for entry in entries] == [waits]
    finally:
        await store.close()


def _kept(
    digest: str, kind: str, environments: list[str], sequence: int = 0, standing: str = "verified", **meta: Any
) -> Row:
    return {
        "digest": digest, "kind": kind, "envelope": b"envelope", "project": "shop", "cell": "cart",
        "environments": environments, "sequence": sequence, "meta": meta, "received_at": 0, "standing": standing,
        "judgement": {},
    }  # fmt: skip
