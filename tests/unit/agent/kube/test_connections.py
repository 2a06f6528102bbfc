"""How many connections to the API server an agent has."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from agent.kube.client import KubeClient
from agent.kube.interfaces import ObjectRef, WatchEvent, WatchType
from agent.kube.kinds import KINDS
from tests.fakes.pki import Pki
from tools.stack.credentials import write_kubeconfig


class _Slow:
    """A server that knows no kind, and takes its time to say so."""

    def __init__(self) -> None:
        self.open, self.most = 0, 0
        self.some = asyncio.Event()
        self.answer = asyncio.Event()

    async def watched(self, request: web.Request) -> web.Response:
        """Answer a GET at once, and a watch when it may."""
        if "watch" not in request.query:
            return web.json_response({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        self.open += 1
        self.most = max(self.most, self.open)
        self.some.set()
        await self.answer.wait()
        self.open -= 1
        return web.json_response({"message": "not here"}, status=404)


@asynccontextmanager
async def _client(slow: _Slow, directory: Path) -> AsyncIterator[KubeClient]:
    pki = Pki.make(directory / "pki", shape="plain")
    application = web.Application()
    application.router.add_get("/{path:.*}", slow.watched)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.key)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        client = await KubeClient.connect(write_kubeconfig(directory / "config", url, pki.ca, pair=None, token="t"))
        try:
            yield client
        finally:
            await client.close()
    finally:
        await runner.cleanup()


async def _interrupted(events: AsyncIterator[WatchEvent]) -> None:
    async for event in events:
        if event.type is WatchType.INTERRUPTED:
            return


async def test_kinds_that_are_not_there_are_asked_for_a_few_at_a_time(tmp_path: Path) -> None:
    """Most kinds that are watched for are on no one cluster; other calls do not wait for them."""
    slow = _Slow()
    async with _client(slow, tmp_path) as client:
        kinds = [info for info in KINDS.values() if not info.namespaced][:12]
        watches = [asyncio.create_task(_interrupted(client.watch(info.api_version, info.kind))) for info in kinds]
        await slow.some.wait()
        for _ in range(3):
            # Each is a round trip after the watches were begun, and none waits for a watch.
            await client.get(ObjectRef("v1", "Namespace", "", "default"))
        assert 1 <= slow.most <= 4 < len(kinds)
        slow.answer.set()
        await asyncio.gather(*watches)
