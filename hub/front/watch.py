"""The fronts of one hub: their limits from settings and descriptors, and what people see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cellward.errors import Exhausted, define
from cellward.runtime.clock import Clock
from cellward.runtime.health import HealthRegistry
from hub.front.front import Front
from hub.front.limits import API, ENROLMENT, LINK, METRICS, FrontLimits, shared

CONDITION = "connections"
#: Seconds for which dropped connections are shown.
TOLD_SECONDS = 60.0
CONNECTIONS_DROPPED = define(
    "hub/connections-dropped",
    Exhausted,
    "Connections were dropped: a listener was at its limit, or they did not authenticate in time.",
    hint="Find out who connects and says nothing. A fleet behind one address may need higher `connections` settings.",
)
FEW_DESCRIPTORS = define(
    "hub/few-descriptors",
    Exhausted,
    "The limit of open files is too low for the configured connections, so each listener takes fewer.",
    hint="Raise the limit of open files (LimitNOFILE, ulimit -n), or lower the `connections` settings.",
)


def limits_of(settings: Mapping[str, int]) -> dict[str, FrontLimits]:
    """Return the limits of each listener as they are set (``hub.settings.ConnectionSettings``)."""
    return {
        "link": replace(
            LINK,
            connections=settings["link"],
            per_address=settings["link"],
            strangers=settings["link_strangers"],
            strangers_per_address=settings["link_strangers_per_address"],
        ),
        "enrolment": replace(
            ENROLMENT,
            connections=settings["enrolment"],
            per_address=settings["enrolment_per_address"],
            strangers=settings["enrolment"],
            strangers_per_address=settings["enrolment_per_address"],
        ),
        "api": replace(
            API,
            connections=settings["api"],
            per_address=settings["api_per_address"],
            strangers=settings["api_strangers"],
            strangers_per_address=settings["api_strangers_per_address"],
        ),
        "metrics": replace(METRICS, connections=settings["metrics"], strangers=settings["metrics"]),
    }


class Fronts(Collector):
    """Every front by the name of its listener; a condition and metrics."""

    def __init__(self, settings: Mapping[str, int], descriptors: int, clock: Clock, health: HealthRegistry) -> None:
        wanted = limits_of(settings)
        self.limits = shared(wanted, descriptors)
        self._few = self.limits != wanted
        self._descriptors = descriptors
        self._clock = clock
        self._health = health
        self._fronts: dict[str, Callable[[], Front]] = {}
        self._seen: dict[str, int] = {}
        self._last = (-TOLD_SECONDS, "")

    def add(self, name: str, front: Callable[[], Front]) -> None:
        """Watch the front of a listener."""
        self._fronts[name] = front

    def look(self) -> None:
        """Set the condition; called on a timer."""
        now = self._clock.monotonic()
        for name, front in self._fronts.items():
            total = sum(front().lobby.dropped.values())
            fresh, self._seen[name] = total - self._seen.get(name, 0), total
            if fresh:
                self._last = (now, f"{fresh} connections to {name} were dropped")
        if now - self._last[0] < TOLD_SECONDS:
            self._health.set(CONDITION, ok=False, code=CONNECTIONS_DROPPED.code, message=self._last[1])
        elif self._few:
            message = f"of {self._descriptors} files, the link may take {self.limits['link'].connections} connections"
            self._health.set(CONDITION, ok=False, code=FEW_DESCRIPTORS.code, message=message)
        else:
            self._health.set(CONDITION, ok=True)

    def collect(self) -> Iterator[Metric]:
        """Yield connections by listener and state, and dropped ones by reason."""
        held: Any = GaugeMetricFamily(
            "cellward_hub_connections", "Connections by what their peer has proven.", labels=["listener", "state"]
        )
        dropped: Any = CounterMetricFamily(
            "cellward_hub_connections_dropped", "Connections ended by a bound.", labels=["listener", "reason"]
        )
        for name, front in sorted(self._fronts.items()):
            lobby = front().lobby
            for state, count in lobby.counts().items():
                held.add_metric([name, state], count)
            for reason, count in sorted(lobby.dropped.items()):
                dropped.add_metric([name, reason], count)
        yield held
        yield dropped
