"""What the policy room needs from others: a source of bytes, which it verifies, and another place for floors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class FetchedSet:
    """Metadata by role and version, every root above one asked about among them, and the contents of small targets."""

    metadata: Mapping[tuple[str, int], bytes]
    targets: tuple[bytes, ...]


class ContentSource(Protocol):
    """Fetches opaque bytes from the hub; implemented by ``agent/link``. Nothing it returns is trusted."""

    async def fetch_digest(self, digest: str, limit: int) -> bytes | None:
        """Return the content of a digest ("sha256:" and hex), at most ``limit`` bytes, or None when absent.

        Raises an ``Unavailable`` error when the source cannot be reached.
        """
        ...

    async def fetch_tuf(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return TUF metadata of a role, the newest when ``version`` is None, or None when absent."""
        ...

    async def fetch_set(self, root_version: int, snapshot_version: int, limit: int) -> FetchedSet | None:
        """Return what somebody with these versions lacks of the newest set, or None when it must be fetched singly."""
        ...


class TimeKeeper(Protocol):
    """The floor of the agent's clock; ``agent/spool`` has it."""

    @property
    def latest(self) -> datetime | None:
        """The floor, None before it was read."""
        ...

    @property
    def doubted(self) -> bool:
        """Whether the clock is further ahead than the floor may follow."""
        ...

    async def advance(self, now: datetime) -> datetime:
        """Move it towards ``now``; return the time to decide by. Raises ``document/clock-stepped-back``."""
        ...


class FloorKeeper(Protocol):
    """Keeps a copy of the floors outside the policy directory (V1); ``agent/spool`` has one."""

    async def get(self) -> Any:
        """Return what was set last, None before the first time."""
        ...

    async def set(self, value: Mapping[str, object]) -> None:
        """Replace it; durable when it returns."""
        ...
