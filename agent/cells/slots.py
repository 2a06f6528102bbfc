"""How many cells may do the same kind of thing at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slots:
    """Places for: fetch and verify, release or end, one repair, one repair that failed before and may take its time."""

    fetch: asyncio.Semaphore
    work: asyncio.Semaphore
    repair: asyncio.Semaphore
    again: asyncio.Semaphore

    @classmethod
    def of(cls, number: int) -> Slots:
        """Return slots for so many cells of each kind."""
        return cls(*(asyncio.Semaphore(number) for _ in range(4)))
