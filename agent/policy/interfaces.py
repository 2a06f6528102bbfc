"""What the policy room needs from others: a source of bytes, which it verifies itself."""

from __future__ import annotations

from typing import Protocol


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
