"""Private directories of engines: made, locked while in use, and swept when the agent that made them was killed.

SIGKILL leaves no time to tidy up, so each start looks for what an earlier agent of the same user left. A directory is
in use as long as somebody holds the lock in it; process ids say nothing, because agents in containers share theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "cellward-opa-"
_LOCK = "lock"
#: A directory without a lock may be one that is just being made, seconds.
_YOUNG = 60.0


class Scratch:
    """One directory of mode 0700, locked until it is removed or its maker dies."""

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            try:
                self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                shutil.rmtree(self.path, ignore_errors=True)
                raise
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if (self.path / _LOCK).exists():
                return
            # Somebody swept it between the two lines above.
            os.close(self._lock)

    def remove(self) -> None:
        """Remove the directory; call it once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove directories of this user whose makers are gone; what cannot be looked at is left alone."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            _sweep_one(path)


def _sweep_one(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - found.st_mtime > _YOUNG:  # compared with the file system's clock, not with ours
            shutil.rmtree(path, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
