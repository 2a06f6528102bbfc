"""Where an agent runs, and what it publishes there about itself (V7)."""

from __future__ import annotations

import asyncio
import json

from agent.kube.interfaces import ObjectRef
from agent.link.interfaces import Platform
from agent.platform import IdentityPublisher, PlatformReader
from cellward.documents.facts import ClusterFacts
from cellward.identity import keys
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube
from tests.fakes.linked_agent import until

FACTS = ClusterFacts(
    name="eu-1", uid="u-1", environments=("dev",), production=False, labels={}, region="eu", projects=("*",)
)


async def test_v7_the_cluster_is_read_from_its_api_server_each_time() -> None:
    """V7: nothing of it is remembered, as it would be copied with the rest; without an answer nothing is said."""
    kube = FakeKube()
    reader = PlatformReader(kube, "c" * 64)
    assert await reader() == Platform()
    made = await kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}, manager="test"
    )
    assert await reader() == Platform(made["metadata"]["uid"], "c" * 64)


async def test_an_agent_publishes_uid_facts_and_statement_key() -> None:
    """One ConfigMap in its namespace, whole, whatever stood there; what is in it is public."""
    kube, clock, statement = FakeKube(), ManualClock(), keys.new_signing_key()
    await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cellward-system"}}, manager="test")
    publisher = IdentityPublisher(
        kube, "cellward-system", realm="sha256:" + "a" * 64, facts=FACTS, statement_spki=keys.spki_of(statement),
        timer=clock,
    )  # fmt: skip
    running = asyncio.ensure_future(publisher.run())
    await until(lambda: clock.sleepers == 1, "it was published")
    found = await kube.get(ObjectRef("v1", "ConfigMap", "cellward-system", "cellward-agent-identity"))
    said = json.loads(found["data"]["identity.json"])
    assert (said["uid"], said["name"]) == ("u-1", "eu-1")
    assert ClusterFacts.from_json(said["facts"]) == FACTS
    assert said["statementKeyid"] == keys.spki_digest(keys.spki_of(statement))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
