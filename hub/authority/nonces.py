"""Nonces for recovery that cost no memory: made and recognised by a secret of this process.

Nobody has proved anything when a nonce is asked for, so nothing may be kept of it. A nonce holds for one uid and one
request, for a minute; used twice it gives the same certificate for the same new key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from cellward.identity.recovery import NONCE_BYTES
from cellward.runtime.clock import Clock

#: Seconds a nonce holds.
LIFE: Final = 60
_STAMP, _RANDOM = 8, 8


class Nonces:
    """Makes and recognises nonces."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def make(self, uid: str, csr_der: bytes) -> bytes:
        """Nonce for one request."""
        head = int(self._clock.now().timestamp()).to_bytes(_STAMP, "big") + secrets.token_bytes(_RANDOM)
        return head + self._seal(head, uid, csr_der)

    def holds(self, nonce: bytes, uid: str, csr_der: bytes) -> bool:
        """Whether this process made the nonce for this request, not longer ago than it lives."""
        if len(nonce) != NONCE_BYTES:
            return False
        head, seal = nonce[: _STAMP + _RANDOM], nonce[_STAMP + _RANDOM :]
        if not hmac.compare_digest(seal, self._seal(head, uid, csr_der)):
            return False
        age = self._clock.now().timestamp() - int.from_bytes(head[:_STAMP], "big")
        return -1 <= age <= LIFE

    def _seal(self, head: bytes, uid: str, csr_der: bytes) -> bytes:
        message = head + hashlib.sha256(uid.encode()).digest() + hashlib.sha256(csr_der).digest()
        return hmac.digest(self._secret, message, "sha256")
