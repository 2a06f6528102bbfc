"""Commands over the API of one process, to an agent whose stream another one holds: given once, recorded, answered."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import link_pb2
from hub.api.app import make_api_app
from hub.store.sql.store import SqlStore
from tests.fakes.live_api import TOKENS, hub_keys, make_services
from tests.fakes.ports import FakeLinkHub
from tests.fakes.signed import new_root
from tests.integration.link.streams import joined, opened, welcomed
from tests.integration.replicas.test_links import pair

__all__ = ["pair"]


@dataclass
class Api:
    """The API of one process."""

    client: TestClient[Any, Any]
    store: SqlStore

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Ask as an admin."""
        headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
        response = await self.client.request(method, "/v1" + path, json=body, headers=headers)
        return response.status, await response.json()

    async def outcome(self, command: str) -> dict[str, Any]:
        """What became of a command, once its agent has said so."""
        async with asyncio.timeout(20):
            while (found := (await self.ask("GET", f"/clusters/eu-1/commands/{command}"))[1])["state"] == "sent":
                await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def _api(hub: FakeLinkHub, store: SqlStore) -> AsyncIterator[Api]:
    services = make_services(store, hub_keys(), HealthRegistry(SystemClock()))
    services = replace(services, send_command=hub.link.link.send_command)
    async with TestClient(TestServer(make_api_app(services))) as client:
        yield Api(client, store)


@pytest.fixture
async def apis(pair: list[tuple[FakeLinkHub, SqlStore]]) -> AsyncIterator[list[Api]]:
    """The APIs of both processes, with a root adopted and the cluster known."""
    async with _api(*pair[0]) as first, _api(*pair[1]) as second:
        store = pair[0][1]
        await store.clusters.create("eu-1", "test")
        yield [first, second]


async def _adopt(api: Api) -> None:
    root, _ = new_root()
    assert (await api.ask("POST", "/trust/root", {"root": base64.b64encode(root).decode()}))[0] == 201


async def _records(api: Api) -> list[dict[str, Any]]:
    events = (await api.ask("GET", "/audit/records?limit=500"))[1]["items"]
    return [item for item in events if item["action"] == "cluster.command"]


async def test_v2_v13_a_command_is_given_once_delivered_by_either_and_on_record(
    pair: list[tuple[FakeLinkHub, SqlStore]], apis: list[Api]
) -> None:
    """V2, V13: sent at both processes at once under one id it is one command, and both tell its outcome."""
    first, second = apis
    await _adopt(first)
    agent = await joined(pair[0][0])
    path, body = "/clusters/eu-1/commands", {"kind": "diagnose", "id": "look-again-1"}
    status, refused = await second.ask("POST", path, body)
    assert (status, refused["code"]) == (503, "link/not-connected")
    async with opened(pair[0][0], agent) as link:
        await welcomed(link, agent)
        given = await asyncio.gather(*(api.ask("POST", path, body) for api in (first, second, first, second)))
        assert [status for status, _ in given] == [201] * 4, given
        assert {one["id"] for _, one in given} == {"look-again-1"}
        command = (await link.receive("command")).command
        assert (command.id, command.kind) == ("look-again-1", link_pb2.COMMAND_KIND_DIAGNOSE)
        await link.send(command_result=link_pb2.CommandResult(id=command.id, ok=True, facts={"opa": "ok"}))
        for api in apis:
            found = await api.outcome(command.id)
            assert (found["state"], found["facts"], found["createdBy"]) == ("done", {"opa": "ok"}, "admin")
        status, other = await second.ask("POST", path, {**body, "kind": "resync"})
        assert (status, other["code"]) == (409, "api/command-id-taken")
        # The next one is the next on the stream: nothing was delivered twice.
        assert (await first.ask("POST", path, {"kind": "resync", "id": "look-again-2"}))[0] == 201
        assert (await link.receive("command")).command.id == "look-again-2"
    told = [(one["decision"], one["code"], one["details"]) for one in await _records(second)]
    wanted = {"cluster": "eu-1", "name": "diagnose", "command": "look-again-1", "subject": "agent"}
    assert [code for decision, code, _ in told if decision != "done"] == ["link/not-connected", "api/command-id-taken"]
    done = [details for decision, _, details in told if decision == "done"]
    assert [details for details in done if details == wanted] == [wanted], "one command, one record of giving it"
    assert done.count({**wanted, "mode": "repeated"}) == 3


async def test_v2_what_is_not_on_the_list_or_has_a_wrong_subject_is_no_command(apis: list[Api]) -> None:
    """V2: a closed list; nothing of what is refused is kept."""
    for body in (
        {"kind": "apply"},
        {"kind": "answer"},
        {"kind": "probe"},
        {"kind": "probe", "subject": "../../etc/passwd"},
        {"kind": "resync", "subject": "shop/cart/dev"},
    ):
        assert (await apis[0].ask("POST", "/clusters/eu-1/commands", body))[1]["code"] == "api/bad-request", body
    assert (await apis[1].ask("GET", "/clusters/eu-1/commands"))[1]["items"] == []
    unknown = await apis[1].ask("POST", "/clusters/nowhere/commands", {"kind": "resync"})
    assert unknown[1]["code"] == "fleet/unknown-cluster"
    assert (await apis[1].ask("GET", "/clusters/eu-1/commands/none-such"))[1]["code"] == "api/unknown-command"
