"""The version of this distribution; both sides tell it to each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: Semantic version; kept equal to ``pyproject.toml`` by a test.
VERSION: Final = "0.1.0.dev0"


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """Major, minor and patch of a version; what follows them (``.dev0``, ``-rc.1``) is not compared."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.major}.{self.minor}.{self.patch}"

    def near(self, other: Release) -> bool:
        """Whether the two work together: of one major version, and at most one minor version apart."""
        return self.major == other.major and abs(self.minor - other.minor) <= 1


def release_of(text: str) -> Release | None:
    """Read a version; None for what is none, such as that of a side that does not say it."""
    found = _RELEASE.match(text)
    return Release(*map(int, found.groups())) if found else None


_RELEASE = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})(?:[.+-][0-9A-Za-z.+-]{1,64})?\Z", re.ASCII)
