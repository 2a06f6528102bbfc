"""The fleet's Prometheus endpoint: one listener of its own, plain HTTP, meant for the inside of a network."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.registry import Collector


def make_metrics_app(registry: CollectorRegistry, *collectors: Collector) -> web.Application:
    """Build the application; it serves ``/metrics`` and nothing else."""
    for collector in collectors:
        registry.register(collector)
    app = web.Application()
    app.router.add_get("/metrics", make_aiohttp_handler(registry=registry))
    return app
