"""What requests may take of this process: turns to be answered, room for bodies, and words before a token is shown.

Invariants: a body is read before its request has a turn, and has a time that grows with what has come; one owner never
has all turns, nor all room for large bodies; some turns are kept for admins and for who asks whether the process lives.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from hub.api.errors import BUSY, TOO_FAST, TOO_LARGE, TOO_SLOW
from hub.authority.limits import Limiter, Rate, address_of

if TYPE_CHECKING:
    from aiohttp import web

    from cellward.runtime.clock import Clock

_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """Bounds of the API.

    Attributes:
        turns: requests answered at a time; ``kept`` of them for admins; ``turns_each`` of one other owner.
        small: bytes of a body that needs no room of its own; ``large``: larger ones at a time, of one owner
            ``large_each``, until their requests end.
        grace: seconds a body may take whatever comes; ``rate``: bytes that win it one more; ``longest``: the most.
        words: requests that a connection may make before it shows a token.
        unproven: the same by address, for what is not a question of health: so many, then so many a second.
    """

    turns: int = 128
    kept: int = 32
    turns_each: int = 16
    small: int = 256 * 1024
    large: int = 8
    large_each: int = 2
    grace: float = 10.0
    rate: float = 64 * 1024.0
    longest: float = 300.0
    words: int = 16
    unproven: tuple[float, float] = (60, 5)


DEFAULTS = RoomLimits()


class Turns:
    """Who is being answered."""

    def __init__(self, limits: RoomLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._all = 0

    @contextmanager
    def take(self, owner: str, *, kept: bool) -> Iterator[None]:
        """Have a turn; raises api/busy. ``kept`` owners have those that others leave."""
        limits = self._limits
        if not kept and self._taken[owner] >= limits.turns_each:
            raise BUSY(f"{limits.turns_each} requests of {owner} are being answered")
        if self._all >= limits.turns - (0 if kept else limits.kept):
            raise BUSY("as many requests are being answered as may be")
        self._all += 1
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._all -= 1
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]


class Bodies:
    """Reads bodies."""

    def __init__(self, limits: RoomLimits) -> None:
        self._limits = limits
        self._large = asyncio.Semaphore(limits.large)
        self._large_each: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._deadlines: set[asyncio.Timeout] = set()
        self._stopping = False

    async def read(
        self,
        request: web.Request,
        limit: int,
        owner: str,
        *,
        kept: bool,
        count: Callable[[int], None],
        room: AsyncExitStack,
    ) -> bytes:
        """Read a body whole; ``count`` hears of its bytes, ``room`` gives back what a large one takes.

        Raises:
            CellwardError: api/too-large before it was read whole, api/too-slow, api/busy while the hub stops, or what
                ``count`` raises.
        """
        if request.content_length is not None and request.content_length > limit:
            raise TOO_LARGE(f"the body has {request.content_length} bytes; at most {limit} are accepted")
        data, large = bytearray(), False
        async for piece in self._pieces(request):
            data += piece
            if len(data) > limit:
                raise TOO_LARGE(f"the body has more than {limit} bytes")
            count(len(piece))
            if len(data) > self._limits.small and not large:
                large = True
                # Nothing of it is read meanwhile, and whoever sends it is not late by that.
                await room.enter_async_context(self._room(owner, kept=kept))
        return bytes(data)

    def stop(self) -> None:
        """End every body that is being read, and take no more."""
        self._stopping = True
        for deadline in self._deadlines:
            deadline.reschedule(0.0)

    async def _pieces(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield what comes, while it comes in time; the time is ours alone, not that of whoever takes the pieces."""
        loop, limits = asyncio.get_running_loop(), self._limits
        left, longest = limits.grace, limits.longest
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(0.0 if self._stopping else min(left, longest)) as deadline:
                    self._deadlines.add(deadline)
                    try:
                        piece = await request.content.read(_PIECE)
                    finally:
                        self._deadlines.discard(deadline)
            except TimeoutError:
                if self._stopping:
                    raise BUSY("the hub is stopping") from None
                raise TOO_SLOW(f"the body comes with less than {limits.rate:g} bytes a second") from None
            took = loop.time() - began
            left, longest = left - took + len(piece) / limits.rate, longest - took
            if not piece:
                return
            yield piece

    @asynccontextmanager
    async def _room(self, owner: str, *, kept: bool) -> AsyncIterator[None]:
        each = self._large_each.get(owner)
        if each is None:
            each = self._large_each[owner] = asyncio.Semaphore(self._limits.large_each)
        # An admin waits for its own alone.
        async with each, nullcontext() if kept else self._large:
            yield


class Words:
    """What a connection, and an address, may ask before it shows a token."""

    def __init__(self, limits: RoomLimits, clock: Clock) -> None:
        self._limits = limits
        self._rate = Limiter(Rate(*limits.unproven), clock)
        self._said: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()

    def last(self, request: web.Request) -> bool:
        """Count a request without a token; True when it is the last one of its connection."""
        if request.transport is None:
            return True
        said = self._said[request.transport] = self._said.get(request.transport, 0) + 1
        return said >= self._limits.words

    def costly(self, peer: str) -> None:
        """Count what costs more than a few bytes; raises api/too-fast."""
        if not self._rate.take(address_of(peer)):
            raise TOO_FAST("more was asked from there without a token than is answered")
