"""Make ``.venv``: every dependency at its pinned hash, and this tree importable with its commands.

Run by ``make setup`` with the system's Python, before anything is installed: standard library only. The tree is
linked by a ``.pth`` file and three small scripts, because an editable install would fetch a build backend that is
not in the lock.

Whatever interrupts it, the next run ends well: while ``.venv`` is being made or filled a marker lies in it, and one
that still has the marker is recreated. Of two runs at once the second waits for the first.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Another name is for another Python beside it: ``make test-pythons``.
NAME = Path(os.environ.get("CELLWARD_VENV") or ".venv").name
VENV = ROOT / NAME
LOCK = ROOT / "requirements" / "dev.txt"
_STAMP = VENV / ".cellward-setup"
#: Lies in ``.venv`` from before the first file of it until all of it is there.
_MAKING = VENV / ".cellward-making"
#: Not in ``.venv``, which is replaced by whoever holds the lock.
_SCRATCH = ROOT / ".cellward"
_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_POLL_SECONDS = 0.2
#: Longest first line of a script that every kernel reads as a whole.
_SHEBANG = 127
_SCRIPT = """{start}
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def main() -> int:
    """Bring the virtual environment up to date; does nothing when the stamp says it is."""
    wanted = _fingerprint()
    try:
        if _up_to_date(wanted):
            return 0
        with _own_turn():
            return 0 if _up_to_date(wanted) else _make(wanted)
    except KeyboardInterrupt:
        _say("interrupted; the next `make` finishes it")
        return 130
    except OSError as error:
        print(f"error: {NAME} cannot be made: {error}", file=sys.stderr)
        return 1


def _make(wanted: str) -> int:
    try:
        python = _virtual_environment()
        _install(python)
        _link(python)
    except subprocess.CalledProcessError as error:
        print(f"error: `{' '.join(map(str, error.cmd))}` ended with {error.returncode}", file=sys.stderr)
        print("  Its own words are above. Fix that and run `make setup` again.", file=sys.stderr)
        return 1
    except _MissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _STAMP.write_text(wanted)
    _MAKING.unlink()
    _say(f"ready; commands are in {NAME}/bin: cellward, cellward-hub, cellward-agent")
    return 0


class _MissingError(Exception):
    """Something of the system that we need is not there; the text says what and how to get it."""


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def _fingerprint() -> str:
    from hashlib import sha256

    inputs = [LOCK, ROOT / "pyproject.toml", Path(__file__)]
    return sha256(b"\0".join(file.read_bytes() for file in inputs)).hexdigest() + f" {_MINOR} {ROOT}\n"


def _up_to_date(wanted: str) -> bool:
    return _STAMP.is_file() and _STAMP.read_text() == wanted and not _MAKING.exists()


@contextmanager
def _own_turn() -> Iterator[None]:
    """Wait until no other run is at work; the kernel ends the turn of one that is killed."""
    _SCRATCH.mkdir(exist_ok=True)
    with (_SCRATCH / "setup.lock").open("w") as handle:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    _say("waiting for another `make` that sets up this tree")
                told = True
                time.sleep(_POLL_SECONDS)
        yield


def _virtual_environment() -> Path:
    """Return the interpreter of ``.venv``, making it if needed, with or without Debian's python3-venv."""
    python = VENV / "bin" / "python"
    with_pip = _importable("ensurepip")
    if _usable(python, with_pip=with_pip):
        _STAMP.unlink(missing_ok=True)
        _MAKING.touch()
        return python
    _say(f"making {NAME} with Python {_MINOR}")
    _put_away()
    VENV.mkdir()
    _MAKING.touch()
    if _importable("venv") and with_pip:
        _run(sys.executable, "-m", "venv", VENV)
    elif _importable("venv"):
        _say("python3-venv is not installed: making it without pip, the system's pip will fill it")
        _run(sys.executable, "-m", "venv", "--without-pip", VENV)
    else:
        raise _MissingError("this Python has no `venv` module.\n  On Debian or Ubuntu: apt-get install python3-venv")
    return python


def _put_away() -> None:
    """Remove ``.venv`` of a cancelled run, of another Python, or of an interpreter that is gone: nobody's work.

    It is renamed first, because half of one could be taken for a whole one.
    """
    gone = _SCRATCH / f"{NAME}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if VENV.exists():
        VENV.rename(gone)
        shutil.rmtree(gone)


def _usable(python: Path, *, with_pip: bool) -> bool:
    """Whether ``.venv`` is whole, of the Python that runs this, and has the pip it would get today."""
    if _MAKING.exists() or _asked(python, "import sys; print('%d.%d' % sys.version_info[:2])") != _MINOR:
        return False
    return not with_pip or _works(python, "-m", "pip", "--version")


def _install(python: Path) -> None:
    _say("installing the pinned dependencies (a few minutes the first time)")
    arguments: list[str | Path] = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--require-hashes",
        "-r",
        LOCK,
    ]
    if _works(python, "-m", "pip", "--version"):
        pip: tuple[str | Path, ...] = (python, "-m", "pip")
    elif _works(Path(sys.executable), "-m", "pip", "--version"):
        pip = (sys.executable, "-m", "pip", "--python", python)
    else:
        raise _MissingError(
            "there is no pip: neither python3-venv nor python3-pip is installed.\n"
            "  On Debian or Ubuntu: apt-get install python3-venv"
        )
    try:
        _run(*pip, *arguments)
    except subprocess.CalledProcessError:
        # pip fetches everything before it installs anything: an unreachable index is no reason to begin again.
        _MAKING.unlink()
        raise


def _link(python: Path) -> None:
    _say("linking this tree into .venv")
    packages = _asked(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    if not packages:
        raise _MissingError(f"{python} does not say where its packages are; remove {NAME} and run `make setup` again")
    Path(packages, "cellward-tree.pth").write_text(f"{ROOT}\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, entry in project["scripts"].items():
        module, _, function = entry.partition(":")
        script = VENV / "bin" / name
        script.write_text(_SCRIPT.format(start=_start(python), module=module, function=function))
        script.chmod(0o755)


def _start(python: Path) -> str:
    """Return the first lines of a script: a path with a space, or a long one, needs a shell in between, as in pip's."""
    plain = f"#!{python}"
    if " " not in plain and len(plain) <= _SHEBANG:
        return plain
    return f"#!/bin/sh\n'''exec' {shlex.quote(str(python))} \"$0\" \"$@\"\n' '''"


def _importable(name: str) -> bool:
    return _works(Path(sys.executable), "-c", f"import {name}")


def _works(program: Path, *arguments: str) -> bool:
    return _answer(program, *arguments) is not None


def _asked(python: Path, code: str) -> str:
    """Return what a Python prints when it runs this code, nothing when it cannot."""
    return (_answer(python, "-c", code) or "").strip()


def _answer(program: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
