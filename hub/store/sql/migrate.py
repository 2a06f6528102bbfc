"""Brings a database to the schema of this version, in one transaction, from inside the installed package.

Alembic is loaded only where something is to be migrated: it costs a hub 9 MB for as long as it runs, and there mostly
is nothing. Which revisions there are, the names of their files say; a test compares them with what Alembic finds.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from hub.store.errors import NEWER_SCHEMA, OLDER_SCHEMA

#: Where the migrations live; found beside this module, so no alembic.ini is needed.
LOCATION = Path(__file__).parent / "migrations"
#: Alembic's own table.
_VERSION = table("alembic_version", column("version_num"))


def upgrade(connection: Connection) -> None:
    """Run what is missing; raises store/newer-schema when a later version has written this database."""
    if _current(connection) == revisions()[-1]:
        return
    from alembic import command  # noqa: PLC0415 - see the module's text
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(LOCATION).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def require_current(connection: Connection) -> None:
    """Change nothing; raises store/newer-schema, store/older-schema unless the database is at this version."""
    current = _current(connection)
    if current != revisions()[-1]:
        raise OLDER_SCHEMA(f"the database is at revision {current}")


def revisions() -> tuple[str, ...]:
    """Return the revisions of this version, oldest first: a migration's file is ``r<revision>_<what it does>.py``."""
    names = sorted(file.stem for file in (LOCATION / "versions").glob("r*_*.py"))
    return tuple(name[1:].partition("_")[0] for name in names)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION.name):
        return None
    current = connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()
    if current is not None and current not in revisions():
        raise NEWER_SCHEMA(f"the database is at revision {current}, which this version does not know", revision=current)
    return current
