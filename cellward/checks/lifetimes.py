"""How much of a life is left: what ends is a warning at a quarter of its life and is red at a tenth. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from cellward.checks.model import Result

if TYPE_CHECKING:
    from cellward.errors import ErrorCode

Level = Literal["green", "yellow", "red"]
#: Shares of the whole life.
YELLOW, RED = 0.25, 0.10


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when something holds."""

    begins: datetime
    ends: datetime

    def level(self, now: datetime) -> Level:
        """Return how it stands: red also where it is over, or was never a life."""
        whole, left = self.ends - self.begins, self.ends - now
        if left <= whole * RED:
            return "red"
        return "yellow" if left <= whole * YELLOW else "green"


def life_line(category: str, name: str, life: Life, now: datetime, code: ErrorCode, subject: str = "") -> Result:
    """Return the line of a check about a life: green, yellow (a warning), or red, both with the code's next step."""
    level = life.level(now)
    message = f"expires {life.ends:%Y-%m-%d %H:%M} UTC"
    if level == "green":
        return Result(category, name, True, message, subject=subject)  # noqa: FBT003 - the result's value
    over = life.ends <= now
    share = max(0, round((life.ends - now) / (life.ends - life.begins) * 100)) if life.ends > life.begins else 0
    message = f"{'expired' if over else 'expires'} {life.ends:%Y-%m-%d %H:%M} UTC, {share} % of its life is left"
    return Result(
        category, name, level == "yellow", message, code.hint, code.code, subject=subject, warning=level == "yellow"
    )
