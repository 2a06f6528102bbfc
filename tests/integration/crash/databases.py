"""Databases that can be put back to what they were, quickly: a file is copied, a PostgreSQL database is a template."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Protocol

import asyncpg
from sqlalchemy.engine import make_url


class Database(Protocol):
    """One database."""

    url: str

    def save(self) -> str:
        """Keep what is there now; nobody is connected."""
        ...

    def restore(self, name: str) -> None:
        """Put back what was kept; whoever was connected is gone."""
        ...


class File:
    """A SQLite file."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._file = Path(str(make_url(url).database))

    def save(self) -> str:
        """Copy the file with its log."""
        kept = self._file.with_name("kept")
        kept.mkdir()
        for part in self._parts():
            shutil.copy(part, kept)
        return str(kept)

    def restore(self, name: str) -> None:
        """Copy it back."""
        for part in self._parts():
            part.unlink()
        for part in Path(name).iterdir():
            shutil.copy(part, self._file.parent)

    def _parts(self) -> list[Path]:
        return [part for part in self._file.parent.iterdir() if part.name.startswith(self._file.name)]


class Server:
    """A database of a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._parsed = make_url(url)
        self._numbers = itertools.count()

    def save(self) -> str:
        """Make a template."""
        name = f"kept_{next(self._numbers)}"
        asyncio.run(self._run([f"CREATE DATABASE {name} TEMPLATE {self._parsed.database}"]))
        return name

    def restore(self, name: str) -> None:
        """Make it anew from the template."""
        own = self._parsed.database
        asyncio.run(self._run([f"DROP DATABASE {own} WITH (FORCE)", f"CREATE DATABASE {own} TEMPLATE {name}"]))

    async def _run(self, statements: list[str]) -> None:
        url = self._parsed
        connection = await asyncpg.connect(
            host=url.host, port=url.port, user=url.username, database="postgres", ssl=False
        )
        for statement in statements:
            await connection.execute(statement)
        await connection.close()


def database_of(url: str) -> Database:
    """Return the database of a URL."""
    return File(url) if url.startswith("sqlite") else Server(url)
