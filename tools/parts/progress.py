"""Lines on stderr that say what is being waited for, so that nobody wonders whether it hangs."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

_QUIET_SECONDS = 15.0


@dataclass(slots=True)
class Ticker:
    """Ticks elapsed seconds: in place on a terminal, one line every 15 s elsewhere (a CI log)."""

    what: str
    out: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    _last: float = float("-inf")
    _ticked: bool = False

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self.started

    def tick(self) -> None:
        """Show that we still wait; call it as often as you like."""
        now = time.monotonic()
        if self.out.isatty():
            if now - self._last >= 1.0:
                self.out.write(f"\r  {self.what} … {self.elapsed:4.0f} s")
                self._last, self._ticked = now, True
        elif now - self._last >= _QUIET_SECONDS:
            self.out.write(f"  {self.what} … {self.elapsed:.0f} s\n")
            self._last = now
        self.out.flush()

    def done(self, text: str) -> None:
        """End the line with what came of it."""
        self.out.write(f"{chr(13) if self._ticked else ''}  {self.what}: {text} after {self.elapsed:.0f} s\n")
        self.out.flush()
