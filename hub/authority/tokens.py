"""Join tokens (V6): at most 30 minutes, bound to one cluster name, hashed at rest, spent by one public key.

A token is ``cwj_<64 hex>``, or ``cwj_replace_<64 hex>`` when it may bind a new installation to a name that has one.
The kind is part of what is hashed, so nobody can turn one into the other.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cellward.identity.names import check_name
from cellward.runtime.clock import Clock
from hub.authority.errors import BAD_TOKEN, LIFETIME
from hub.authority.interfaces import Tokens
from hub.store.shared import Together

#: Longest life of a token.
MAX_LIFETIME = timedelta(minutes=30)
#: Longest token text taken, in bytes.
MAX_TOKEN = 256
_TOKEN = re.compile(r"cwj_(?P<replace>replace_)?[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a spent token grants: a certificate for ``cluster``; ``replace`` lets a new installation take the name."""

    cluster: str
    replace: bool


class JoinTokens:
    """Makes and spends tokens."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        # However many ask, one read answers all that wait.
        self._live: Together[str, frozenset[str]] = Together(self._read_live, "join-tokens")

    async def mint(
        self,
        cluster: str,
        *,
        lifetime: timedelta = MAX_LIFETIME,
        replace: bool = False,
        tokens: Tokens | None = None,
    ) -> str:
        """New token for a cluster name; the text is shown once and only its hash is kept, in ``tokens`` where given.

        Raises authority/token-lifetime, identity/bad-name, and what the store raises.
        """
        if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise LIFETIME(f"a life of {lifetime.total_seconds():.0f} seconds was asked for")
        check_name(cluster)
        token = f"cwj_{'replace_' if replace else ''}{secrets.token_hex(32)}"
        await (tokens or self._tokens).put(hash_token(token), cluster, self._clock.now() + lifetime)
        return token

    async def is_live(self, token: str) -> bool:
        """Whether a token was made here and has not expired, spent or not; nothing malformed is looked for."""
        if len(token) > MAX_TOKEN or not _TOKEN.match(token):
            return False
        hashed = hash_token(token)
        return hashed in await self._live.join(hashed)

    async def _read_live(self, hashes: Sequence[str]) -> frozenset[str]:
        return await self._tokens.live(hashes, self._clock.now())

    async def spend(self, token: str, spki_sha256: str, *, tokens: Tokens | None = None) -> Grant:
        """Spend a token by one key; the same key may spend it again until it expires.

        Raises authority/bad-token for a malformed one, and what the store raises for the others.
        """
        match = check_token(token)
        grant = await (tokens or self._tokens).spend(hash_token(token), spki_sha256, self._clock.now())
        return Grant(grant.cluster, match["replace"] is not None)


def check_token(token: str) -> re.Match[str]:
    """Match a well-formed token; raises authority/bad-token without repeating what was given."""
    match = _TOKEN.match(token) if len(token) <= MAX_TOKEN else None
    if match is None:
        raise BAD_TOKEN("what was given is not a join token")
    return match


def hash_token(token: str) -> str:
    """What is kept of a token: 64 hex digits of SHA-256; 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
