"""What the hub spent for each agent, as a multiple of the floor measured in the same run; rows with their bars.

What a round costs is counted to the end of the wave it makes (statuses, audit), less what the same time costs idle.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.numbers import Row

#: Bars: the hub's CPU as a multiple of the floor's.
RELEASE, POLICY, JOIN, IDLE = 5.0, 8.0, 10.0, 2.0
#: Bars of memory: KB for each agent, and MB before the first one.
AGENT_KB, BASE_MB = 105.0, 95.0


@dataclass
class Costs:
    """CPU seconds for each agent, hub and floor; ``idle`` is CPU seconds for each second, of all agents.

    Attributes:
        agents: how many.
        handshake: mutual handshake of one connection to the floor, with its stream and two messages.
        rounds: item, receipt and acknowledgement on the floor, one value each round.
    """

    agents: int
    handshake: float = 0.0
    rounds: list[float] = field(default_factory=list)
    join: float = 0.0
    releases: list[float] = field(default_factory=list)
    policies: list[float] = field(default_factory=list)
    idle: float = 0.0
    idle_floor: float = 0.0
    idle_empty: float = 0.0
    base: float = 0.0
    rss: float = 0.0
    floor_base: float = 0.0
    floor_rss: float = 0.0

    def rows(self) -> list[Row]:
        """All of it as rows."""
        floor = _median(self.rounds)
        found = [
            Row("floor_round", "floor: item, receipt, ack, each agent", floor * 1000, "ms"),
            Row("floor_join", "floor: handshake and stream, each agent", self.handshake * 1000, "ms"),
            Row("floor_idle", "floor: CPU while idle, of one core", self.idle_floor * 100, "%"),
            Row("floor_kb", "floor: RSS for each agent", self._kb(self.floor_rss - self.floor_base), "KB"),
        ]
        for key, text, cost, of, bar in (
            ("release", "release, hub CPU by floor", _median(self.releases), floor, RELEASE),
            ("policy", "policy set, hub CPU by floor", _median(self.policies), floor, POLICY),
            ("join", "join with its link, hub CPU by floor's handshake", self.join, self.handshake, JOIN),
        ):
            note = f"{cost * 1000:.2f} ms an agent"
            found.append(Row(f"ratio_{key}", text, _by(cost, of), "x", bar, note=note))
        found.append(Row("idle_empty", "hub CPU without any agent, of one core", self.idle_empty * 100, "%"))
        note = f"{self.idle * 100:.2f} % of a core"
        found.append(Row("ratio_idle", "idle, hub CPU by floor", _by(self.idle, self.idle_floor), "x", IDLE, note=note))
        found.append(Row("agent_kb", "hub RSS for each agent", self._kb(self.rss - self.base), "KB", AGENT_KB))
        found.append(Row("base_mb", "hub RSS before the first agent", self.base, "MB", BASE_MB))
        return found

    def _kb(self, megabytes: float) -> float:
        return megabytes * 1000 / self.agents


def _median(values: Sequence[float]) -> float:
    # One that is missing makes the number missing: a median would put it anywhere.
    return statistics.median(values) if values and not any(map(math.isnan, values)) else math.nan


def _by(cost: float, floor: float) -> float:
    return cost / floor if floor > 0 else math.nan


def agent_rows(agents: int, phases: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Return what the agents' own code spent for each agent in a phase (``load_cpu`` of all of them)."""
    texts = {
        "join": "agent's own CPU: join and open the link",
        "policy_1": "agent's own CPU: accept a policy set",
        "fan_out_1": "agent's own CPU: verify a release and answer",
    }
    rows = [
        Row(f"own_{phase}", text, phases[phase]["load_cpu"] * 1000 / agents, "ms")
        for phase, text in texts.items()
        if phase in phases
    ]
    if "idle" in phases:
        idle = phases["idle"]["load_cpu"] / phases["idle"]["seconds"] / agents
        rows.append(Row("own_idle", "agent's own CPU while idle, of one core", idle * 100, "%"))
    return rows
