"""The admin API over the store in memory: who may do what, what is refused how, and what is recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import validate

from cellward.audit.record import ACTIONS
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from hub.api.__main__ import render
from hub.api.app import all_routes, make_api_app, openapi_document
from hub.api.auth import ROLES, hash_token, new_token
from hub.api.interfaces import Services
from tests.fakes.live_api import TOKENS, hub_keys, make_services
from tests.fakes.signed import Author, new_root
from tests.fakes.store import MemoryStore

OPENAPI = Path("docs/reference/openapi.json")
MUTATIONS = [route for route in all_routes() if route.method == "POST"]
READS = [route for route in all_routes() if route.method == "GET"]


@dataclass
class Api:
    """A client of an API in this process."""

    client: TestClient[Any, Any]
    services: Services
    store: MemoryStore
    author: Author

    async def ask(
        self, method: str, path: str, body: object = None, *, role: str = "admin", data: bytes | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask as a role; "" asks without a token. Returns status and JSON."""
        headers = {"Authorization": f"Bearer {TOKENS.get(role, role)}"} if role else {}
        payload = data if data is not None else None if body is None else json.dumps(body).encode()
        response = await self.client.request(method, "/v1" + path, data=payload, headers=headers)
        text = await response.text()
        return response.status, json.loads(text) if text else {}

    async def records(self) -> list[dict[str, Any]]:
        """Every audit record."""
        return [json.loads(found.record) for found in await self.services.audit.tail(0, 1000)]

    async def adopt(self) -> None:
        """Give the hub a realm."""
        root, author = new_root()
        self.author = author
        status, body = await self.ask("POST", "/trust/root", {"root": base64.b64encode(root).decode()})
        assert status == 201
        author.realm = body["realm"]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An API whose hub has no realm yet."""
    store = MemoryStore()
    services = make_services(store, hub_keys(), HealthRegistry(SystemClock()))
    with structlog.testing.capture_logs():
        async with TestClient(TestServer(make_api_app(replace(services, max_body=256 * 1024)))) as client:
            yield Api(client, services, store, Author(""))


def _path(path: str) -> str:
    return path.format(cluster="eu-1", project="shop", cell="cart", digest="sha256:" + "0" * 64)


def test_openapi_document_is_the_committed_one_and_valid() -> None:
    """What is served, committed and implemented is one table; `python -m hub.api` writes it anew."""
    assert OPENAPI.read_text() == render(), "python -m hub.api > docs/reference/openapi.json"
    validate(json.loads(render()))


def test_every_mutation_has_a_role_and_a_known_audit_action() -> None:
    """No route changes anything without a role and a record."""
    assert {route.path for route in all_routes() if route.role is None} == {"/healthz"}
    assert all(route.action in ACTIONS for route in MUTATIONS)
    assert all(route.role in ("deployer", "admin") for route in MUTATIONS)
    operations = [route.operation_id for route in all_routes()]
    assert len(set(operations)) == len(operations)


async def test_openapi_is_served(api: Api) -> None:
    """The document describes the very API it comes from."""
    response = await api.client.get("/v1/openapi.json")
    assert await response.json() == json.loads(json.dumps(openapi_document()))


@pytest.mark.parametrize("route", [r for r in all_routes() if r.role is not None], ids=lambda r: f"{r.method}{r.path}")
async def test_nothing_answers_without_a_token(api: Api, route: Any) -> None:
    """Who asks must be proven on every route but health; a wrong, malformed or expired token is no proof."""
    for token in ("", "wrong", "x" * 300, "expired-token"):
        status, body = await api.ask(route.method, _path(route.path), {}, role=token)
        assert status == 401
        assert body["code"] in {"api/no-token", "api/bad-token"}


@pytest.mark.parametrize("route", MUTATIONS, ids=lambda r: r.path)
async def test_roles_below_are_denied_and_recorded(api: Api, route: Any) -> None:
    """Viewer < deployer < admin; a denied mutation is in the record with who tried."""
    for role in ROLES[: ROLES.index(route.role)]:
        status, body = await api.ask(route.method, _path(route.path), {}, role=role)
        assert (status, body["code"]) == (403, "api/role-too-low")
        record = (await api.records())[-1]
        assert (record["action"], record["decision"], record["actor"]) == (route.action, "deny", role)
        assert record["code"] == "api/role-too-low"


@pytest.mark.parametrize("route", READS, ids=lambda r: r.path)
async def test_reads_work_for_viewers_before_and_after_a_root(api: Api, route: Any) -> None:
    """No read of a fresh hub is an internal error."""
    status, body = await api.ask("GET", _path(route.path), role="viewer")
    assert status in {200, 404, 409}, body
    await api.adopt()
    if route.path != "/audit/export":
        status, body = await api.ask("GET", _path(route.path), role="viewer")
        assert status in {200, 404}, body


async def test_problem_has_code_hint_and_request_id(api: Api) -> None:
    """RFC 9457, and V15: what failed, why, what to do next, and an id to find it by."""
    response = await api.client.get(
        "/v1/clusters/nobody", headers={"Authorization": "Bearer viewer-token", "X-Request-Id": "abc-1"}
    )
    assert response.content_type == "application/problem+json"
    assert response.headers["X-Request-Id"] == "abc-1"
    body = await response.json()
    assert (body["status"], body["code"], body["instance"]) == (404, "fleet/unknown-cluster", "abc-1")
    assert body["hint"]
    assert body["type"] == "urn:cellward:error:fleet:unknown-cluster"


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code"),
    [
        ("POST", "/clusters", b"{", 400, "api/bad-request"),
        ("POST", "/clusters", b'{"name": "Eu"}', 400, "api/bad-request"),
        ("POST", "/clusters", b'{"name": "eu-1", "more": 1}', 400, "api/bad-request"),
        ("POST", "/clusters", b"[" * 100_000, 400, "api/bad-request"),
        ("POST", "/clusters", b'{"name": "' + b"a" * 300_000 + b'"}', 400, "api/too-large"),
        ("POST", "/documents", b'{"envelopes": []}', 400, "api/bad-request"),
        ("POST", "/documents", b'{"envelopes": ["not base64!"]}', 400, "api/bad-request"),
        ("POST", "/documents", b'{"envelopes": ["e30="]}', 409, "fleet/no-realm"),
        ("POST", "/clusters/eu-1/join-tokens", b"{}", 409, "fleet/no-realm"),
        ("POST", "/trust/root", b'{"root": "e30="}', 422, "policy/unverified"),
        ("GET", "/clusters?limit=0", None, 400, "api/bad-request"),
        ("GET", "/clusters?limt=1", None, 400, "api/bad-request"),
        ("GET", "/clusters?limit=1&limit=2", None, 400, "api/bad-request"),
        ("GET", "/cells?cursor=x", None, 400, "api/bad-cursor"),
        ("GET", "/documents?cursor=x", None, 400, "store/bad-cursor"),
        ("GET", "/audit/records?cursor=-1", None, 400, "api/bad-cursor"),
        ("GET", "/clusters/..%2f..", None, 400, "api/bad-request"),
        ("GET", "/nothing", None, 404, "api/no-such-route"),
        ("DELETE", "/clusters", None, 400, "api/method-not-allowed"),
    ],
)
async def test_bad_input_is_a_problem_and_changes_nothing(
    api: Api, method: str, path: str, data: bytes | None, status: int, code: str
) -> None:
    """V16: malformed, oversized and unknown input has a stable code, and the process goes on."""
    found, body = await api.ask(method, path, data=data)
    assert (found, body.get("code")) == (status, code), body
    assert (await api.ask("GET", "/healthz", role=""))[0] == 200
    assert await api.store.clusters.list() == ()


async def test_own_mistake_costs_one_request_and_shows_nothing(api: Api) -> None:
    """V16: an unexpected exception is a 500 without its text; the next request is answered."""

    async def broken() -> Any:
        raise RuntimeError("secret text")

    api.services.fleet.clusters = broken  # type: ignore[method-assign]
    status, body = await api.ask("GET", "/clusters")
    assert (status, body["code"]) == (500, "api/internal")
    assert "secret text" not in json.dumps(body)
    assert (await api.ask("GET", "/whoami"))[1] == {"subject": "admin", "role": "admin"}


async def test_a_mutation_that_ends_in_a_mistake_is_recorded(api: Api) -> None:
    """Every mutation leaves a record, also one whose failure nobody foresaw; the exception's text is not in it."""

    async def broken(*_: object) -> Any:
        raise RuntimeError("secret text")

    await api.adopt()
    api.services.fleet.create_cluster = broken  # type: ignore[method-assign]
    assert (await api.ask("POST", "/clusters", {"name": "eu-1"}))[1]["code"] == "api/internal"
    record = (await api.records())[-1]
    assert (record["action"], record["decision"], record["code"]) == ("cluster.create", "failed", "api/internal")
    assert "secret text" not in json.dumps(record)


async def test_join_token_is_shown_once_and_kept_as_a_hash(api: Api) -> None:
    """V6: the token is in the answer and nowhere else, not even in the record of its making."""
    await api.adopt()
    await api.ask("POST", "/clusters", {"name": "eu-1"})
    status, body = await api.ask("POST", "/clusters/eu-1/join-tokens", {})
    assert status == 201
    assert body["cluster"] == "eu-1"
    assert body["enrolmentAddress"] == "hub.example:7441"
    assert body["hubCaPem"].startswith("-----BEGIN CERTIFICATE-----")
    assert body["token"] not in json.dumps(await api.records())
    grant = await api.services.enrolment.spend(body["token"], "a" * 64)  # type: ignore[attr-defined]
    assert grant.cluster == "eu-1"
    assert (await api.ask("POST", "/clusters/nobody/join-tokens", {}))[1]["code"] == "fleet/unknown-cluster"


async def test_mutations_are_recorded_with_who_what_and_how_it_ended(api: Api) -> None:
    """Every mutation leaves a record, also one that failed."""
    await api.adopt()
    await api.ask("POST", "/clusters", {"name": "eu-1"})
    await api.ask("POST", "/clusters", {"name": "eu-1"})
    last = (await api.records())[-2:]
    assert [(r["action"], r["object"], r["decision"], r["code"]) for r in last] == [
        ("cluster.create", "Cluster//eu-1", "done", ""),
        ("cluster.create", "Cluster//eu-1", "failed", "fleet/cluster-exists"),
    ]
    assert all(record["actor"] == "admin" for record in last)
    assert all(record["correlationId"] for record in last)


async def test_second_root_is_refused_and_the_first_stays(api: Api) -> None:
    """The hub cannot be moved to another realm through the API."""
    await api.adopt()
    status, body = await api.ask("POST", "/trust/root", {"root": base64.b64encode(new_root()[0]).decode()})
    assert (status, body["code"]) == (409, "fleet/realm-adopted")
    assert (await api.ask("GET", "/trust"))[1]["realm"] == api.author.realm


async def test_pages_continue_where_the_one_before_ended(api: Api) -> None:
    """Cursors give everything once, in order."""
    for number in range(7):
        await api.ask("POST", "/clusters", {"name": f"c{number}"})
    names: list[str] = []
    cursor = ""
    while True:
        _, body = await api.ask("GET", f"/clusters?limit=3&cursor={cursor}")
        names += [item["name"] for item in body["items"]]
        cursor = body["nextCursor"]
        if not cursor:
            break
    assert names == [f"c{number}" for number in range(7)]


async def test_audit_pages_can_be_followed(api: Api) -> None:
    """The cursor of the last page gives what is new later, and `newest` starts at the end."""
    await api.adopt()
    for number in range(5):
        await api.ask("POST", "/clusters", {"name": f"c{number}"})
    _, newest = await api.ask("GET", "/audit/records?newest=true&limit=2")
    assert [item["object"] for item in newest["items"]] == ["Cluster//c3", "Cluster//c4"]
    _, empty = await api.ask("GET", f"/audit/records?cursor={newest['nextCursor']}")
    assert (empty["items"], empty["nextCursor"]) == ([], newest["nextCursor"])
    await api.ask("POST", "/clusters", {"name": "c5"})
    _, after = await api.ask("GET", f"/audit/records?cursor={empty['nextCursor']}")
    assert [item["object"] for item in after["items"]] == ["Cluster//c5"]


def test_tokens_are_long_random_and_hashed() -> None:
    """What is kept of a token does not give it back."""
    first, second = new_token(), new_token()
    assert first != second
    assert len(first) > 40
    assert first not in hash_token(first)
