"""Programs of ours in Go: built from the tree once for each state of their sources, into the cache of the parts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.parts.locate import cache_root
from tools.parts.model import GO_MODULES, ROOT
from tools.parts.progress import Ticker

#: Our programs that are one Go module each.
_PROGRAMS: Final = {"standin": GO_MODULES / "standin", "prober": ROOT / "prober"}


def program(name: str) -> Path:
    """Return one of our programs, built when its sources are new: ``standin`` for public images, ``prober``.

    Raises:
        RuntimeError: there is no Go, or it does not build.
    """
    source = _PROGRAMS[name]
    place = place_of(name, sources(name))
    binary = place / name
    if not binary.is_file():
        with locked(place):
            if not binary.is_file():
                ticker = Ticker(f"building {name} (once for each state of its sources)")
                flags = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
                go(source, "build", *flags, "-o", str(place / "new"), ".")
                (place / "new").replace(binary)
                ticker.done(f"built into {place}")
    return binary


def sources(name: str) -> list[Path]:
    """Return the files that one of our programs is built from."""
    source = _PROGRAMS[name]
    return [*source.glob("*.go"), *source.glob("go.*")]


def modules() -> list[Path]:
    """Return the directories of our programs."""
    return list(_PROGRAMS.values())


def place_of(name: str, sources: Iterable[Path]) -> Path:
    """Return the directory of a program in the cache; its version is the digest of what it is built from."""
    return cache_root() / "tools" / name / state_of(sources)


def state_of(files: Iterable[Path]) -> str:
    """Return a name for files of the tree as they are now: another one when any of them changes, comes or goes."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Make the directory, and let one process at a time build there."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def go(source: Path, *arguments: str) -> None:
    """Run the Go of this machine in a module."""
    program = shutil.which("go")
    if program is None:
        raise RuntimeError(f"{source.name} needs Go 1.26 to be built")
    run([program, *arguments], source)


def run(command: Sequence[str], directory: Path) -> str:
    """Run one step of a build and return what it printed; RuntimeError with all it said when it fails."""
    # GOTOOLCHAIN=local: the compiler is the one that is there, never one fetched on the way.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command[:3])}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
