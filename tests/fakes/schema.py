"""The schema of a new SQLite store without running every migration for each of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from hub.store.sql.migrate import upgrade


class Schema:
    """What all migrations make of an empty SQLite database, kept from the first one and written into the next ones.

    A database with anything in it, and every PostgreSQL one, is migrated as a hub migrates it.
    """

    def __init__(self) -> None:
        self._statements: list[str] = []
        self._rows: dict[str, list[tuple[Any, ...]]] = {}

    def upgrade(self, connection: Connection) -> None:
        """Bring a database to the schema of this version."""
        if connection.dialect.name != "sqlite" or _master(connection):
            upgrade(connection)
        elif not self._statements:
            upgrade(connection)
            self._keep(connection)
        else:
            for statement in self._statements:
                connection.exec_driver_sql(statement)
            for table, rows in self._rows.items():
                places = ", ".join("?" * len(rows[0]))
                connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - our own names

    def _keep(self, connection: Connection) -> None:
        made = _master(connection)
        for kind, name, _ in made:
            if kind == "table":
                found = connection.exec_driver_sql(f"SELECT * FROM {name}").fetchall()  # noqa: S608 - our own names
                if found:
                    self._rows[name] = [tuple(row) for row in found]
        self._statements = [statement for _, _, statement in made]


def _master(connection: Connection) -> list[tuple[str, str, str]]:
    """Return kind, name and text of everything that was made by a statement, in its order."""
    found = connection.exec_driver_sql(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY rowid"
    )
    return [(row[0], row[1], row[2]) for row in found]
