"""What the policy room needs from others: a source of bytes, which it verifies, and another place for floors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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


class FloorKeeper(Protocol):
    """Keeps a copy of the floors outside the policy directory (V1); ``agent/spool`` has one."""

    async def get(self) -> Any:
        """Return what was set last, None before the first time."""
        ...

    async def set(self, value: Mapping[str, object]) -> None:
        """Replace it; durable when it returns."""
        ...
