"""The admin API over the store in memory: who may do what, what is refused how, and what is recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from openapi_spec_validator import validate

from cellward.api.schemas import ApiTokenCreate
from cellward.audit.record import ACTIONS
from cellward.errors import CellwardError
from cellward.identity.locks import Lock, lock_of
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from hub.api.__main__ import render
from hub.api.app import all_routes, make_api_app, openapi_document
from hub.api.auth import ROLES, Principal, hash_token, new_token
from hub.api.interfaces import Services
from hub.api.rates import TokenRates
from hub.api.resources.tokens import create_api_token
from hub.api.routing import Call
from hub.audit.service import AuditLog
from hub.authority.tokens import JoinTokens
from hub.clusters.locks import OwnLocks
from hub.keeping import Keeping
from hub.store.log import AuditEvent
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.live_api import TOKENS, hub_keys, make_services
from tests.fakes.signed import Author, Keys, new_root
from tests.fakes.store import run_sql, scratch_store

OPENAPI = Path("docs/reference/openapi.json")
MUTATIONS = [route for route in all_routes() if route.method != "GET"]
READS = [route for route in all_routes() if route.method == "GET"]


@dataclass
class Api:
    """A client of an API in this process."""

    client: TestClient[Any, Any]
    services: Services
    store: SqlStore
    author: Author
    keys: Keys

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
        self.keys.enrol(author)
        status, body = await self.ask("POST", "/trust/root", {"root": base64.b64encode(root).decode()})
        assert status == 201
        author.realm = body["realm"]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An API whose hub has no realm yet."""
    store = scratch_store()
    keys = Keys()
    services = make_services(store, hub_keys(), HealthRegistry(SystemClock()), keys)
    with structlog.testing.capture_logs():
        async with TestClient(TestServer(make_api_app(replace(services, max_body=256 * 1024)))) as client:
            yield Api(client, services, store, Author(""), keys)


def _path(path: str) -> str:
    names = {"cluster": "eu-1", "project": "shop", "cell": "cart", "name": "ci", "kind": "cluster", "subject": "eu-1"}
    names |= {"number": "0", "command": "0" * 8}
    return path.format(digest="sha256:" + "0" * 64, **names)


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


async def test_v13_segments_are_listed_exported_and_pruned_by_an_admin_who_has_the_export(api: Api) -> None:
    """A viewer may read; what was pruned is named when somebody asks for it; the prune is in the log."""
    await api.adopt()
    filler = AuditEvent("ada", "lock.set", "Cluster//eu-1", "done")
    await api.store.audit.put_events([filler] * 300)
    status, body = await api.ask("GET", "/audit/segments", role="viewer")
    assert (status, body["items"]) == (200, [])
    await api.services.audit.settle()
    status, body = await api.ask("GET", "/audit/segments", role="viewer")
    assert body["items"] == [{"number": 0, "first": 0, "end": 256, "pruned": False}]
    headers = {"Authorization": f"Bearer {TOKENS['viewer']}"}
    export = await (await api.client.get("/v1/audit/segments/0", headers=headers)).read()
    assert len(export.splitlines()) == 257
    given = {"digest": f"sha256:{sha256(export).hexdigest()}"}
    wrong = {"digest": f"sha256:{sha256(export[:-1]).hexdigest()}"}
    path = "/audit/segments/0/prune"
    assert (await api.ask("POST", path, given, role="deployer"))[1]["code"] == "api/role-too-low"
    assert (await api.ask("POST", path, wrong))[1]["code"] == "audit/segment-differs"
    assert (await api.ask("POST", "/audit/segments/x/prune", given))[1]["code"] == "api/bad-request"
    status, body = await api.ask("POST", path, given)
    assert (status, body["pruned"]) == (200, True)
    record = (await api.records())[-1]
    assert (record["action"], record["actor"], record["details"]) == ("audit.prune", "admin", given)
    status, body = await api.ask("GET", "/audit/records?cursor=7", role="viewer")
    assert (status, body["code"]) == (404, "audit/pruned")
    assert "segment 0" in body["detail"]
    assert (await api.ask("GET", "/audit/segments/0", role="viewer"))[1]["code"] == "audit/pruned"
    status, body = await api.ask("GET", "/audit/records?limit=1", role="viewer")
    assert body["items"][0]["index"] == 256


async def test_an_admin_gets_a_backup_and_a_look_for_damage_and_both_are_recorded(api: Api, tmp_path: Path) -> None:
    """The answer names a file and no path, a request names neither; what was refused is recorded, too."""
    file = tmp_path / "hub.db"
    store = await open_store(f"sqlite:///{file}")
    (tmp_path / "backups").mkdir()
    keeping = Keeping(f"sqlite:///{file}", tmp_path / "backups", store, SystemClock())
    try:
        async with TestClient(TestServer(make_api_app(replace(api.services, keeping=keeping)))) as client:
            again = replace(api, client=client)
            status, body = await again.ask("POST", "/backups", {})
            assert status == 201
            (made,) = (tmp_path / "backups").iterdir()
            assert body == {
                "name": made.name,
                "size": made.stat().st_size,
                "digest": f"sha256:{sha256(made.read_bytes()).hexdigest()}",
            }
            assert (await again.ask("POST", "/backups", {"file": "/tmp/x"}))[1]["code"] == "api/bad-request"  # noqa: S108
            status, found = await again.ask("POST", "/fsck", {})
            assert (status, found["auditRecords"]) == (200, 0)
    finally:
        await store.close()
    assert (await api.ask("POST", "/backups", {}))[1]["code"] == "store/no-backup-directory"
    done = [(one["action"], one["decision"], one["code"], one["details"]) for one in await api.records()]
    assert done[0] == (
        "store.backup", "done", "", {"digest": body["digest"], "name": body["name"], "size": str(body["size"])},
    )  # fmt: skip
    assert [one[:3] for one in done[1:]] == [
        ("store.backup", "failed", "api/bad-request"),
        ("store.check", "done", ""),
        ("store.backup", "failed", "store/no-backup-directory"),
    ]


async def test_v13_status_is_shown_over_a_damaged_log(api: Api) -> None:
    """It is where damage is told, so it must not fail by it; what needs a signed head says the code."""
    await api.adopt()
    size = (await api.ask("GET", "/status"))[1]["auditSize"]
    await run_sql(api.store, "UPDATE audit_log SET root = x'00'")
    services = replace(api.services, audit=AuditLog(api.store.audit, hub_keys().tree_head, lambda: "r", SystemClock()))
    services.health.set("audit-log", ok=False, code="store/damaged", message="record 0")
    async with TestClient(TestServer(make_api_app(services))) as client:
        again = replace(api, client=client)
        status, body = await again.ask("GET", "/status")
        assert (status, body["auditSize"]) == (200, size)
        assert [one["code"] for one in body["components"] if one["name"] == "audit-log"] == ["store/damaged"]
        status, body = await again.ask("GET", "/audit/checkpoint")
        assert (status, body["code"]) == (500, "store/damaged")


@pytest.mark.parametrize("route", [row for row in READS if row.role == "viewer"], ids=lambda r: r.path)
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
        ("POST", "/clusters", b"[" * 60_000, 400, "api/bad-request"),
        ("POST", "/clusters", b'{"name": "' + b"a" * 300_000 + b'"}', 400, "api/too-large"),
        ("POST", "/documents", b'{"envelopes": []}', 400, "api/bad-request"),
        ("POST", "/documents", b'{"envelopes": ["not base64!"]}', 400, "api/bad-request"),
        ("POST", "/documents", b'{"envelopes": ["e30="]}', 409, "fleet/no-realm"),
        ("POST", "/clusters/eu-1/join-tokens", b"{}", 409, "fleet/no-realm"),
        ("POST", "/trust/root", b'{"root": "e30="}', 422, "policy/unverified"),
        ("POST", "/tokens", b'{"name": "Ada L", "role": "viewer"}', 400, "api/bad-request"),
        ("POST", "/tokens", b'{"name": "ada", "role": "root"}', 400, "api/bad-request"),
        ("POST", "/tokens", b'{"name": "ada", "role": "viewer", "lifetimeSeconds": 0}', 400, "api/bad-request"),
        ("POST", "/tokens", b'{"name": "ada", "role": "viewer", "lifetimeSeconds": 31622401}', 400, "api/bad-request"),
        ("POST", "/tokens", b'{"name": "ada", "role": "viewer", "token": "mine"}', 400, "api/bad-request"),
        ("DELETE", "/tokens/..%2f..", None, 400, "api/bad-request"),
        ("DELETE", "/tokens/nobody", None, 404, "api/unknown-token-name"),
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

    api.services.clusters.clusters = broken  # type: ignore[method-assign]
    status, body = await api.ask("GET", "/clusters")
    assert (status, body["code"]) == (500, "api/internal")
    assert "secret text" not in json.dumps(body)
    assert (await api.ask("GET", "/whoami"))[1]["subject"] == "admin"


async def test_a_mutation_that_ends_in_a_mistake_is_recorded(api: Api) -> None:
    """Every mutation leaves a record, also one whose failure nobody foresaw; the exception's text is not in it."""

    async def broken(*_: object) -> Any:
        raise RuntimeError("secret text")

    await api.adopt()
    api.services.clusters.create_cluster = broken  # type: ignore[method-assign]
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
    grant = await JoinTokens(api.store.tokens, SystemClock()).spend(body["token"], "a" * 64)
    assert grant.cluster == "eu-1"
    assert (await api.ask("POST", "/clusters/nobody/join-tokens", {}))[1]["code"] == "fleet/unknown-cluster"


CI = {"name": "ci", "role": "deployer", "lifetimeSeconds": 3600}


async def test_api_token_is_shown_once_and_kept_as_a_hash(api: Api) -> None:
    """A token is in the answer to its making and nowhere else: not in the store, the list, or the record."""
    status, made = await api.ask("POST", "/tokens", CI)
    assert status == 201
    token = made.pop("token")
    everything = {"projects": ["*"], "environments": ["*"]}
    assert (await api.ask("GET", "/whoami", role=token))[1] == {"subject": "ci", "role": "deployer", **everything}
    status, listed = await api.ask("GET", "/tokens")
    assert listed["items"] == [made]
    assert (made["createdBy"], made["expired"]) == ("admin", False)
    for kept in (await api.records(), [repr(row) for row in await api.store.api_tokens.list()], listed):
        assert token not in json.dumps(kept)
    record = (await api.records())[-1]
    assert (record["action"], record["decision"], record["object"]) == ("api-token.create", "done", "ApiToken//ci")
    scope = {"projects": "*", "environments": "*"}
    assert record["details"] == {"role": "deployer", "expiresAt": made["expiresAt"], **scope}


async def test_api_token_expires(api: Api) -> None:
    """A token that lived its time is no proof any more; the list says so and it can be replaced after it is revoked."""
    _, made = await api.ask("POST", "/tokens", CI)
    row = await api.store.api_tokens.remove("ci")
    assert row is not None
    await api.store.api_tokens.add(replace(row, expires_at=api.services.clock.now()))
    status, body = await api.ask("GET", "/whoami", role=made["token"])
    assert (status, body["code"]) == (401, "api/bad-token")
    assert (await api.ask("GET", "/tokens"))[1]["items"][0]["expired"] is True
    assert (await api.ask("POST", "/tokens", CI))[1]["code"] == "store/subject-has-token"


async def test_revoked_api_token_is_refused_at_once(api: Api) -> None:
    """The next request with it is refused, who revoked it is in the record, and its name is free again."""
    _, made = await api.ask("POST", "/tokens", CI)
    status, gone = await api.ask("DELETE", "/tokens/ci")
    assert (status, gone["name"], "token" in gone) == (200, "ci", False)
    assert (await api.ask("GET", "/whoami", role=made["token"]))[0] == 401
    record = (await api.records())[-1]
    assert (record["action"], record["actor"], record["object"]) == ("api-token.revoke", "admin", "ApiToken//ci")
    assert (await api.ask("DELETE", "/tokens/ci"))[1]["code"] == "api/unknown-token-name"
    assert (await api.records())[-1]["decision"] == "failed"
    assert (await api.ask("POST", "/tokens", CI))[0] == 201


async def test_tokens_do_what_their_role_may(api: Api) -> None:
    """A token made for a role is that role: no viewer or deployer makes, lists or revokes tokens, an admin does."""
    for role in ROLES:
        _, made = await api.ask("POST", "/tokens", {"name": f"a-{role}", "role": role})
        status, body = await api.ask("POST", "/tokens", {"name": "more", "role": role}, role=made["token"])
        assert (status == 201) is (role == "admin"), body
        assert ((await api.ask("GET", "/tokens", role=made["token"]))[0] == 200) is (role == "admin")
        assert ((await api.ask("DELETE", "/tokens/more", role=made["token"]))[0] == 200) is (role == "admin")


@pytest.mark.parametrize("caller", ROLES)
@pytest.mark.parametrize("role", ROLES)
async def test_role_of_the_caller_is_never_exceeded(api: Api, caller: str, role: str) -> None:
    """Even where the route let a weaker role in, it could not make a stronger token than its own."""
    call = Call(
        make_mocked_request("POST", "/v1/tokens"),
        api.services,
        Principal("ada", caller),  # type: ignore[arg-type]
        "id",
        TokenRates(api.services.clock),
        payload=ApiTokenCreate(name="x", role=role),  # type: ignore[arg-type]
        action="api-token.create",
    )
    if ROLES.index(role) <= ROLES.index(caller):  # type: ignore[arg-type]
        assert (await create_api_token(call)).role == role
    else:
        with pytest.raises(CellwardError) as caught:
            await create_api_token(call)
        assert caught.value.code == "api/role-too-low"
        assert await api.store.api_tokens.list() == ()


@pytest.mark.parametrize("name", ["hub", "anonymous", "bootstrap-admin"])
async def test_names_of_the_hub_itself_are_not_given_away(api: Api, name: str) -> None:
    """Nobody acts under a name that means somebody else in the record, and the first admin cannot be locked out."""
    for method, path in (("POST", "/tokens"), ("DELETE", f"/tokens/{name}")):
        status, body = await api.ask(method, path, {**CI, "name": name} if method == "POST" else None)
        assert (status, body["code"]) == (409, "api/reserved-name")


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


async def test_v4_locks_over_the_api_from_setting_to_lifting(api: Api) -> None:
    """V4: a lock says whom it holds, stands in the record with its reason, and is lifted once."""
    await api.adopt()
    uid = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
    await api.store.clusters.create("eu-1", "test")
    await api.store.clusters.bind("eu-1", uid, "0" * 64, b"spki", 1, "1")
    body = {"kind": "agent", "subject": uid, "reason": "key stolen"}
    status, tried = await api.ask("POST", "/locks", {**body, "dryRun": True})
    assert (status, tried["clusters"]) == (201, ["eu-1"])
    assert (await api.ask("GET", "/locks", role="viewer"))[1]["items"] == []
    status, made = await api.ask("POST", "/locks", body)
    assert (status, made["clusters"], made["reason"], made["signed"]) == (201, ["eu-1"], "key stolen", False)
    assert (await api.ask("GET", "/clusters/eu-1"))[1]["lock"] == f"agent/{uid}"
    found = [record for record in await api.records() if record["action"] == "lock.set"]
    assert [record["reason"] for record in found] == ["key stolen", "key stolen"]
    assert {record["object"] for record in found} == {f"Lock//agent/{uid}"}
    assert (await api.ask("DELETE", f"/locks/agent/{uid}"))[0] == 200
    assert (await api.ask("DELETE", f"/locks/agent/{uid}"))[1]["code"] == "api/unknown-lock"
    assert (await api.ask("GET", "/clusters/eu-1"))[1]["locked"] is False
    # What locks nobody is refused, not kept.
    for kind, subject, code in (
        ("cluster", "nowhere", "fleet/unknown-cluster"),
        ("key", "abc", "identity/bad-lock"),
        ("agent", "eu-1", "identity/bad-lock"),
    ):
        refused = await api.ask("POST", "/locks", {"kind": kind, "subject": subject, "reason": "x"})
        assert refused[1]["code"] == code


async def test_v4_a_signed_lock_with_the_text_of_the_hubs_own_is_on_a_page_of_its_own(api: Api) -> None:
    """V4: a page that ends between the two, which have one text, skips neither."""

    class Both(OwnLocks):
        """Locks that this hub set, and signed ones."""

        async def signed(self) -> tuple[Lock, ...]:
            """The signed ones."""
            return (lock_of("cluster", "eu-1"), lock_of("cluster", "eu-2"))

    await api.adopt()
    for name in ("eu-1", "us-1"):
        await api.store.clusters.create(name, "test")
        body = {"kind": "cluster", "subject": name, "reason": "x"}
        assert (await api.ask("POST", "/locks", body))[0] == 201
    api.services.locks._locks = Both(api.store.locks)
    seen: list[tuple[str, bool]] = []
    cursor = ""
    while not seen or cursor:
        page = (await api.ask("GET", f"/locks?limit=1&cursor={quote(cursor)}"))[1]
        seen += [(item["subject"], item["signed"]) for item in page["items"]]
        cursor = page["nextCursor"]
    assert seen == [("eu-1", False), ("eu-1", True), ("eu-2", True), ("us-1", False)]
