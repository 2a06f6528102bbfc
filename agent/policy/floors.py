"""The policy's floors, and their copy outside of the state directory (V1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent.policy.interfaces import FloorKeeper


class CopiedFloors:
    """The policy's floors in the state, and at once in the copy outside of it; satisfies ``FloorKeeper``."""

    def __init__(self, kept: FloorKeeper, copy: Callable[[], Awaitable[None]]) -> None:
        self._kept = kept
        self._copy = copy

    async def get(self) -> Any:
        """Return what was set last, or what the copy held at the start where that is higher."""
        return await self._kept.get()

    async def set(self, value: Mapping[str, object]) -> None:
        """Replace it here, then in the copy; what cannot be copied now is copied later, by the anchor's task."""
        await self._kept.set(value)
        await self._copy()
