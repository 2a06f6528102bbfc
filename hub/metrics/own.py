"""What the hub measures about itself, in a registry of its own; nothing global."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

#: Upper bounds of API latency buckets, seconds.
_LATENCY = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)


@dataclass(frozen=True, slots=True)
class Facts:
    """Numbers that are read when Prometheus asks. ``certificates`` maps name to expiry, seconds since the epoch."""

    connected_agents: int
    clusters: int
    desired_items: int
    audit_size: int
    certificates: dict[str, float]


class HubMetrics:
    """The hub's own series; whoever does the work counts it here."""

    def __init__(self, registry: CollectorRegistry, *, version: str) -> None:
        build = Gauge("cellward_hub_build_info", "Version of the hub; always 1.", ["version"], registry=registry)
        build.labels(version).set(1)
        self.rpcs = Counter(
            "cellward_hub_rpcs", "RPCs of agents by method and status.", ["method", "code"], registry=registry
        )
        self.requests = Counter(
            "cellward_hub_api_requests", "Requests of the admin API.", ["method", "route", "status"], registry=registry
        )
        self.latency = Histogram(
            "cellward_hub_api_request_seconds", "Duration of requests.", ["route"], buckets=_LATENCY, registry=registry
        )

        self.unrecorded = Counter(
            "cellward_hub_api_unrecorded_refusals",
            "Refused mutations that were counted and not recorded one by one.",
            ["code"],
            registry=registry,
        )

    def observe_unrecorded(self, code: str) -> None:
        """Count a refusal that has no record of its own."""
        self.unrecorded.labels(code).inc()

    def observe_rpc(self, method: str, code: str) -> None:
        """Count one RPC that ended."""
        self.rpcs.labels(method, code).inc()

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is the pattern, never the path, so that labels stay bounded."""
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(route).observe(seconds)


class FactsCollector(Collector):
    """Serves facts that are refreshed by a root task, so that a scrape never waits for the store."""

    def __init__(self, read: Callable[[], Facts | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the facts; nothing before the first refresh."""
        facts = self._read()
        if facts is None:
            return
        yield GaugeMetricFamily("cellward_hub_connected_agents", "Agents with an open link.", facts.connected_agents)
        yield GaugeMetricFamily("cellward_hub_clusters", "Clusters known.", facts.clusters)
        yield GaugeMetricFamily("cellward_hub_desired_items", "Desired items of all clusters.", facts.desired_items)
        yield GaugeMetricFamily("cellward_hub_audit_records", "Records in the audit log.", facts.audit_size)
        expiry = GaugeMetricFamily(
            "cellward_hub_certificate_expiry_timestamp_seconds",
            "When a certificate of the hub expires.",
            labels=["name"],
        )
        for name, at in sorted(facts.certificates.items()):
            expiry.add_metric([name], at)
        yield expiry
