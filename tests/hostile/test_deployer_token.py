"""A stolen deployer token: what an agent is given afterwards, and what is kept; mostly without a key of the keyring.

Over the API and a real database. The token is good, so nothing here is about who may upload.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer

from cellward.audit.record import parse_record
from cellward.documents.dsse import Signature, dump_envelope, parse_envelope
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import link_pb2, types_pb2
from hub.api.app import make_api_app
from hub.api.interfaces import Services
from hub.documents.bounds import Bounds
from hub.placement.delivery import Invited
from hub.store.sql.store import open_store
from tests.fakes.live_api import TOKENS, hub_keys, make_services
from tests.fakes.signed import Author, Keys, digest, new_root


@dataclass
class Hub:
    """A hub with one realm and one cluster; ada and bob are in its keyring, mallory is not."""

    client: TestClient[Any, Any]
    services: Services
    keys: Keys
    ada: Author
    bob: Author
    mallory: Author

    async def upload(self, *envelopes: bytes) -> tuple[int, dict[str, Any]]:
        """Upload with the deployer's token."""
        body = {"envelopes": [base64.b64encode(envelope).decode() for envelope in envelopes]}
        headers = {"Authorization": f"Bearer {TOKENS['deployer']}"}
        async with self.client.post("/v1/documents", json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def given(self) -> dict[str, str]:
        """What the agent of eu-1 is given: Deployment or tombstone by cell."""
        return {item.cell: item.deployment_digest for item in await self.services.clusters.items("eu-1", 0)}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub over SQLite."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    root, ada = new_root()
    keys = Keys()
    services = make_services(store, hub_keys(), HealthRegistry(SystemClock()), keys)
    ada.realm = (await services.realm.adopt(root)).realm
    bob, mallory = Author(ada.realm, "bob"), Author(ada.realm, "mallory")
    keys.enrol(ada)
    keys.enrol(bob)
    await services.clusters.create_cluster("eu-1", "test", Invited(("dev",)))
    facts = types_pb2.ClusterFacts(uid="uid", environments=["dev"], projects=["*"])
    await services.clusters.hello("eu-1", link_pb2.Hello(facts=facts))
    with structlog.testing.capture_logs():
        async with TestClient(TestServer(make_api_app(services))) as client:
            yield Hub(client, services, keys, ada, bob, mallory)
    await store.close()


async def test_a_strangers_tombstone_ends_no_releases(hub: Hub) -> None:
    """The highest sequence there is, signed by nobody who may: the next release reaches the agent."""
    release = hub.ada.release()
    first, second = hub.ada.deployment(release, 1), hub.ada.deployment(release, 2)
    assert (await hub.upload(release, first))[0] == 201
    end = hub.mallory.tombstone(1_700_000_000)
    status, body = await hub.upload(end)
    assert (status, body["code"]) == (422, "fleet/unverified-document")
    assert await hub.given() == {"cart": digest(first)}
    assert (await hub.upload(second))[0] == 201
    assert await hub.given() == {"cart": digest(second)}
    assert (
        await hub.client.get(f"/v1/documents/{digest(end)}", headers={"Authorization": "Bearer viewer-token"})
    ).status == 404


async def test_junk_signatures_keep_no_owner_out(hub: Hub) -> None:
    """Fifteen signatures that do not hold, beside a good one: the second real owner still completes the document."""
    hub.keys.need(deployment=2)
    release = hub.ada.release()
    deployment = hub.ada.deployment(release, 1)
    parsed = parse_envelope(deployment)
    junk = tuple(Signature(hub.bob.signer.keyid, bytes([number]) * 64) for number in range(15))
    assert (await hub.upload(release, dump_envelope(replace(parsed, signatures=(*junk, *parsed.signatures)))))[0] == 201
    assert await hub.given() == {}
    status, body = await hub.upload(hub.bob.cosign(deployment))
    assert (status, body["items"][0]["state"], body["items"][0]["signers"]) == (201, "verified", ["ada", "bob"])
    assert await hub.given() == {"cart": digest(deployment)}


async def test_bogus_items_starve_no_other_project(hub: Hub) -> None:
    """Documents of nobody take no place: not in the store, and not among what an agent holds."""
    for start in range(0, 600, 200):
        batch = [hub.mallory.tombstone(1, cell=f"x{start + number}") for number in range(200)]
        assert (await hub.upload(*batch))[1]["code"] == "fleet/unverified-document"
    release = hub.ada.release(project="bank")
    deployment = hub.ada.deployment(release, 1, project="bank")
    assert (await hub.upload(release, deployment))[0] == 201
    assert await hub.given() == {"cart": digest(deployment)}
    assert len((await hub.services.documents.list()).items) == 2


async def test_a_good_document_does_not_carry_a_bad_one_in(hub: Hub) -> None:
    """An upload is all or nothing: a stranger's document in it, and nothing of it is kept."""
    release = hub.ada.release()
    assert (await hub.upload(release, hub.mallory.deployment(release, 1)))[0] == 422
    assert (await hub.services.documents.list()).items == ()


async def test_a_revoked_thief_who_filled_the_project_keeps_nobody_out(hub: Hub) -> None:
    """With a key and the token he uploads what the bounds allow. Once the key is revoked, the next release goes out."""
    bounds = Bounds()
    hub.keys.enrol(hub.mallory)
    for start in range(0, bounds.pending + 1, 100):
        batch = [hub.mallory.release(version=str(start + number)) for number in range(100)]
        assert (await hub.upload(*batch))[0] == 201
    hub.keys.enrol(hub.mallory, state="compromised")
    await hub.services.documents.judge_again()
    release = hub.bob.release()
    deployment = hub.bob.deployment(release, 1)
    assert (await hub.upload(release, deployment))[0] == 201
    assert await hub.given() == {"cart": digest(deployment)}


async def test_what_makes_way_is_on_record(hub: Hub) -> None:
    """V13: junk that waits for signatures makes way for what comes, and the log names each document that is gone."""
    hub.keys.need(release=2)
    hub.keys.enrol(hub.mallory)
    most = Bounds().pending
    heap = [hub.mallory.release(version=str(number)) for number in range(most)]
    for start in range(0, most, 128):
        assert (await hub.upload(*heap[start : start + 128]))[0] == 201
    release = hub.ada.release(version="new")
    assert (await hub.upload(release))[0] == 201
    headers = {"Authorization": f"Bearer {TOKENS['viewer']}"}
    assert (await hub.client.get(f"/v1/documents/{digest(heap[0])}", headers=headers)).status == 404
    assert (await hub.client.get(f"/v1/documents/{digest(heap[1])}", headers=headers)).status == 200
    records = [parse_record(found.record) for found in await hub.services.audit.tail(0, 1000)]
    dropped = [record for record in records if record.action == "document.drop"]
    assert [(record.object, record.actor) for record in dropped] == [(f"Document//{digest(heap[0])}", "deployer")]
    status, body = await hub.upload(hub.bob.cosign(release))
    assert (status, body["items"][0]["state"]) == (201, "verified")


async def test_what_an_admin_withheld_no_deployer_loosens(hub: Hub) -> None:
    """A quarantine of an admin's is lifted by an admin, new releases or not; what deployers set, deployers lift."""
    release = hub.ada.release()
    assert (await hub.upload(release, hub.ada.deployment(release, 1)))[0] == 201

    async def narrow(role: str, state: str) -> tuple[int, str]:
        body = {"cluster": "eu-1", "environment": "dev", "state": state}
        headers = {"Authorization": f"Bearer {TOKENS[role]}"}
        async with hub.client.post("/v1/cells/shop/cart/narrowing", json=body, headers=headers) as answer:
            return answer.status, (await answer.json()).get("code", "")

    async def state() -> str:
        return (await hub.services.clusters.items("eu-1", 0))[0].hub_state

    for step in ("hold", "quarantine", "hold", "run"):
        assert await narrow("deployer", step) == (200, "")
    assert await narrow("deployer", "hold") == (200, "")
    assert await narrow("admin", "quarantine") == (200, "")
    # Neither by saying it once more, nor by a new release.
    assert await narrow("deployer", "quarantine") == (200, "")
    assert (await hub.upload(hub.ada.deployment(release, 2)))[0] == 201
    for step in ("run", "hold"):
        assert await narrow("deployer", step) == (403, "fleet/set-by-admin")
    assert await state() == "quarantine"
    assert await narrow("admin", "hold") == (200, "")
    # A deployer may withhold more of what an admin withheld; it stays the admin's.
    assert await narrow("deployer", "quarantine") == (200, "")
    assert await narrow("deployer", "run") == (403, "fleet/set-by-admin")
    assert await narrow("admin", "run") == (200, "")
    assert await narrow("deployer", "hold") == (200, "")
    assert (await hub.upload(hub.ada.deployment(release, 3)))[0] == 201
    assert await narrow("deployer", "run") == (200, "")
    assert await state() == "run"
