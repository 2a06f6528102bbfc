"""Telling the story on stderr, so that stdout carries the summary alone."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cellward.errors import CellwardError

T = TypeVar("T")

_BOLD, _DIM, _GREEN, _RED, _OFF = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"


class StepFailedError(Exception):
    """A step did not do what it must; the demonstration goes on and the summary says so."""


class UnreachableError(StepFailedError):
    """Somebody did not answer; a moment later the same question may be answered."""


class Narrator:
    """Writes scenes, steps and outcomes; colours only on a terminal.

    Attributes:
        failures: sentences of everything that went wrong so far.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._colour = sys.stderr.isatty()
        self._scenes = 0
        self.failures: list[str] = []

    def _write(self, text: str, style: str = "") -> None:
        elapsed = time.monotonic() - self._start
        body = f"{style}{text}{_OFF}" if self._colour and style else text
        print(f"[{elapsed:6.1f}s] {body}", file=sys.stderr, flush=True)

    def scene(self, title: str, proves: str) -> None:
        """Begin a scene and say what it proves."""
        self._scenes += 1
        print(file=sys.stderr)
        self._write(f"{self._scenes}. {title}", _BOLD)
        self._write(f"   proves: {proves}", _DIM)

    def step(self, text: str) -> None:
        """Say what happens next."""
        self._write(f"   · {text}")

    def good(self, text: str) -> None:
        """Say that something held."""
        self._write(f"   ✓ {text}", _GREEN)

    def bad(self, text: str) -> None:
        """Say that something did not hold, and remember it."""
        self.failures.append(text)
        self._write(f"   ✗ {text}", _RED)

    def failed(self, what: str, error: Exception) -> None:
        """Say that something could not even be tried to its end; what nobody expected is shown with its traceback."""
        self.bad(f"{what}: {str(error) or type(error).__name__}")
        if isinstance(error, CellwardError) and error.hint:
            self._write(f"     next: {error.hint}")
        if not isinstance(error, StepFailedError | CellwardError):
            traceback.print_exception(error, file=sys.stderr)

    def verdict(self, held: bool, good: str, bad: str) -> bool:
        """Tell one or the other; return ``held``."""
        if held:
            self.good(good)
        else:
            self.bad(bad)
        return held

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn a failed step, whatever failed in it, into a line of the story instead of the end of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - shown, and the summary says so
            self.failed(what, error)


def wait_for(what: str, probe: Callable[[], T | None], timeout: float, narrator: Narrator | None = None) -> T:
    """Poll ``probe`` until it returns something true, telling every 10 s what is being waited for.

    Args:
        what: the condition, for the story and for the error.
        probe: returns None or a false value while the condition does not hold; not getting an answer is the same.
        timeout: seconds.
        narrator: who tells that it takes long.

    Raises:
        StepFailedError: the condition did not come true in time.
    """
    deadline = time.monotonic() + timeout
    told = time.monotonic()
    while True:
        silent = ""
        try:
            value = probe()
        except UnreachableError as error:
            value, silent = None, f"; the last look: {error}"
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise StepFailedError(f"timed out after {timeout:.0f} s waiting for {what}{silent}")
        if narrator is not None and now - told > 10:
            narrator.step(f"still waiting for {what}")
            told = now
        time.sleep(0.05)
