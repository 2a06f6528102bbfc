"""What the kubelet is told: alive, started, fit to decide; and never more than names (V1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent.policy.engine import CONDITION as ENGINE
from agent.vitals import API_SERVER, CANNOT_LISTEN, HUB_LINK, POLICY, Vitals, VitalsPage, ask
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry


@asynccontextmanager
async def served(vitals: Vitals) -> AsyncIterator[VitalsPage]:
    """A page on loopback until the context ends."""
    page = VitalsPage(vitals, "127.0.0.1:0")
    running = asyncio.create_task(page.run())
    await page.listening.wait()
    try:
        yield page
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def sent(page: VitalsPage, request: bytes) -> bytes:
    """The answer to raw bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def get(page: VitalsPage, path: str) -> tuple[int, dict[str, object]]:
    """Status and body."""
    head, _, body = (await sent(page, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_v1_an_agent_is_ready_when_it_can_decide_whatever_its_hub_does() -> None:
    """Alive from the first moment, started with its state, ready with policy, engine and API server in force."""
    vitals, health, policy = Vitals(), HealthRegistry(), [False]
    async with served(vitals) as page:
        assert [(await get(page, path))[0] for path in ("/livez", "/startupz", "/readyz")] == [200, 503, 503]
        vitals.opened(health)
        vitals.composed(lambda: policy[0])
        assert [(await get(page, path))[0] for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 503]
        assert (await get(page, "/readyz"))[1]["missing"] == [POLICY, API_SERVER, ENGINE]
        policy[0] = True
        health.set(ENGINE, ok=True)
        health.set(API_SERVER, ok=True)
        health.set(HUB_LINK, ok=False, code="link/hub-unavailable", message="10.1.2.3 is away")
        assert await get(page, "/readyz") == (200, {"ok": True, "missing": [], "hubConnected": False})
        for name in (ENGINE, API_SERVER):
            health.set(name, ok=False, code="a/b", message="a secret place")
            assert await get(page, "/readyz") == (503, {"ok": False, "missing": [name], "hubConnected": False})
            health.set(name, ok=True)
        vitals.closed()
        assert [(await get(page, path))[0] for path in ("/livez", "/startupz", "/readyz")] == [200, 503, 503]


@pytest.mark.parametrize(
    "request_",
    [b"GET /metrics HTTP/1.1\r\n\r\n", b"POST /readyz HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"\xff\xfe \x00\r\n\r\n"],
)
async def test_v16_anything_else_is_not_there(request_: bytes) -> None:
    """V16: and the next one who asks is answered."""
    async with served(Vitals()) as page:
        assert (await sent(page, request_)).startswith(b"HTTP/1.1 404 ")
        assert (await get(page, "/livez"))[0] == 200


async def test_v16_a_caller_that_sends_too_much_or_hangs_up_is_nobodys_trouble() -> None:
    """V16: both are cut off, and the next one who asks is answered."""
    async with served(Vitals()) as page:
        with suppress(OSError):
            assert await sent(page, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000) == b""
        _, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(b"GET /li")
        writer.transport.abort()
        assert (await get(page, "/livez"))[0] == 200


async def test_a_port_in_use_is_a_code() -> None:
    """V15: not a traceback."""
    async with served(Vitals()) as page:
        with pytest.raises(CellwardError) as refused:
            await VitalsPage(Vitals(), f"127.0.0.1:{page.port}").run()
        assert refused.value.code == CANNOT_LISTEN.code


async def test_whoever_asks_for_all_of_it_waits_for_the_hub_too() -> None:
    """`helm test`: ready alone is not enough; what is missing is named when patience ends."""
    vitals, health = Vitals(), HealthRegistry()
    vitals.opened(health)
    vitals.composed(lambda: True)
    async with served(vitals) as page:
        for name in (ENGINE, API_SERVER):
            health.set(name, ok=True)
        with pytest.raises(CellwardError) as refused:
            await ask(f"127.0.0.1:{page.port}", patience=0.2)
        assert "not connected to its hub" in refused.value.message
        waiting = asyncio.create_task(ask(f"127.0.0.1:{page.port}", patience=60.0))
        health.set(HUB_LINK, ok=True)
        assert (await waiting)["hubConnected"] is True
        health.set(ENGINE, ok=False)
        with pytest.raises(CellwardError) as red:
            await ask(f"127.0.0.1:{page.port}", patience=0.2)
        assert ENGINE in red.value.message
