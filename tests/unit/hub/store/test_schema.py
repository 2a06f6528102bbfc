"""The schema that tests are given is the one that migrations make."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, create_engine

from hub.store.sql.migrate import upgrade
from tests.fakes.schema import Schema


def _dump(file: Path, change: Callable[[Connection], None]) -> list[str]:
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        change(connection)
    engine.dispose()
    database = sqlite3.connect(file)
    try:
        return list(database.iterdump())
    finally:
        database.close()


def test_a_kept_schema_is_what_migrations_make(tmp_path: Path) -> None:
    """Byte by byte, rows too; and what has anything in it is migrated."""
    schema = Schema()
    made = _dump(tmp_path / "made.db", upgrade)
    assert len(made) > 20
    assert _dump(tmp_path / "first.db", schema.upgrade) == made
    assert _dump(tmp_path / "next.db", schema.upgrade) == made
    assert _dump(tmp_path / "next.db", schema.upgrade) == made, "again is no change"
