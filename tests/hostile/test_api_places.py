"""A token of one project, and strangers, against the places of the admin API: who still comes in, and who holds what.

The application is real, behind the real front of its listener, with few places; the lobby is asked who has them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from hub.api.app import make_api_app
from hub.api.interfaces import Door, Services
from hub.front.front import Front
from hub.front.inside import Inside
from hub.front.limits import FrontLimits
from hub.store.sql.store import open_store
from tests.fakes.live_api import TOKENS, hub_keys, make_services

LIMITS = FrontLimits(24, 24, 12, 12, per_owner=4, kept=4)
pytestmark = pytest.mark.timeout(60)


class Connection:
    """One connection to the API, spoken to by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, method: str, path: str, token: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Send a request and read its answer. Raises OSError, EOFError where the connection is gone."""
        self.send(method, path, token, b"" if body is None else json.dumps(body).encode())
        return await self.answer()

    def send(self, method: str, path: str, token: str, body: bytes = b"", length: int | None = None) -> None:
        """Send a request; ``length`` may promise more than its body is."""
        head = f"{method} /v1{path} HTTP/1.1\r\nHost: hub\r\n"
        if token:
            head += f"Authorization: Bearer {token}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Read one answer."""
        async with asyncio.timeout(20.0):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().partition("content-length:")[2].split()[0])
            body = json.loads(await self._reader.readexactly(size))
        return int(head.split()[1]), body

    async def ended(self) -> bool:
        """Wait until the hub has ended the connection."""
        async with asyncio.timeout(20.0):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True


@dataclass
class Api:
    """The API behind its front."""

    front: Front
    services: Services
    stack: AsyncExitStack

    async def connect(self) -> Connection:
        """Connect anew."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        self.stack.callback(writer.close)
        return Connection(reader, writer)

    async def token(self, name: str, role: str = "viewer") -> str:
        """Make a token of project a, as the admin."""
        wanted = {"name": name, "role": role, "projects": ["a"], "environments": ["dev"], "lifetimeSeconds": 3600}
        status, made = await (await self.connect()).ask("POST", "/tokens", TOKENS["admin"], wanted)
        assert status == 201, made
        return str(made["token"])

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(20.0):
            while not done():
                await asyncio.sleep(0.005)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """The API over SQLite, with few places."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    doors: list[Door] = []
    made = make_services(store, hub_keys(), HealthRegistry(SystemClock()))
    services = replace(made, doors=doors)
    runner = web.AppRunner(make_api_app(services), access_log=None)
    await runner.setup()
    assert runner.server is not None
    front = Front("127.0.0.1", 0, LIMITS, SystemClock(), Inside(runner.server, None))
    doors.append(front)
    front.start()
    with structlog.testing.capture_logs():
        async with AsyncExitStack() as stack:
            yield Api(front, services, stack)
        await front.close()
        await runner.cleanup()
        await front.end()
    await store.close()


async def test_v16_one_token_keeps_nobody_out(api: Api) -> None:
    """V16: however many connections show a viewer's token, it has its own few, and the admin comes in."""
    token = await api.token("view-a")
    for _ in range(3 * LIMITS.connections):
        assert (await (await api.connect()).ask("GET", "/whoami", token))[0] == 200
    assert api.front.lobby.count_owned("view-a") == LIMITS.per_owner
    assert (await (await api.connect()).ask("DELETE", "/tokens/view-a", TOKENS["admin"]))[0] == 200


async def test_v16_many_tokens_keep_no_admin_out(api: Api) -> None:
    """V16: as many known connections as there are places, of many tokens: some are kept for admins."""
    tokens = [await api.token(f"view-{number}") for number in range(8)]
    for token in tokens * LIMITS.per_owner:
        await (await api.connect()).ask("GET", "/whoami", token)
    owned = sum(api.front.lobby.count_owned(f"view-{number}") for number in range(8))
    assert 8 <= owned <= LIMITS.connections - LIMITS.spare(LIMITS.connections)
    assert (await (await api.connect()).ask("DELETE", "/tokens/view-0", TOKENS["admin"]))[0] == 200


async def test_v4_a_revoked_token_holds_no_place(api: Api) -> None:
    """V4: its connections end with the revocation, whether they ask for something or not."""
    token = await api.token("view-a")
    held = [await api.connect() for _ in range(LIMITS.per_owner)]
    for each in held:
        assert (await each.ask("GET", "/whoami", token))[0] == 200
    assert api.front.lobby.count_owned("view-a") == LIMITS.per_owner
    assert (await (await api.connect()).ask("DELETE", "/tokens/view-a", TOKENS["admin"]))[0] == 200
    assert api.front.lobby.count_owned("view-a") == 0
    for each in held:
        assert await each.ended()


async def test_v4_who_shows_no_token_in_force_is_known_no_more(api: Api) -> None:
    """V4: revoked elsewhere, a token holds its place until the next request; that one ends the connection."""
    token = await api.token("view-a")
    held = await api.connect()
    assert (await held.ask("GET", "/whoami", token))[0] == 200
    await api.services.tokens.remove("view-a")
    assert (await held.ask("GET", "/whoami", token))[0] == 401
    assert api.front.lobby.count_owned("view-a") == 0
    assert await held.ended()
