"""The local metrics page, for a scraper beside the agent; off by default, loopback only (V1)."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from cellward.runtime.settings import split_address


class MetricsPage:
    """Root task that serves ``/metrics`` until cancelled.

    Args:
        registry: what to show.
        listen: host:port on loopback, checked by the settings.
    """

    def __init__(self, registry: CollectorRegistry, listen: str) -> None:
        self._registry = registry
        self._host, self._port = split_address(listen)
        #: The real port once it listens, for port 0.
        self.port: int | None = None
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        app = web.Application()
        app.router.add_get("/metrics", make_aiohttp_handler(self._registry))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self.port = runner.addresses[0][1]
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
