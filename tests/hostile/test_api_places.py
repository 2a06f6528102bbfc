"""A token of one project, and strangers, against the places of the admin API: who still comes in, and who holds what.

The application is real, behind the real front of its listener, with few places; the lobby is asked who has them.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import ValidationError

from cellward.documents import canonical
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from hub.api.app import make_api_app
from hub.api.interfaces import Services
from hub.api.resources import audit
from hub.api.room import RoomLimits
from hub.authority.limits import Rate
from hub.front.front import Front
from hub.front.inside import Inside
from hub.front.limits import FrontLimits
from hub.store.sql.store import open_store
from tests.fakes.live_api import TOKENS, hub_keys, make_services
from tests.fakes.signed import new_root

LIMITS = FrontLimits(24, 24, 12, 12, per_owner=4, kept=4)
#: Turns and room in the same proportion; an hour, so that no test is about time where it does not say so.
ROOM = RoomLimits(turns=8, kept=2, turns_each=2, large=2, large_each=1, grace=3600.0, words=4, unproven=(6, 0.0))
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
    runner: web.AppRunner
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
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """The API over SQLite, with few places; a test may bring other limits of room."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    doors: list[Front] = []
    made = make_services(store, hub_keys(), HealthRegistry(SystemClock()))
    services = replace(made, doors=doors)
    runner = web.AppRunner(
        make_api_app(services, getattr(request, "param", ROOM)), access_log=None, shutdown_timeout=5.0
    )
    await runner.setup()
    assert runner.server is not None
    front = Front("127.0.0.1", 0, LIMITS, SystemClock(), Inside(runner.server, None))
    doors.append(front)
    front.start()
    with structlog.testing.capture_logs():
        async with AsyncExitStack() as stack:
            yield Api(front, services, runner, stack)
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
    await api.services.store.api_tokens.remove("view-a")
    assert (await held.ask("GET", "/whoami", token))[0] == 401
    assert api.front.lobby.count_owned("view-a") == 0
    assert await held.ended()


async def _begin(api: Api, token: str, count: int) -> list[Connection]:
    """Begin so many uploads whose body never ends."""
    begun = [await api.connect() for _ in range(count)]
    for each in begun:
        each.send("POST", "/documents", token, b"{", length=30_000_000)
        await each.writer.drain()
    return begun


async def test_v16_bodies_that_never_end_keep_nobody_waiting(api: Api) -> None:
    """V16: as many of them as connections can be had: whether the hub lives, a lock, and the end of the token go on."""
    token = await api.token("dep-a", "deployer")
    await api.services.clusters.create_cluster("eu-1", "test")
    begun = await _begin(api, token, LIMITS.per_owner - 1)
    await api.until(lambda: api.front.lobby.count_owned("dep-a") == len(begun) > ROOM.turns_each)
    admin = await api.connect()
    assert (await (await api.connect()).ask("GET", "/whoami", token))[0] == 200
    lock = {"kind": "cluster", "subject": "eu-1", "reason": "seen with a stranger"}
    assert (await (await api.connect()).ask("GET", "/healthz", ""))[0] == 200
    assert (await admin.ask("POST", "/locks", TOKENS["admin"], lock))[0] == 201
    assert (await admin.ask("DELETE", "/tokens/dep-a", TOKENS["admin"]))[0] == 200
    for each in begun:
        assert await each.ended()


@pytest.mark.parametrize("api", [replace(ROOM, grace=0.2)], indirect=True)
async def test_v16_a_body_that_does_not_come_in_time_ends(api: Api) -> None:
    """V16: however many single bytes of it come; the connection ends as well."""
    token = await api.token("dep-a", "deployer")
    [slow] = await _begin(api, token, 1)

    async def drip() -> None:
        while True:
            slow.writer.write(b" ")
            await asyncio.sleep(0.01)

    dripping = asyncio.ensure_future(drip())
    try:
        status, body = await slow.answer()
        assert (status, body["code"]) == (400, "api/too-slow")
        assert await slow.ended()
    finally:
        dripping.cancel()


async def test_v16_a_stop_waits_for_no_body(api: Api) -> None:
    """V16: bodies that are being read end with the hub, long before their time is up."""
    token = await api.token("dep-a", "deployer")
    begun = await _begin(api, token, LIMITS.per_owner)
    await api.until(lambda: api.front.lobby.count_owned("dep-a") == LIMITS.per_owner)
    await api.front.close()
    stopping = asyncio.ensure_future(api.runner.cleanup())
    for each in begun:
        status, body = await each.answer()
        assert (status, body["code"], body["detail"]) == (429, "api/busy", "the hub is stopping")
    await stopping


async def test_v16_one_token_has_some_turns_alone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """V16: of what takes long, one token has its few, all ordinary ones leave some, and the admin is answered."""
    asked, go = 0, asyncio.Event()
    head = api.services.audit.head

    async def slowly() -> Any:
        nonlocal asked
        asked += 1
        await go.wait()
        return await head()

    monkeypatch.setattr(api.services.audit, "head", slowly)
    tokens = [await api.token(f"view-{number}") for number in range(4)]
    waiting: list[Connection] = []
    refused = 0
    for token in tokens:
        for number in range(ROOM.turns_each + 1):
            each = await api.connect()
            each.send("GET", "/audit/checkpoint", token)
            if number < ROOM.turns_each and asked < ROOM.turns - ROOM.kept:
                expected = asked + 1
                await api.until(lambda wanted=expected: asked == wanted)  # type: ignore[misc]
                waiting.append(each)
            else:
                assert (await each.answer())[1]["code"] == "api/busy"
                refused += 1
    assert (len(waiting), refused) == (ROOM.turns - ROOM.kept, 6)
    assert (await (await api.connect()).ask("GET", "/whoami", TOKENS["admin"]))[0] == 200
    assert (await (await api.connect()).ask("GET", "/healthz", ""))[0] == 200
    go.set()
    for each in waiting:
        await each.answer()
    assert (await (await api.connect()).ask("GET", "/whoami", tokens[0]))[0] == 200


async def test_v16_one_token_has_room_for_few_large_bodies(api: Api) -> None:
    """V16: as many large bodies are taken up as a token may have; more of it wait, another's do not."""
    first, other = await api.token("dep-a", "deployer"), await api.token("dep-b", "deployer")
    part = b'{"envelopes": ["' + b"A" * (2 * ROOM.small)
    begun = [await api.connect() for _ in range(3)]
    for each in begun:
        each.send("POST", "/documents", first, part, length=8 * ROOM.small)
        await each.writer.drain()
    await api.until(lambda: api.front.lobby.count_owned("dep-a") == len(begun))
    late = await api.connect()
    late.send("POST", "/documents", other, part + b'"]}')
    # Read whole and judged: there is no policy here yet.
    assert (await late.answer())[0] in {404, 409, 422, 400}
    for each in begun:
        each.writer.close()


async def test_v16_a_stranger_has_few_words(api: Api) -> None:
    """V16: pipelined without a token, a connection is answered a few times and ends; an address has few in all."""
    path, answered, refused = "/openapi.json", 0, 0
    for _ in range(3):
        stranger = await api.connect()
        for _ in range(3 * ROOM.words):
            stranger.send("GET", path, "")
        try:
            while True:
                status, _body = await stranger.answer()
                answered, refused = answered + (status == 200), refused + (status == 429)
        except (EOFError, ConnectionError):
            pass
    # Four of the first connection, two of the second and its refusal, which ends it, and that of the third.
    assert (answered, refused) == (ROOM.unproven[0], 2)
    assert (await (await api.connect()).ask("GET", "/healthz", ""))[0] == 200


def _keys(count: int) -> bytes:
    return b'{"envelopes": ["eA=="], ' + b", ".join(b'"%d": 1' % number for number in range(count)) + b"}"


@pytest.mark.parametrize(
    "body",
    [
        _keys(200_000),
        b'{"envelopes": [' + b"[]," * 200_000 + b"1]}",
        b'{"envelopes": ["' + b"\\u0041" * 200_000 + b'"]}',
    ],
    ids=["keys", "values", "escapes"],
)
async def test_v16_a_body_of_many_parts_is_never_built(api: Api, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """V16: it is refused by its bytes, before anything is made of them."""
    token = await api.token("dep-a", "deployer")
    monkeypatch.setattr(canonical, "parse", lambda *_, **__: pytest.fail("it was built"))
    connection = await api.connect()
    connection.send("POST", "/documents", token, body)
    status, answer = await connection.answer()
    assert (status, answer["code"], answer["detail"]) == (400, "api/bad-request", "the body has more than 8192 parts")


async def test_v16_many_wrong_fields_are_counted_and_not_told_one_by_one(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: nothing is made for each of them."""
    token = await api.token("dep-a", "deployer")
    monkeypatch.setattr(ValidationError, "errors", lambda *_, **__: pytest.fail("each was told"), raising=True)
    connection = await api.connect()
    connection.send("POST", "/documents", token, _keys(2_000))
    status, answer = await connection.answer()
    assert (status, answer["detail"]) == (400, "2000 fields are wrong")


async def test_v16_a_large_body_is_read_beside_the_loop_a_small_one_is_not_large(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: others are answered while a large body is read; where no documents are taken a large body is refused."""
    token = await api.token("dep-a", "deployer")
    large = json.dumps({"envelopes": ["A" * 400_000]}).encode()
    connection = await api.connect()
    assert (await connection.ask("POST", "/locks", TOKENS["admin"], {"reason": "x" * 70_000}))[1]["code"] == (
        "api/too-large"
    )
    begun, go = threading.Event(), threading.Event()

    def slowly(*_: object, **__: object) -> None:
        begun.set()
        assert go.wait(30.0)

    monkeypatch.setattr(canonical, "parse", slowly)
    connection = await api.connect()
    connection.send("POST", "/documents", token, large)
    await api.until(begun.is_set)
    assert (await (await api.connect()).ask("GET", "/whoami", TOKENS["admin"]))[0] == 200
    go.set()
    await connection.answer()


async def test_v16_one_token_sends_so_many_bytes_and_then_waits(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """V16: what comes beyond its rate is refused while it comes; another token is not."""
    monkeypatch.setattr("hub.api.rates.BYTES", Rate(1_000_000, 0.0))
    app = make_api_app(replace(api.services, max_body=500_000), ROOM)
    tokens = [await api.token(f"dep-{number}", "deployer") for number in range(2)]
    body = json.dumps({"envelopes": ["A" * 400_000]}).encode()
    async with TestClient(TestServer(app)) as client:

        async def upload(token: str) -> str:
            headers = {"Authorization": f"Bearer {token}"}
            async with client.post("/v1/documents", data=body, headers=headers) as answer:
                return str((await answer.json())["code"])

        codes = [await upload(tokens[0]) for _ in range(3)]
        assert "api/too-fast" not in codes[:2]
        assert codes[2] == "api/too-fast"
        assert await upload(tokens[1]) == codes[0]


async def test_v16_an_export_that_nobody_reads_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """V16: whoever stops to read the log keeps neither a turn nor the connection."""
    await api.services.realm.adopt(new_root()[0])
    ended = asyncio.Event()

    async def endless(write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while True:
                await write(bytes(65536))
        finally:
            ended.set()

    monkeypatch.setattr(audit, "PATIENCE", 0.2)
    monkeypatch.setattr(api.services.audit, "export", endless)
    reader = await api.connect()
    reader.send("GET", "/audit/export", TOKENS["viewer"])
    async with asyncio.timeout(20.0):
        await ended.wait()
    assert await reader.ended()
