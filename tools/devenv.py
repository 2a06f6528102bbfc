"""Make ``.venv``: every dependency at its pinned hash, and this tree importable with its commands.

Run by ``make setup`` with the system's Python, before anything is installed: standard library only. The tree is
linked by a ``.pth`` file and three small scripts, because an editable install would fetch a build backend that is
not in the lock.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "dev.txt"
_STAMP = VENV / ".cellward-setup"
_SCRIPT = """#!{python}
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def main() -> int:
    """Bring the virtual environment up to date; does nothing when the stamp says it is."""
    wanted = _fingerprint()
    if _STAMP.is_file() and _STAMP.read_text() == wanted:
        return 0
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
    _say("ready; commands are in .venv/bin: cellward, cellward-hub, cellward-agent")
    return 0


class _MissingError(Exception):
    """Something of the system that we need is not there; the text says what and how to get it."""


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def _fingerprint() -> str:
    from hashlib import sha256

    inputs = [LOCK, ROOT / "pyproject.toml", Path(__file__)]
    return sha256(b"\0".join(file.read_bytes() for file in inputs)).hexdigest() + f" {sys.version_info[:2]} {ROOT}\n"


def _virtual_environment() -> Path:
    """Return the interpreter of ``.venv``, making it if needed, with or without Debian's python3-venv."""
    python = VENV / "bin" / "python"
    if python.exists() and _works(python):
        return python
    _say(f"making .venv with Python {sys.version_info.major}.{sys.version_info.minor}")
    if VENV.exists():
        # Left by a cancelled run or an interpreter that is gone; nothing in it is anybody's work.
        shutil.rmtree(VENV)
    if _importable("venv") and _importable("ensurepip"):
        _run(sys.executable, "-m", "venv", VENV)
    elif _importable("venv"):
        _say("python3-venv is not installed: making .venv without pip, the system's pip will fill it")
        _run(sys.executable, "-m", "venv", "--without-pip", VENV)
    else:
        raise _MissingError("this Python has no `venv` module.\n  On Debian or Ubuntu: apt-get install python3-venv")
    return python


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
        _run(python, "-m", "pip", *arguments)
    elif _works(Path(sys.executable), "-m", "pip", "--version"):
        _run(sys.executable, "-m", "pip", "--python", python, *arguments)
    else:
        raise _MissingError(
            "there is no pip: neither python3-venv nor python3-pip is installed.\n"
            "  On Debian or Ubuntu: apt-get install python3-venv"
        )


def _link(python: Path) -> None:
    _say("linking this tree into .venv")
    paths = sysconfig.get_paths(vars={"base": str(VENV), "platbase": str(VENV)}, scheme="venv")
    Path(paths["purelib"], "cellward-tree.pth").write_text(f"{ROOT}\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, entry in project["scripts"].items():
        module, _, function = entry.partition(":")
        script = VENV / "bin" / name
        script.write_text(_SCRIPT.format(python=python, module=module, function=function))
        script.chmod(0o755)


def _importable(name: str) -> bool:
    return _works(Path(sys.executable), "-c", f"import {name}")


def _works(program: Path, *arguments: str) -> bool:
    try:
        done = subprocess.run([program, *(arguments or ("--version",))], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
