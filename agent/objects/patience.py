"""How long an object waits for its next repair; pure but for what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: So many repairs of one object come at once; after that each waits twice as long as the one before, seconds.
_FREE_REPAIRS: Final = 5
_FIRST_WAIT: Final = 0.5
_FIRST_RETRY: Final = 0.1
#: An object left alone for so long starts anew, seconds.
_FORGIVEN_AFTER: Final = 180.0
#: Repairs that fail so often one after the other are told of.
TOLD_AFTER: Final = 2
#: What was deleted has longer to go: after about a quarter of a minute.
TOLD_LATE: Final = 7


@dataclass(slots=True)
class Fight:
    """One object that is repaired again and again.

    Attributes:
        count: repairs and failures since it was left alone last.
        failed: failures since the last repair.
        not_before: monotonic time of the next look.
        postponed: whether the API server refused or was away, so that nobody fought us.
        told: whether its failing is on record.
    """

    count: int = 0
    failed: int = 0
    last: float = 0.0
    not_before: float = 0.0
    postponed: bool = False
    told: bool = False

    def rest(self, now: float) -> None:
        """Forget what was long ago."""
        if self.count and not self.failed and now - self.last > _FORGIVEN_AFTER:
            self.count, self.not_before = 0, 0.0

    def repaired(self, now: float, longest: float) -> None:
        """Take note of a repair: whoever fights back waits."""
        self.count, self.last = self.count + 1, now
        self.well()
        if self.count > _FREE_REPAIRS:
            wait = _FIRST_WAIT * 2 ** min(10, self.count - _FREE_REPAIRS)
            self.not_before = now + min(longest, wait)

    def refused(self, now: float, longest: float) -> None:
        """Take note of a failure."""
        self.count, self.failed, self.last, self.postponed = self.count + 1, self.failed + 1, now, True
        self.not_before = now + min(longest, _FIRST_RETRY * 2 ** min(10, self.count))

    def well(self) -> None:
        """Take note that nothing is wrong any more."""
        self.failed, self.postponed, self.told = 0, False, False

    def forgive(self) -> None:
        """Look again at once, unless somebody fought back."""
        if self.postponed:
            self.not_before, self.postponed = 0.0, False
