"""The schema that tests are given is the one that migrations make."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from hub.store.sql.migrate import LOCATION, revisions, upgrade
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


def test_the_names_of_migrations_say_what_alembic_finds() -> None:
    """A file that is named otherwise would be left out, and a database taken for current that is not."""
    config = Config()
    config.set_main_option("script_location", str(LOCATION))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == revisions()
    assert scripts.get_current_head() == revisions()[-1]


def test_a_hub_whose_database_is_current_does_not_load_alembic(tmp_path: Path) -> None:
    """It would keep 9 MB for as long as it runs."""
    program = """
import asyncio, sys
from hub.store.sql.store import open_store

async def main():
    await (await open_store(sys.argv[1])).close()

asyncio.run(main())
print("alembic" in sys.modules)
"""
    command = [sys.executable, "-c", program, f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said == ["True\n", "False\n"]
