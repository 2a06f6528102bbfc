"""What the hub's rooms may ask about join tokens and bearer tokens.

See ``hub.store.interfaces`` for what holds for all of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What a spent join token grants: one certificate for one cluster name."""

    cluster: str


class TokenStore(Protocol):
    """Join tokens at rest: hashes only (V6)."""

    async def put(self, token_hash: str, cluster: str, expires_at: datetime) -> None:
        """Keep a new token; drops tokens that expired a day before. Raises store/immutable for a known hash."""
        ...

    async def revoke(self, cluster: str) -> int:
        """Forget every token of a cluster and return how many there were."""
        ...

    async def live(self, token_hashes: Sequence[str], now: datetime) -> frozenset[str]:
        """Return those of these hashes whose token has not expired, spent or not."""
        ...

    async def spend(self, token_hash: str, spki_sha256: str, now: datetime) -> TokenGrant:
        """Spend it for one key: exactly one key wins among parallel tries, and it may ask again until expiry.

        Raises store/unknown-token, store/token-expired, store/token-spent.
        """
        ...


@dataclass(frozen=True, slots=True)
class ApiTokenRow:
    """Who a bearer token stands for, and for which projects and environments; only its hash is kept.

    A subject has one token. ``("*",)`` is every project or environment.
    """

    token_hash: str
    subject: str
    role: str
    expires_at: datetime | None = None
    created_at: datetime | None = None
    created_by: str = ""
    projects: tuple[str, ...] = ("*",)
    environments: tuple[str, ...] = ("*",)


class ApiTokenStore(Protocol):
    """Bearer tokens of the admin API."""

    async def add(self, token: ApiTokenRow) -> None:
        """Keep the token of a new subject; raises store/subject-has-token, and then nothing changed."""
        ...

    async def put_only(self, token_hash: str, subject: str, role: str) -> None:
        """Keep a token that does not expire, and drop every other one of its subject, in one transaction."""
        ...

    async def get(self, token_hash: str) -> ApiTokenRow | None:
        """Return a token, expired or not."""
        ...

    async def list(self) -> tuple[ApiTokenRow, ...]:
        """Return all tokens by subject, expired or not."""
        ...

    async def remove(self, subject: str) -> ApiTokenRow | None:
        """Forget a subject's token and return it; None when there is none."""
        ...
