"""SQLAlchemy's asyncio engine without its object-relational mapper, which nothing here uses: 8 MB of a hub's memory.

``sqlalchemy.ext.asyncio`` loads its engine and, beside it, sessions, and sessions need the mapper. Where a version of
it is built in another way, this changes nothing, and the mapper is loaded.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Final

_PACKAGE: Final = "sqlalchemy.ext.asyncio"
#: Parts of the package that need the mapper.
_SESSIONS: Final = ("scoping", "session")


class _Absent(ModuleType):
    """Stands for a module while the package takes names from it."""

    def __getattr__(self, name: str) -> None:
        """Give nothing for every name; what Python itself asks of a module is not there."""
        if name.startswith("__"):
            raise AttributeError(name)


def load_engine() -> None:
    """Import the package; its sessions, which are None in it, can be imported from their own modules afterwards."""
    if _PACKAGE in sys.modules:
        return
    names = [f"{_PACKAGE}.{part}" for part in _SESSIONS]
    sys.modules.update({name: _Absent(name) for name in names})
    try:
        __import__(_PACKAGE)
    finally:
        for name in names:
            del sys.modules[name]
