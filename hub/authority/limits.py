"""Bounds on what nobody has authenticated yet: attempts and failures per peer address.

Success is cheap and wanted (a fleet joins through one NAT); failures are what an attacker has to spend. Memory is
bounded: the address seen longest ago is forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import unquote

from cellward.runtime.clock import Clock
from hub.authority.errors import TOO_MANY_ATTEMPTS

#: Most keys remembered by one limiter.
MAX_KEYS = 8192


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_second`` for ever."""

    burst: float
    per_second: float


class Limiter:
    """Token buckets by key."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allowed(self, key: str) -> bool:
        """True when there is something left for this key; takes nothing."""
        return self._level(key) >= 1.0

    def take(self, key: str, count: int = 1) -> bool:
        """Take so many, all or none; False when there are not so many left."""
        level = self._level(key)
        left = level >= count
        self._set(key, level - count if left else level)
        return left

    def spend(self, key: str, count: int) -> None:
        """Take so many even when there are fewer; what is owed comes first (``wait``)."""
        self._set(key, self._level(key) - count)

    def wait(self, key: str) -> float:
        """Seconds until there is something left for this key; 0.0 when there is."""
        return max(0.0, (1.0 - self._level(key)) / self._rate.per_second)

    def _set(self, key: str, level: float) -> None:
        self._buckets[key] = (level, self._clock.monotonic())
        self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)

    def _level(self, key: str) -> float:
        now = self._clock.monotonic()
        level, at = self._buckets.get(key, (self._rate.burst, now))
        return min(self._rate.burst, level + (now - at) * self._rate.per_second)


class JoinLimits:
    """What one address may try at the enrolment port."""

    def __init__(
        self,
        clock: Clock,
        *,
        attempts: Rate = Rate(2000, 50),
        failures: Rate = Rate(10, 0.2),
        records: Rate = Rate(50, 1),
        holders: Rate = Rate(20, 0.2),
    ) -> None:
        self._attempts = Limiter(attempts, clock)
        self._failures = Limiter(failures, clock)
        self._records = Limiter(records, clock)
        self._holders = Limiter(holders, clock)
        self._suppressed = 0

    def admits(self, address: str) -> bool:
        """Whether an attempt is let in before anything is computed for it."""
        return self._failures.allowed(address) and self._attempts.take(address)

    def hold(self, address: str, holder: str) -> None:
        """Let in whoever shows what only an agent of this hub has, from an address that others have used up.

        Strangers behind the same address (NAT, a load balancer) keep no agent out; ``holder`` is what was shown, and
        has a bound of its own. Raises authority/too-many-attempts; also for an empty one: nothing was shown.
        """
        if not holder or not self._holders.take(holder):
            raise TOO_MANY_ATTEMPTS(f"there were too many attempts from {address}")

    def failed(self, address: str) -> int | None:
        """Count a failure. Returns how many failures went unrecorded before when this one may be recorded, else None.

        Without this bound a stranger could fill the audit log.
        """
        self._failures.take(address)
        if not self._records.take(""):
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


def address_of(peer: str) -> str:
    """Address a limit counts for, from gRPC's peer text: an IPv4 address, an IPv6 /64, or the transport's name."""
    kind, _, rest = peer_of(peer).partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    if kind == "ipv6":
        host = rest.rpartition("]")[0].lstrip("[").partition("%")[0]
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            return "ipv6"
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return kind[:16]


def peer_of(peer: str) -> str:
    """Peer text of whoever is behind our own end of a Unix socket (``hub.front``); any other text as it is."""
    text = unquote(peer)
    if text.startswith("unix-abstract:cellward/"):
        return text.split("/", 2)[2]
    return text
