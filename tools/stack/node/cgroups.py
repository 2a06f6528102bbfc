"""Control groups of nodes: version 1 (one tree for each controller) and version 2 (one tree).

They are all that a node leaves behind when the tool that started it is killed. The process that made a group is in its
name, so that the next one knows which nobody needs any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_NAME: Final = re.compile(r"cellward-(\d+)-[0-9a-f]{8}\Z")


def new_name() -> str:
    """Return a name that nobody has."""
    return f"cellward-{os.getpid()}-{secrets.token_hex(4)}"


def make(name: str) -> None:
    """Make the group in every tree, so that a kubelet can have it as its root."""
    for tree in _trees():
        made = tree / name
        made.mkdir()
        if (tree / "cgroup.subtree_control").exists():
            _delegate(tree, made)
        elif (made / "cpuset.cpus").exists():
            # A new group of this controller has none, and then no process may join it.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (made / file).write_text((tree / file).read_text())


def remove(name: str) -> None:
    """Remove the groups of a node; one that still holds a process stays for ``remove_left_behind``."""
    for tree in _trees():
        for group in sorted(_below(tree / name), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()


def processes(name: str, pod: str) -> frozenset[int]:
    """Return the processes in the groups below ``name`` that belong to a pod; ``pod`` is the name of its group."""
    groups = [group for tree in _trees() for group in _below(tree / name) if pod in group.relative_to(tree).parts]
    found: set[int] = set()
    for group in groups:
        # It may end while this looks.
        with contextlib.suppress(OSError):
            found.update(map(int, (group / "cgroup.procs").read_text().split()))
    return frozenset(found)


def working_set(name: str, pod: str) -> int:
    """Return the memory of a pod's group without inactive pages of files, bytes, as a kubelet counts it."""
    for tree in _trees():
        for group in _below(tree / name):
            for used, inactive in (
                ("memory.current", "inactive_file"),
                ("memory.usage_in_bytes", "total_inactive_file"),
            ):
                if group.name == pod and (group / used).exists():
                    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    return int((group / used).read_text()) - int(stat[inactive])
    raise FileNotFoundError(f"no memory group of {pod} below {name}")


def remove_left_behind() -> None:
    """Remove the groups of processes that are gone."""
    for tree in _trees():
        for left in tree.glob("cellward-*"):
            found = _NAME.match(left.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                remove(left.name)


def _below(top: Path) -> Iterator[Path]:
    if top.is_dir():
        yield top
        for entry in top.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                yield from _below(entry)


def _trees() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in sorted(_ROOT.iterdir()) if path.is_dir() and not path.is_symlink()]


def _delegate(tree: Path, made: Path) -> None:
    """Let groups below have every controller; one that cannot be given is none a kubelet needs."""
    for group in (tree, made):
        for name in (tree / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{name}")
