"""How many connections each listener takes, and how the process's descriptors are shared between them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

#: Descriptors nobody's connections may take: database, log, keys, children.
RESERVED = 256
#: Share of the others for each listener when there are not enough for all that is set; the link is what must not fail.
SHARES: Mapping[str, float] = {"link": 0.70, "enrolment": 0.10, "api": 0.15, "metrics": 0.05}
#: Descriptors of one connection: with gRPC behind, both ends of the way through are ours.
COST: Mapping[str, int] = {"link": 3, "enrolment": 3, "api": 1, "metrics": 1}


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """Bounds of one listener.

    Attributes:
        connections: in all; ``per_address`` of one address (an IPv6 /64), proven or not.
        strangers: connections of peers that have proven nothing yet, in all; ``strangers_per_address`` of one address.
        silence: seconds until the first byte.
        opening: seconds from the first byte until the peer has proven who it is.
        per_owner: known connections of one owner: a cluster, a token.
        kept: places, in all and of one address, that known connections leave to newcomers and to admins.
    """

    connections: int
    per_address: int
    strangers: int
    strangers_per_address: int
    silence: float = 5.0
    opening: float = 10.0
    per_owner: int = 64
    kept: int = 0

    def spare(self, most: int) -> int:
        """Places of ``most`` that are kept; never a large part of a small number."""
        return min(self.kept, max(1, most // 8)) if self.kept else 0


#: A fleet may come through one address, and after a restart of the hub all of it at once.
#: With these all listeners together take less than 20,000 descriptors, a common hard limit.
#: An agent has one connection, and for a while those that broke without an end; hence its few.
LINK = FrontLimits(4_096, 4_096, 2_048, 1_536, opening=20.0, per_owner=8, kept=16)
#: Nobody proves anything on the connection itself here: a join is one call, made at once.
ENROLMENT = FrontLimits(2_048, 1_536, 2_048, 1_536, opening=35.0)
API = FrontLimits(1_024, 512, 256, 128, kept=64)
METRICS = FrontLimits(128, 64, 128, 64, opening=30.0)


def shared(limits: Mapping[str, FrontLimits], descriptors: int) -> dict[str, FrontLimits]:
    """Return the limits cut to what the process may open; at least a few connections each."""
    wanted = sum(COST[name] * limit.connections for name, limit in limits.items())
    free = max(0, descriptors - RESERVED)
    if wanted <= free:
        return dict(limits)
    return {name: _cut(limit, int(free * SHARES[name]) // COST[name]) for name, limit in limits.items()}


def _cut(limit: FrontLimits, connections: int) -> FrontLimits:
    most = max(4, min(limit.connections, connections))
    # Strangers get at most half where others have proven themselves: those are never displaced by them.
    strangers = min(limit.strangers, most if limit.strangers == limit.connections else max(2, most // 2))
    return replace(
        limit,
        connections=most,
        per_address=min(limit.per_address, most),
        strangers=strangers,
        strangers_per_address=min(limit.strangers_per_address, strangers),
    )
