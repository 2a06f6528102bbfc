"""What wakes the streams of this process; ``hub.store.changes`` brings it about."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Subscription(Protocol):
    """A subscriber's view of changes; what happens between two waits is one change, so it never grows."""

    async def wait(self) -> frozenset[str]:
        """Topics that changed since the last wait; waits until there is one."""
        ...


class ChangesPort(Protocol):
    """Wakes streams when something they send has changed.

    Topics: ``desired:<cluster>``, ``link:<cluster>``, ``policy``, ``clusters``.
    """

    def subscribe(self, *topics: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to topics until the context ends."""
        ...

    def stamp(self, *topics: str) -> tuple[int, ...]:
        """Return a value that differs once any of the topics has changed."""
        ...
