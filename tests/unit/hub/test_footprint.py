"""What a hub has in memory for as long as it lives: imports that it uses, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
#: Packages that a hub on SQLite loads never, or only for what it was asked to do; each was loaded at its start once.
_NOT_NEEDED = (
    "agent",
    "alembic",
    "asyncpg",
    "cli",
    "kubernetes",
    "mako",
    "requests",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "tuf.ngclient",
    "urllib3",
)
_LOADED = """
import sys
import hub.__main__, hub.app
print("\\n".join(sorted(sys.modules)))
"""
_SESSIONS = """
import hub.store.sql.store
from sqlalchemy.ext.asyncio.session import AsyncSession
print(AsyncSession.__name__)
"""


def run(code: str) -> list[str]:
    """Run code in a process of its own and return the words that it prints."""
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, env={"PYTHONPATH": str(_ROOT)}, capture_output=True, check=True
    )
    return shown.stdout.decode().split()


def test_a_hub_loads_nothing_that_it_does_not_use() -> None:
    """A process with all that ours imports at its start."""
    loaded = run(_LOADED)
    assert {"sqlalchemy.ext.asyncio.engine", "grpc.aio", "aiohttp.web"} <= set(loaded)
    assert [name for name in _NOT_NEEDED if name in loaded] == []


def test_what_is_left_out_can_be_imported() -> None:
    """Sessions of SQLAlchemy are missing in our process only until somebody asks for their module."""
    assert run(_SESSIONS) == ["AsyncSession"]
