"""How long an object waits for its next repair; a value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

#: So many repairs of one object come at once; after that each waits twice as long as the one before, seconds.
FREE_REPAIRS: Final = 5
_FIRST_WAIT: Final = 0.5
_FIRST_RETRY: Final = 0.1
#: An object that nobody touched for so long starts from the beginning, seconds.
FORGIVEN_AFTER: Final = 180.0
#: Repairs that fail so often one after the other are reported.
REPORTED_AFTER: Final = 2
#: What was deleted has longer to go: after about a quarter of a minute.
REPORTED_LATE: Final = 7


@dataclass(frozen=True, slots=True)
class Patience:
    """One object that is repaired again and again.

    Attributes:
        count: repairs and failures since it was left alone last.
        failed: failures since the last repair.
        last: monotonic time of the last of them, seconds.
        not_before: monotonic time of the next look, seconds.
        postponed: whether the API server refused or was away, so that nobody fought us.
        reported: whether its failing is on record.
    """

    count: int = 0
    failed: int = 0
    last: float = 0.0
    not_before: float = 0.0
    postponed: bool = False
    reported: bool = False

    def rested(self, now: float) -> Patience:
        """Forget what was long ago."""
        long_ago = self.count and not self.failed and now - self.last > FORGIVEN_AFTER
        return replace(self, count=0, not_before=0.0) if long_ago else self

    def repaired(self, now: float, longest: float) -> Patience:
        """Count a repair: whoever fights back waits."""
        count, not_before = self.count + 1, self.not_before
        if count > FREE_REPAIRS:
            not_before = now + min(longest, _FIRST_WAIT * 2 ** min(10, count - FREE_REPAIRS))
        return replace(self, count=count, last=now, not_before=not_before).well()

    def refused(self, now: float, longest: float) -> Patience:
        """Count a failure."""
        count = self.count + 1
        not_before = now + min(longest, _FIRST_RETRY * 2 ** min(10, count))
        return replace(self, count=count, failed=self.failed + 1, last=now, not_before=not_before, postponed=True)

    def well(self) -> Patience:
        """Nothing is wrong any more."""
        return replace(self, failed=0, postponed=False, reported=False)

    def forgiven(self) -> Patience:
        """Look again at once, unless somebody fought back."""
        return replace(self, not_before=0.0, postponed=False) if self.postponed else self
