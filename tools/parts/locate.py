"""Where a part is, without building: the cache, ``PATH`` at the pinned minor version, or the virtual environment.

The cache comes first because it holds exactly the pinned version. A binary is never trusted by its name: it is run
once per process with its version arguments.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from tools.parts.errors import NOT_THERE, UNKNOWN_PART
from tools.parts.model import PARTS, WHEELS, Part

_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)\b")
_ASK_SECONDS = 60


def cache_root() -> Path:
    """Return the directory for everything we build; ``CELLWARD_CACHE`` overrides ``~/.cache/cellward``."""
    override = os.environ.get("CELLWARD_CACHE")
    return Path(override).expanduser() if override else Path.home() / ".cache" / "cellward"


def cached_binary(part: Part) -> Path:
    """Return where the built binary of ``part`` is, or will be."""
    return cache_root() / "tools" / part.name / part.version / part.name


def part_named(name: str) -> Part:
    """Return the part, or raise parts/unknown-part."""
    try:
        return PARTS[name]
    except KeyError:
        raise UNKNOWN_PART(f"{name!r} is not one of {', '.join([*PARTS, *WHEELS])}", part=name) from None


def reported_version(binary: Path, part: Part) -> tuple[str, str, str] | None:
    """Run ``binary`` and return the version it reports, or None when it cannot be run or says nothing usable."""
    try:
        stat = binary.stat()
    except OSError:
        return None
    return _ask(binary, part.version_args, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _ask(binary: Path, arguments: tuple[str, ...], _mtime: int) -> tuple[str, str, str] | None:
    try:
        done = subprocess.run(
            [str(binary), *arguments], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout + done.stderr)
    return (found[1], found[2], found[3]) if found and done.returncode == 0 else None


def locate(part: Part) -> Path | None:
    """Return a usable binary of ``part``, or None when it has to be built."""
    cached = cached_binary(part)
    if reported_version(cached, part) == tuple(part.version.split(".")):
        return cached
    on_path = shutil.which(part.name)
    if on_path:
        version = reported_version(Path(on_path), part)
        if version is not None and version[:2] == part.minor:
            return Path(on_path)
    return None


def path_of(name: str) -> Path:
    """Return the binary of a part or wheel; never builds.

    Raises:
        CellwardError: parts/unknown-part, parts/not-there.
    """
    if name in WHEELS:
        return _wheel(name)
    part = part_named(name)
    found = locate(part)
    if found is None:
        raise NOT_THERE(
            f"{part.name} {part.version} is not in {cached_binary(part).parent} and not on PATH at "
            f"{'.'.join(part.minor)}",
            hint=f"Run `python -m tools.parts ensure {part.name}`.",
            part=part.name,
        )
    return found


def _wheel(name: str) -> Path:
    # Not resolve(): the interpreter of a virtual environment is a link to the one it was made from.
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    raise NOT_THERE(
        f"{name} is not in {beside.parent}",
        hint=f"Run `make setup`; it comes with the wheel {WHEELS[name]}.",
        part=name,
    )
