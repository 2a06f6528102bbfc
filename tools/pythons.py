"""List the Pythons of this machine that ``pyproject.toml`` allows, one for each minor version, oldest first.

Looked for on PATH and among pyenv's versions, because pyenv's own commands answer only for the versions it has switched
on. Run by ``make test-pythons`` before anything is installed: standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"python3\.\d+\Z")
_ASK = "import sys, venv; print(*sys.version_info[:2], sys.implementation.name)"


def main(arguments: list[str]) -> int:
    """Print the paths; with ``--ends`` only the oldest and the newest."""
    found = available(_candidates(), _oldest_allowed())
    chosen = [found[minor] for minor in sorted(found)]
    if "--ends" in arguments:
        chosen = list(dict.fromkeys(chosen[:1] + chosen[-1:]))
    print("\n".join(map(str, chosen)))
    return 0 if chosen else 1


def available(candidates: Iterable[Path], oldest: tuple[int, int]) -> dict[tuple[int, int], Path]:
    """Return the first CPython of each minor version from ``oldest`` on that really answers."""
    found: dict[tuple[int, int], Path] = {}
    for python in candidates:
        version = _version(python)
        if version is not None and version >= oldest:
            found.setdefault(version, python)
    return found


def _candidates() -> Iterator[Path]:
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob("versions/*/bin"), reverse=True)
    for folder in folders:
        if folder.is_dir():
            yield from sorted(file for file in folder.iterdir() if _NAME.match(file.name))


def _version(python: Path) -> tuple[int, int] | None:
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode != 0 or len(words) != 3 or words[2] != "cpython":
        return None
    return int(words[0]), int(words[1])


def _oldest_allowed() -> tuple[int, int]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    allowed = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    if allowed is None:
        raise SystemExit(f"requires-python {project['requires-python']!r} has another form than >=X.Y")
    return int(allowed.group(1)), int(allowed.group(2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
