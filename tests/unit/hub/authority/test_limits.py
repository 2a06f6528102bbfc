"""Bounds on strangers: rates refill, memory ends, addresses are what they are."""

from __future__ import annotations

import pytest

from hub.authority import limits
from hub.authority.limits import Limiter, Rate, address_of
from tests.fakes.clock import ManualClock


def test_a_bucket_empties_and_refills() -> None:
    """A burst at once, then as time passes, never more than the burst."""
    clock = ManualClock()
    limiter = Limiter(Rate(2, 0.5), clock)
    assert [limiter.take("a") for _ in range(3)] == [True, True, False]
    assert limiter.take("b")
    clock.advance(2)
    assert [limiter.take("a") for _ in range(2)] == [True, False]
    clock.advance(1000)
    assert [limiter.take("a") for _ in range(3)] == [True, True, False]


def test_v16_memory_is_bounded() -> None:
    """A flood of addresses cannot fill the hub's memory."""
    limiter = Limiter(Rate(1, 0.1), ManualClock())
    for number in range(limits.MAX_KEYS + 100):
        limiter.take(str(number))
    assert len(limiter._buckets) == limits.MAX_KEYS


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:4711", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("ipv6:nonsense", "ipv6"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one(peer: str, address: str) -> None:
    """Whoever has a /64 has 2^64 addresses and one budget."""
    assert address_of(peer) == address
