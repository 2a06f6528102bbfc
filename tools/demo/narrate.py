"""Telling the story on stderr, so that stdout carries the summary alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_BOLD, _DIM, _GREEN, _RED, _OFF = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"


class StepFailedError(Exception):
    """A step did not do what it must; the demonstration goes on and the summary says so."""


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

    def verdict(self, held: bool, good: str, bad: str) -> bool:
        """Tell one or the other; return ``held``."""
        if held:
            self.good(good)
        else:
            self.bad(bad)
        return held

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn a failed step into a line of the story instead of the end of it."""
        try:
            yield
        except StepFailedError as error:
            self.bad(f"{what}: {error}")


def wait_for(what: str, probe: Callable[[], T | None], timeout: float, narrator: Narrator | None = None) -> T:
    """Poll ``probe`` until it returns something true, telling every 10 s what is being waited for.

    Args:
        what: the condition, for the story and for the error.
        probe: returns None or a false value while the condition does not hold.
        timeout: seconds.
        narrator: who tells that it takes long.

    Raises:
        StepFailedError: the condition did not come true in time.
    """
    deadline = time.monotonic() + timeout
    told = time.monotonic()
    while True:
        value = probe()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise StepFailedError(f"waited {timeout:.0f} s for {what}, in vain")
        if narrator is not None and now - told > 10:
            narrator.step(f"still waiting for {what}")
            told = now
        time.sleep(0.05)
