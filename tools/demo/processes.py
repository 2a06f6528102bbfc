"""Starting our own parts as the processes they are, and ending only those."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.demo.narrate import StepFailedError

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in the child between fork and exec: a killed demo leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Part:
    """One of our processes: how it is started, and its log.

    Attributes:
        name: for the story and the log file's name.
        argv: module and arguments for this Python.
        log: file that receives stdout and stderr of every run.
    """

    name: str
    argv: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again after it ended."""
        if self.running():
            raise StepFailedError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, no locks are taken
            )

    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def pid(self) -> int:
        """Process id of the running process."""
        if self._process is None:
            raise StepFailedError(f"{self.name} was never started")
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL: no shutdown code runs."""
        self._end(signal.SIGKILL, 10)

    def stop(self) -> None:
        """End it with SIGTERM and wait; SIGKILL when it does not listen."""
        self._end(signal.SIGTERM, 15)

    def _end(self, how: signal.Signals, patience: float) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log, for an error."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def require_running(self) -> None:
        """Raise with the log's tail when the process ended by itself."""
        if not self.running():
            raise StepFailedError(f"{self.name} ended by itself; its last words:\n{self.tail()}")
