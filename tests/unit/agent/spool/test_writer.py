"""The writer thread: savepoints in a group, and callers that gave up."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.spool import writer as writer_module
from agent.spool.errors import FULL
from agent.spool.writer import Writer
from cellward.errors import CellwardError
from tests.fakes.refusals import refused


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    """A writer on an empty file with one table."""
    made = Writer(tmp_path / "file.db", 1024 * 1024)
    await made.start()
    await made.run(lambda connection: connection.execute("CREATE TABLE t (x TEXT)").rowcount)
    yield made
    await made.close()


def insert(connection: sqlite3.Connection, value: str) -> None:
    """Write one row."""
    connection.execute("INSERT INTO t VALUES (?)", (value,))


def rows(connection: sqlite3.Connection) -> list[str]:
    """Read all rows."""
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


async def test_v16_a_job_that_fails_in_the_middle_leaves_nothing_of_itself(writer: Writer) -> None:
    """Half of a job is never committed with the group it was in, and its neighbours are."""
    hold = threading.Event()

    def half(connection: sqlite3.Connection) -> None:
        insert(connection, "half")
        raise FULL("in the middle")

    blocked = asyncio.ensure_future(writer.run(lambda _: hold.wait(5)))
    group = [
        asyncio.ensure_future(writer.run(lambda connection: insert(connection, "before"))),
        asyncio.ensure_future(writer.run(half)),
        asyncio.ensure_future(writer.run(lambda connection: insert(connection, "after"))),
    ]
    await asyncio.sleep(0)
    hold.set()
    results = await asyncio.gather(*group, return_exceptions=True)
    await blocked
    assert [type(result).__name__ for result in results] == ["NoneType", "Exhausted", "NoneType"]
    assert await writer.run(rows) == ["before", "after"]


async def test_a_caller_that_gave_up_before_its_turn_gets_nothing_written(writer: Writer) -> None:
    """Cancelling before the job began means it is not done."""
    begun, hold = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> None:
        begun.set()
        hold.wait(5)

    blocked = asyncio.ensure_future(writer.run(wait))
    # Jobs that wait together are one group and begin together; this one has to be waiting alone.
    await asyncio.to_thread(begun.wait, 5)
    given_up = asyncio.ensure_future(writer.run(lambda connection: insert(connection, "never")))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    hold.set()
    await blocked
    assert await writer.run(rows) == []


def breaks(connection: sqlite3.Connection) -> None:
    """Write, then fail as a disk does that has gone bad."""
    insert(connection, "half")
    raise sqlite3.OperationalError("disk I/O error")


async def test_v16_a_rollback_that_fails_ends_neither_the_thread_nor_those_who_wait(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody in the group and after it gets an answer; what was not committed is gone, and the file works again."""
    real = writer_module._rollback
    hold = threading.Event()

    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    await writer.run(lambda connection: insert(connection, "kept"))
    monkeypatch.setattr(writer_module, "_rollback", fail)
    blocked = asyncio.ensure_future(writer.run(lambda _: hold.wait(5)))
    group = [asyncio.ensure_future(writer.run(job)) for job in (breaks, breaks)]
    await asyncio.sleep(0)
    hold.set()
    async with asyncio.timeout(30):
        results = await asyncio.gather(blocked, *group, return_exceptions=True)
    codes = {result.code for result in results if isinstance(result, CellwardError)}
    assert codes == {"spool/unwritable"}
    assert all(isinstance(result, CellwardError) for result in results[1:])
    monkeypatch.setattr(writer_module, "_rollback", real)
    async with asyncio.timeout(30):
        await writer.run(lambda connection: insert(connection, "after"))
        assert await writer.run(rows) == ["kept", "after"]


async def test_v16_a_file_that_went_away_is_not_begun_anew_behind_a_failed_rollback(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty file in place of floors and inventories would be a silent start: everything is refused instead."""

    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer_module, "_rollback", fail)
    with refused("spool/unwritable"):
        await writer.run(breaks)
    for part in tmp_path.glob("file.db*"):
        # The connection that is being dropped takes its own log along.
        with contextlib.suppress(FileNotFoundError):
            part.rename(tmp_path / f"away-{part.name}")
    for _ in range(2):
        with pytest.raises(CellwardError) as caught:
            await writer.run(rows)
        assert caught.value.code == "spool/unwritable"
    assert not (tmp_path / "file.db").exists()
    for part in tmp_path.glob("away-*"):
        part.rename(tmp_path / part.name.removeprefix("away-"))
    assert await writer.run(rows) == []
