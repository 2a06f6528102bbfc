"""Tokens for some projects and environments: what they reach, and that every route says so."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellward.audit.record import NO_RECORD, Record, encode_record
from cellward.documents.dsse import parse_envelope
from cellward.documents.names import CellKey
from cellward.wire.v1 import link_pb2, types_pb2
from hub.api.app import all_routes, make_api_app
from hub.api.auth import Principal
from hub.api.rates import REFUSALS, TokenRates
from hub.api.resources.audit import _record as shown_record
from hub.audit.model import IndexedRecord
from hub.clusters.errors import FACTS_DIFFER
from hub.placement.delivery import Invited
from tests.fakes.clock import ManualClock
from tests.fakes.live_api import TOKENS
from tests.fakes.signed import digest
from tests.unit.hub.api.test_api import Api, _path, api

__all__ = ["api"]


def _body(*envelopes: bytes) -> dict[str, Any]:
    return {"envelopes": [base64.b64encode(envelope).decode() for envelope in envelopes]}


async def _token(api: Api, role: str = "deployer", **scope: list[str]) -> str:
    status, made = await api.ask("POST", "/tokens", {"name": "ci", "role": role, **scope})
    assert status == 201, made
    return str(made["token"])


@pytest.mark.parametrize("route", [r for r in all_routes() if r.role is not None], ids=lambda r: f"{r.method}{r.path}")
async def test_every_route_but_the_shared_ones_asks_what_a_token_is_for(api: Api, route: Any) -> None:
    """A token for one project reaches nothing of another one, and nothing that concerns all of them."""
    await api.adopt()
    release = api.author.release(project="bank")
    deployment = api.author.deployment(release, project="bank")
    assert (await api.ask("POST", "/documents", _body(release, deployment)))[0] == 201
    await api.services.clusters.create_cluster("eu-1", "test")
    await api.store.desired.upsert("eu-1", CellKey("bank", "cart", "dev"), digest(deployment))
    token = await _token(api, projects=["shop"])
    path = _path(route.path).replace("shop", "bank").replace("sha256:" + "0" * 64, digest(deployment))
    body: Any = {"cluster": "eu-1", "environment": "dev", "state": "hold"} if "narrowing" in path else {}
    if route.method == "POST" and route.path == "/documents":
        body = _body(deployment)
    if route.path == "/documents/trials":
        envelope = parse_envelope(deployment)
        payload = base64.b64encode(envelope.payload).decode()
        body = {"payloads": [{"payloadType": envelope.payload_type, "payload": payload}]}
    status, answer = await api.ask(route.method, path, body if route.method != "GET" else None, role=token)
    if route.reach == "shared":
        assert status in {200, 404}
    elif "{" not in route.path and route.reach == "own" and route.method == "GET":
        assert (status, answer["items"]) == (200, [])
    else:
        assert (status, answer["code"]) in {(403, "api/outside-scope"), (403, "api/role-too-low")}
    assert (await api.store.desired.items("eu-1"))[0].hub_state == "run"


async def test_a_token_uploads_for_its_project_and_environments_alone(api: Api) -> None:
    """Each document of an upload must be inside; one that is not, and nothing of it is kept."""
    await api.adopt()
    token = await _token(api, projects=["shop"], environments=["dev"])
    release = api.author.release()
    inside = api.author.deployment(release, 1, "dev")
    outside = api.author.deployment(release, 2, "dev", "prod")
    foreign = api.author.release(project="bank")
    for bad in (outside, foreign):
        status, body = await api.ask("POST", "/documents", _body(release, inside, bad), role=token)
        assert (status, body["code"]) == (403, "api/outside-scope")
        assert "is for projects shop in environments dev" in body["detail"]
    assert (await api.services.documents.list()).items == ()
    status, body = await api.ask("POST", "/documents", _body(release, inside), role=token)
    assert (status, [item["state"] for item in body["items"]]) == (201, ["verified", "verified"])
    assert (await api.ask("POST", "/documents", _body(outside)))[0] == 201
    _, listed = await api.ask("GET", "/documents", role=token)
    assert {item["digest"] for item in listed["items"]} == {digest(release), digest(inside), digest(outside)}
    _, approved = await api.ask("POST", "/documents", _body(api.author.approval(digest(outside), "prod")), role=token)
    assert approved["code"] == "api/outside-scope"


async def test_scopes_are_shown_and_an_admin_has_none(api: Api) -> None:
    """Lists show what a token is for; an admin acts on everything or is not an admin."""
    token = await _token(api, "viewer", projects=["shop", "bank", "shop"], environments=["dev"])
    _, listed = await api.ask("GET", "/tokens")
    assert (listed["items"][0]["projects"], listed["items"][0]["environments"]) == (["bank", "shop"], ["dev"])
    _, me = await api.ask("GET", "/whoami", role=token)
    assert (me["projects"], me["environments"]) == (["bank", "shop"], ["dev"])
    record = (await api.records())[-1]
    assert (record["details"]["projects"], record["details"]["environments"]) == ("bank,shop", "dev")
    for scope in ({"projects": ["shop"]}, {"environments": ["dev"]}):
        status, body = await api.ask("POST", "/tokens", {"name": "boss", "role": "admin", **scope})
        assert (status, body["code"]) == (400, "api/bad-request")
    assert (await api.ask("POST", "/tokens", {"name": "x", "role": "viewer", "projects": ["a b"]}))[0] == 400


async def test_rates_are_per_token(api: Api) -> None:
    """A deployer that sends without end is told to wait; another one and the admin are not."""
    await api.adopt()
    body = _body(*(api.author.release() for _ in range(1)))
    body["envelopes"] *= 250
    codes = [(await api.ask("POST", "/documents", body, role="deployer"))[0] for _ in range(9)]
    assert codes == [201] * 8 + [429]
    other = await _token(api)
    assert (await api.ask("POST", "/documents", body, role=other))[0] == 201
    assert (await api.ask("POST", "/documents", body))[0] == 201


async def test_changes_of_one_token_are_bounded(api: Api) -> None:
    """A deployer's other changes are bounded as well, whatever becomes of them; an admin's and others' are not."""
    await api.adopt()
    path, body = "/cells/shop/cart/narrowing", {"cluster": "eu-1", "environment": "dev", "state": "hold"}
    codes: list[int] = []
    while len(codes) < 600 and 429 not in codes:
        codes.append((await api.ask("POST", path, body, role="deployer"))[0])
    assert set(codes[:300]) == {404}
    assert codes[-1] == 429
    other = await _token(api)
    assert (await api.ask("POST", path, body, role=other))[0] == 404
    assert (await api.ask("POST", path, body))[0] == 404


async def test_refusals_do_not_fill_the_log(api: Api) -> None:
    """A viewer that posts again and again leaves a handful of records; the next one says how many there were."""
    before = len(await api.records())
    for _ in range(200):
        assert (await api.ask("POST", "/documents", {}, role="viewer"))[0] == 403
    assert len(await api.records()) - before == 5


async def test_what_was_not_recorded_is_counted(api: Api) -> None:
    """The next record of a kind says how many there were; kinds that are made up are bounded all together."""
    clock = ManualClock(api.services.clock.now())
    headers = {"Authorization": f"Bearer {TOKENS['viewer']}"}
    async with TestClient(TestServer(make_api_app(replace(api.services, clock=clock)))) as client:
        for _ in range(20):
            assert (await client.post("/v1/documents", json={}, headers=headers)).status == 403
        clock.advance(600)
        assert (await client.post("/v1/documents", json={}, headers=headers)).status == 403
    records = await api.records()
    assert [record["details"].get("suppressed") for record in records[-6:]] == [None] * 5 + ["15"]
    rates, viewer = TokenRates(clock), Principal("v", "viewer")
    assert sum(rates.refused(viewer, f"action-{number}", "code") == 0 for number in range(1000)) == REFUSALS.burst


async def test_facts_that_differ_from_the_invite_are_red(api: Api) -> None:
    """`check` shows what a cluster claims beyond its invite, and what it claims less; agreement is green."""
    await api.adopt()
    assert (await api.ask("POST", "/clusters", {"name": "eu-1"}))[0] == 201
    facts = {"environments": ["dev"], "production": False}
    assert (await api.ask("POST", "/clusters/eu-1/join-tokens", {"facts": facts}))[0] == 201
    _, shown = await api.ask("GET", "/clusters/eu-1")
    assert shown["invited"] == {**facts, "projects": ["*"], "region": "", "labels": {}}
    for environments, ok in ((["dev"], True), (["dev", "prod"], False), ([], False)):
        said = types_pb2.ClusterFacts(uid="uid", environments=environments, projects=["*"])
        await api.services.clusters.hello("eu-1", link_pb2.Hello(facts=said))
        _, status = await api.ask("GET", "/status")
        found = [one for one in status["components"] if (one["name"], one["cluster"]) == ("facts", "eu-1")]
        assert [(one["ok"], one["code"]) for one in found] == [(ok, "" if ok else "fleet/facts-differ")]
    assert "prod" not in found[0]["message"]


async def test_records_of_the_hub_are_a_type_of_their_own(api: Api) -> None:
    """A record an agent left its name out of shows as its cluster's; only the hub's chain is the hub's."""
    await api.adopt()
    record = Record(
        realm=api.author.realm, origin="agent:uid", cluster="", epoch=1, seq=1, prev=NO_RECORD,
        time=api.services.clock.now(), actor="hub", action="cell.apply", object="Cell/shop--cart--dev", decision="done",
    )  # fmt: skip
    data = encode_record(record)
    for found, writer, cluster in (
        (IndexedRecord(0, data, "eu-1"), "agent", "eu-1"),
        (IndexedRecord(0, data, ""), "agent", ""),
        ((await api.services.audit.tail(0, 1))[0], "hub", ""),
    ):
        shown = shown_record(found)
        assert (shown.writer, shown.cluster) == (writer, cluster)


async def test_a_key_that_comes_twice_is_refused(api: Api) -> None:
    """Two readers of such a body read two bodies."""
    status, body = await api.ask("POST", "/clusters", data=b'{"name": "eu-1", "name": "eu-2"}')
    assert (status, body["code"]) == (400, "api/bad-request")
    assert (await api.ask("GET", "/clusters"))[1]["items"] == []


@pytest.mark.parametrize("cursor", ["9" * 20, "9" * 16, "%D9%A3", "-1", "1.0", "+1"])
async def test_a_cursor_that_is_no_index_is_a_400(api: Api, cursor: str) -> None:
    """Also one that no database keeps."""
    await api.adopt()
    status, body = await api.ask("GET", f"/audit/records?cursor={cursor}")
    assert (status, body["code"]) in {(400, "api/bad-cursor"), (400, "api/bad-request")}


_TEXT = st.one_of(
    st.sampled_from(["9" * 20, "-1", "", "*", "a/b", "%00", "%ff", "eu-1", "shop", "sha256:" + "0" * 64, "WzldMTB9"]),
    st.text(max_size=40),
    st.integers().map(str),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
    max_leaves=8,
)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
async def test_v16_nothing_a_caller_sends_is_an_internal_error(api: Api, data: st.DataObject) -> None:
    """Any route, any path, query and body: an answer with a code, never a 5xx."""
    route = data.draw(st.sampled_from(all_routes()))
    path = re.sub(r"\{[a-z_]+\}", lambda _: quote(data.draw(_TEXT), safe="%") or "x", route.path)
    fields = list(route.query.model_fields) if route.query is not None else []
    query = {name: data.draw(_TEXT) for name in fields if data.draw(st.booleans())}
    body: Any = None
    if route.request is not None:
        names = [field.alias or name for name, field in route.request.model_fields.items()]
        body = data.draw(st.one_of(_JSON, st.fixed_dictionaries({}, optional=dict.fromkeys(names, _JSON))))
    status, answer = await api.ask(route.method, f"{path}?{urlencode(query)}", body, role="admin")
    assert status < 500, (route.method, path, query, body, answer)


async def test_v10_a_token_of_one_project_reads_nothing_of_others_in_conditions(api: Api) -> None:
    """V10: free words of agents and of the hub name whatever they like; such a token gets codes and our own words."""
    await api.adopt()
    await api.services.clusters.create_cluster("eu-1", "test", Invited(("dev",), projects=("shop", "secretproj")))
    facts = types_pb2.ClusterFacts(uid="u", environments=["dev"], projects=["shop", "secretproj", "hidden"])
    await api.services.clusters.hello("eu-1", link_pb2.Hello(facts=facts))
    said = [
        types_pb2.Condition(name="isolation", ok=False, code="fleet/facts-differ", message="of secretproj/payments"),
        types_pb2.Condition(name="x/secretproj", ok=False, code="secretproj/payments", message="hidden"),
    ]
    await api.services.clusters.agent_status("eu-1", link_pb2.AgentStatus(conditions=said))
    api.services.health.set("intake", ok=False, code="fleet/facts-differ", message="hidden")  # type: ignore[attr-defined]
    bound = await _token(api, "viewer", projects=["shop"])
    for path in ("/status", "/clusters", "/clusters/eu-1"):
        status, shown = await api.ask("GET", path, role=bound)
        assert status == 200
        assert "secretproj" not in str(shown)
        assert "hidden" not in str(shown)
        assert "isolation" in str(shown)
        assert FACTS_DIFFER.title in str(shown)
        assert "secretproj" in str((await api.ask("GET", path))[1])
    assert (await api.ask("GET", "/clusters/eu-1", role=bound))[1]["facts"]["projects"] == ["shop"]
