"""Building a part with Go into the cache, once, whoever asks first.

One lock file per part keeps two commands from building the same thing twice; the second waits and then finds it.
The binary appears by an atomic rename after it has reported the pinned version, so a cancelled build leaves nothing
that a later command could mistake for the part.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tools.parts.errors import (
    BUILD_FAILED,
    CACHE_UNWRITABLE,
    DISK_TOO_SMALL,
    GO_MISSING,
    GO_TOO_OLD,
    WRONG_VERSION,
)
from tools.parts.locate import cached_binary, locate, part_named, path_of, reported_version
from tools.parts.model import GO_MODULES, WHEELS, Part
from tools.parts.progress import Ticker

_POLL_SECONDS = 0.2
_LOG_TAIL_LINES = 15
_MEGABYTE = 1024 * 1024


def ensure(names: Iterable[str]) -> Mapping[str, Path]:
    """Find or build every named part and return where each is.

    Raises:
        CellwardError: parts/unknown-part, parts/go-missing, parts/go-too-old, parts/disk-too-small,
            parts/cache-unwritable, parts/build-failed, parts/wrong-version.
    """
    return {name: path_of(name) if name in WHEELS else ensure_part(part_named(name)) for name in names}


def ensure_part(part: Part) -> Path:
    """Find or build one part, which need not be on the list; the rest as ``ensure``."""
    found = locate(part)
    if found is not None:
        return found
    target = cached_binary(part)
    with _writing(target.parent, part):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part, target.parent / ".lock"):
        found = locate(part)
        return found if found is not None else _build(part, target)


@contextmanager
def _writing(directory: Path, part: Part) -> Iterator[None]:
    """Turn what the disk says into an error that names the cache and the way out."""
    try:
        yield
    except OSError as error:
        raise CACHE_UNWRITABLE(
            f"{part.name} {part.version} has to be built into {directory}: {error.strerror or error}", part=part.name
        ) from error


@contextmanager
def _locked(part: Part, lock: Path) -> Iterator[None]:
    with _writing(lock.parent, part):
        handle = lock.open("w")
    with handle:
        ticker = Ticker(f"waiting for another command that builds {part.name} {part.version}")
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                ticker.tick()
                time.sleep(_POLL_SECONDS)
        # The kernel drops the lock with the descriptor, also when we are killed.
        yield


def _build(part: Part, target: Path) -> Path:
    go = _go(part)
    _check_disk(part, go, target.parent)
    with _writing(target.parent, part):
        # Whoever left these was killed: we hold the lock.
        for left in target.parent.glob(f"{part.name}.*.new"):
            left.unlink(missing_ok=True)
    fresh = target.with_name(f"{part.name}.{os.getpid()}.new")
    log = target.with_name("build.log")
    command = [go, "build", "-mod=readonly", "-trimpath", "-o", str(fresh)]
    if part.ldflags:
        command += ["-ldflags", part.ldflags]
    ticker = Ticker(f"building {part.name} {part.version} (once, about {part.minutes:g} min on two cores)")
    try:
        _run([*command, part.package], part, log, ticker)
        version = reported_version(fresh, part)
        if version != tuple(part.version.split(".")):
            said = "nothing" if version is None else ".".join(version)
            raise WRONG_VERSION(f"{fresh} reports {said} instead of {part.version}", part=part.name)
        with _writing(target.parent, part):
            fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    ticker.done(f"built into {target.parent}")
    return target


def _run(command: list[str], part: Part, log: Path, ticker: Ticker) -> None:
    # GOTOOLCHAIN=local: the compiler is the one that was checked, never one fetched on the way.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    with _writing(log.parent, part):
        out = log.open("wb")
    with out:
        process = subprocess.Popen(
            command,
            cwd=GO_MODULES / part.module,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                ticker.tick()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            # Ctrl-C: the compilers are in their own session and would go on without us.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        ticker.done("failed")
        raise BUILD_FAILED(
            f"`go build` of {part.name} {part.version} ended with {process.returncode}; {log} ends with:\n{tail}",
            part=part.name,
        )


def _go(part: Part) -> str:
    go = shutil.which("go")
    wanted = _wanted_go(part)
    if go is None:
        raise GO_MISSING(
            f"{part.name} {part.version} is not on PATH and not built yet; building needs Go {wanted[0]}.{wanted[1]}",
            part=part.name,
        )
    said = _go_env(go, "GOVERSION").strip()
    # A build from source says "devel go1.27-0123abc …".
    found = re.search(r"\bgo(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < wanted:
        raise GO_TOO_OLD(
            f"building {part.name} {part.version} needs Go {wanted[0]}.{wanted[1]}; {go} is {said or 'not answering'}",
            part=part.name,
        )
    return go


def _wanted_go(part: Part) -> tuple[int, int]:
    text = (GO_MODULES / part.module / "go.mod").read_text()
    found = re.search(r"^go (\d+)\.(\d+)", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (1, 26)


def _go_env(go: str, *names: str) -> str:
    return subprocess.run(
        [go, "env", *names],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    ).stdout


def _check_disk(part: Part, go: str, directory: Path) -> None:
    """Refuse to begin where a disk is too small: the one of the cache, and those of Go's own two caches."""
    places = [("CELLWARD_CACHE", directory)]
    for name in ("GOCACHE", "GOMODCACHE"):
        said = Path(_go_env(go, name).strip())
        if said.is_absolute():
            places.append((name, said))
    for name, place in places:
        existing = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(existing).free // _MEGABYTE
        if free < part.megabytes:
            raise DISK_TOO_SMALL(
                f"building {part.name} wants about {part.megabytes} MB; {place} ({name}) has {free} MB free",
                part=part.name,
            )
