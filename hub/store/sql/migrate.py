"""Brings a database to the schema of this version, in one transaction, from inside the installed package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from hub.store.errors import NEWER_SCHEMA, OLDER_SCHEMA

#: Where the migrations live; found beside this module, so no alembic.ini is needed.
LOCATION = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Run what is missing; raises store/newer-schema when a later version has written this database."""
    config = _config(connection)
    if _current(connection, config) != ScriptDirectory.from_config(config).get_current_head():
        command.upgrade(config, "head")


def require_current(connection: Connection) -> None:
    """Change nothing; raises store/newer-schema, store/older-schema unless the database is at this version."""
    config = _config(connection)
    current = _current(connection, config)
    if current != ScriptDirectory.from_config(config).get_current_head():
        raise OLDER_SCHEMA(f"the database is at revision {current}")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(LOCATION).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection, config: Config) -> str | None:
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise NEWER_SCHEMA(f"the database is at revision {current}, which this version does not know", revision=current)
    return current
