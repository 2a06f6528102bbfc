"""One child process with a log file, that never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.stack.errors import NOT_READY, PART_DIED
from tools.stack.steps import Steps

_WRAPPER = Path(__file__).with_name("die_with_parent.py")
_TAIL_LINES = 12
#: Seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 10.0


class Child:
    """A part that should run until it is stopped.

    Output goes to ``log`` (appended over restarts). The child is its own session, so a Ctrl-C in the terminal reaches
    only us and the order of stopping stays ours.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id, or None before the start."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it; call this from the thread that lives as long as the child should."""
        wrapped = [sys.executable, "-ISE", str(_WRAPPER), str(os.getpid()), *self._command]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise stack/part-died, with the end of the log, when it is not running."""
        if not self.running:
            code = self._process.poll() if self._process is not None else None
            raise PART_DIED(f"{self.name} ended with {code}; {self.log} ends with:\n{self.tail()}", part=self.name)

    def tail(self) -> str:
        """Return the last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(line[:400] for line in lines[-_TAIL_LINES:])

    def stop(self, *, kill: bool = False) -> Steps[None]:
        """End it: SIGTERM, then SIGKILL after a grace of ten seconds; with ``kill`` at once."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._signal(signal.SIGKILL if kill else signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None:
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            yield

    def kill_now(self) -> None:
        """Kill it and reap it without giving way; for the last resort when waiting was cancelled."""
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)


def until(
    condition: Callable[[], bool], children: Mapping[str, Child], part: str, *, owner: str, seconds: float
) -> Steps[None]:
    """Wait until a part is ready.

    Args:
        condition: whether it is.
        children: all that have to live meanwhile, the part among them.
        part: its name.
        owner: what the children belong to, for the error.
        seconds: how long at most.

    Raises:
        CellwardError: stack/part-died, or stack/not-ready.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for child in children.values():
            child.check()
        if time.monotonic() > deadline:
            child = children[part]
            raise NOT_READY(
                f"{part} of {owner} is not ready after {seconds:.0f} s; {child.log} ends with:\n{child.tail()}",
                part=part,
            )
        yield
