"""Our own parts as the processes they are: how hub, agents and the CLI are started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.demo.narrate import StepFailedError, UnreachableError
from tools.parts.locate import path_of
from tools.stack.process import Child

ROOT = Path(__file__).resolve().parents[2]
#: Engines make Unix sockets below, whose paths have at most 107 bytes.
_MAX_SCRATCH = 70


def environment(home: Path, tree: Path = ROOT) -> dict[str, str]:
    """Environment of our processes: nothing of the caller's clusters, proxies or keys reaches them.

    ``tree`` is the working tree whose programs they are; another one is for tests of different versions.
    """
    found = {"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    scratch = home / "tmp"
    if len(str(scratch)) <= _MAX_SCRATCH:
        # What a killed part leaves behind goes away with the stage.
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        found["TMPDIR"] = str(scratch)
    return found


def part(name: str, arguments: list[str], log: Path, home: Path, tree: Path = ROOT) -> Child:
    """A process that runs one of our modules with this Python; of no other tree than the one that is named."""
    return Child(name, [sys.executable, "-P", "-m", *arguments], log, environment(home, tree))


def installed(name: str) -> Path:
    """Path of one of our commands, as ``make setup`` puts it beside this Python.

    Raises:
        StepFailedError: it is not there.
    """
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=str(beside))
    if found is None:
        raise StepFailedError(f"{name} is not in {beside}; run `make setup`")
    return Path(found)


class Cli:
    """The ``cellward`` command, run as a person would run it."""

    def __init__(self, home: Path, server: str = "", tree: Path = ROOT) -> None:
        self.home = home
        self._tree = tree
        self._server = {"CELLWARD_SERVER": server} if server else {}

    def run(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run one command to its end.

        Raises:
            StepFailedError: its exit code is not among ``accept``; the text is what the command said.
            UnreachableError: it did not end in two minutes.
        """
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "cli", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                env={
                    **environment(self.home, self._tree),
                    "CELLWARD_HOME": str(self.home),
                    "CELLWARD_OPA": str(path_of("opa")),
                    "NO_COLOR": "1",
                    **self._server,
                },
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"cellward {' '.join(arguments[:3])} did not end in 120 s") from error
        if done.returncode not in accept:
            said = (done.stderr.strip() or done.stdout.strip())[-1500:]
            raise StepFailedError(f"cellward {' '.join(arguments[:3])} ended with {done.returncode}: {said}")
        return done

    def json(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> Any:
        """Run one command with ``-o json`` and return what it printed."""
        return json.loads(self.run(*arguments, "-o", "json", accept=accept).stdout)
