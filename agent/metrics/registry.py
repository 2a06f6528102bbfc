"""One registry of the agent, made from the list in ``cellward.telemetry.metrics``; nothing else can be registered."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cellward.telemetry.metrics import AGENT_METRICS, Metric


class AgentMetrics:
    """Counters, gauges and histograms of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in AGENT_METRICS:
            self._register(metric)

    def increment(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        counter = self._counters[metric.name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def total(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Raise a counter to what a part counted since the start; a smaller value leaves it as it is."""
        counter = self._counters[metric.name]
        child = counter.labels(**labels) if labels else counter
        child.inc(max(0.0, value - child._value.get()))  # noqa: SLF001 - the library offers no way to read it back

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[metric.name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, metric: Metric, value: float, /) -> None:
        """Add an observation to a histogram."""
        self._histograms[metric.name].observe(value)

    def replace(self, metric: Metric, values: Mapping[tuple[str, ...], float], /) -> None:
        """Set every child of a gauge at once; label values not named are gone (a removed cell leaves no series)."""
        gauge = self._gauges[metric.name]
        gauge.clear()
        for labels, value in values.items():
            gauge.labels(*labels).set(value)

    def _register(self, metric: Metric) -> None:
        if metric.type == "counter":
            self._counters[metric.name] = Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        elif metric.type == "gauge":
            self._gauges[metric.name] = Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
        else:
            self._histograms[metric.name] = Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
