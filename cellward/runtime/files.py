"""Files that are either the old ones or the new ones, never half of each, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

#: What mounting a volume with an ``fsGroup`` adds to the rights of each file and directory on it.
_OF_A_MOUNT = {False: 0o060, True: 0o070}


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: temporary file in the same directory, fsync, rename, fsync of the directory.

    Args:
        path: the file; its directory must exist.
        data: the whole new content.
        mode: permission bits from the first moment on, whatever the umask is.

    Raises:
        OSError: nothing was replaced, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def narrow(path: Path) -> None:
    """Take back the rights that mounting a volume with an ``fsGroup`` gave to the group; the owner's stay.

    Nothing else is changed: any other rights of group or others were given by a person, and what they mean is the
    caller's to judge. A file that is missing, or somebody else's, stays as it is.

    Raises:
        OSError: the file is ours and its rights cannot be set.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid() and mode & 0o077 == _OF_A_MOUNT[stat.S_ISDIR(found.st_mode)]:
        path.chmod(mode & 0o700)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
