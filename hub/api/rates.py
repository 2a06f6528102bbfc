"""What one token may do per second, and how many of its refusals are recorded one by one.

An admin acts on the whole installation and sets it up in one go, so only the other roles are held to a rate. Records of
refusals are bounded for everybody: a token that is refused again and again must not fill the log. Memory is bounded:
the token seen longest ago is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict

from cellward.runtime.clock import Clock
from hub.api.auth import Principal
from hub.api.errors import TOO_FAST
from hub.authority.limits import Limiter, Rate

#: Mutations of one token, and documents it uploads: so many at once, then so many a second.
MUTATIONS = Rate(300, 5)
DOCUMENTS = Rate(2_000, 20)
#: Bytes of bodies of one token, for what they cost here goes by their size; never less than two bodies at once.
BYTES = Rate(64 * 1024**2, 512 * 1024)
#: Refusals of one token with one action and code, and of one token in all, that are recorded one by one.
REFUSALS_EACH = Rate(5, 1 / 600)
REFUSALS = Rate(200, 1)
#: Most kinds of refusals whose number is remembered.
_MAX_KINDS = 4096


class TokenRates:
    """Counts per token; one per process."""

    def __init__(self, clock: Clock, largest: int = 32 * 1024**2) -> None:
        """Count; ``largest`` is the largest body there may be, bytes."""
        self._bytes = Limiter(Rate(max(BYTES.burst, 2 * largest), BYTES.per_second), clock)
        self._mutations = Limiter(MUTATIONS, clock)
        self._documents = Limiter(DOCUMENTS, clock)
        self._each = Limiter(REFUSALS_EACH, clock)
        self._all = Limiter(REFUSALS, clock)
        self._suppressed: OrderedDict[str, int] = OrderedDict()

    def mutation(self, principal: Principal) -> None:
        """Count a mutation; raises api/too-fast."""
        if principal.role != "admin" and not self._mutations.take(principal.subject):
            raise TOO_FAST(f"{principal.subject} sends more than {MUTATIONS.per_second:g} changes a second")

    def documents(self, principal: Principal, count: int) -> None:
        """Count documents of an upload; raises api/too-fast."""
        if principal.role != "admin" and not self._documents.take(principal.subject, count):
            raise TOO_FAST(f"{principal.subject} uploads more than {DOCUMENTS.per_second:g} documents a second")

    def bytes(self, principal: Principal, count: int) -> None:
        """Count bytes of bodies; raises api/too-fast."""
        if principal.role != "admin" and not self._bytes.take(principal.subject, count):
            raise TOO_FAST(f"{principal.subject} sends more than {BYTES.per_second:g} bytes a second")

    def refused(self, principal: Principal, action: str, code: str) -> int | None:
        """Count a refusal; return how many of its kind had no record since the last one, None for no record now."""
        kind = f"{principal.subject} {action} {code}"
        if self._each.allowed(kind) and self._all.take(principal.subject):
            self._each.take(kind)
            return self._suppressed.pop(kind, 0)
        self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
        self._suppressed.move_to_end(kind)
        while len(self._suppressed) > _MAX_KINDS:
            self._suppressed.popitem(last=False)
        return None
