"""A ballast file beside a SQLite database: room that a hub can give up to start on a full disk.

SQLite needs room even to read: for its shared memory file, and for what a start writes. The ballast is removed when a
start finds no room, and made again as soon as there is some.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from hub.store.errors import FULL, UNAVAILABLE

#: Bytes: a start writes some ten pages, and the shared memory file has 32 KiB.
SIZE: Final = 2 * 1024**2


class Ballast:
    """The ballast of one database file; blocking, so not on the event loop."""

    def __init__(self, database: Path) -> None:
        self._file = database.with_name(f"{database.name}.ballast")

    def make(self) -> None:
        """Take the room unless it is taken; raises store/full, store/unavailable."""
        if self._file.exists() and self._file.stat().st_size == SIZE:
            return
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Blocks, not a hole: a file that is only long keeps no room.
            os.posix_fallocate(descriptor, 0, SIZE)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.unlink()
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise FULL("there is no room for the ballast of the hub's database") from error
            raise UNAVAILABLE(f"the ballast of the hub's database cannot be made: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def drop(self) -> bool:
        """Give up the room; return whether there was any."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        return True
