"""SQLite takes one hub: a second one on the same file is refused, as long as the first one runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hub.store.errors import IN_USE
from hub.store.sql.database import database_file


@contextmanager
def alone(url: str) -> Iterator[None]:
    """Keep other hubs off the database of a URL, if it is a file; raises store/in-use.

    The lock is the process's: it ends with it, however it ends.
    """
    file = database_file(url)
    if file is None or not file.parent.is_dir():
        # No file, or one that opening will refuse.
        yield
        return
    descriptor = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IN_USE(f"{file} is used by another hub") from error
        yield
    finally:
        os.close(descriptor)
