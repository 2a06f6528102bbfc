"""An agent that joined begins streams without end and says something else each time: record, uploads, others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2, types_pb2
from hub.placement.delivery import Invited
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import failure, stream
from tests.fakes.clock import ManualClock
from tests.fakes.live_api import live_api
from tests.fakes.ports import FakeLinkHub
from tests.fakes.rooms import make_rooms
from tests.fakes.signed import Keys, digest, new_root
from tests.integration.link.test_listeners import joined

PLATFORM = "11111111-1111-4111-8111-111111111111"


async def test_v15_another_authority_in_each_hello_fills_no_record() -> None:
    """V15: the first ones are findings, the rest is counted; nobody is locked, another cluster has its own bound."""
    async with FakeLinkHub(SystemClock(), SyncLimits(hellos=1000)).running() as here:
        for name in ("evil", "good"):
            agent = await joined(here, name)
            async with agent.channel(here) as channel:
                for number in range(20 if name == "evil" else 2):
                    async with stream(channel, f"s-{number}") as link:
                        hello = agent.hello(platform_uid=PLATFORM, platform_ca=f"{number:064x}")
                        await link.send(hello=hello)
                        await link.receive("welcome")
        found = [entry for entry in here.hub.audit.entries if entry.action == "identity.copy"]
        assert [entry.object for entry in found] == ["Cluster//evil"] * 3 + ["Cluster//good"]
        assert dict(found[-1].details or {})["suppressed"] == "16"
        assert here.hub.clusters.locks == []


async def test_v16_streams_are_begun_at_a_rate_of_each_cluster_alone() -> None:
    """V16: who begins too many is refused before anything is read, and another agent is welcomed."""
    async with FakeLinkHub(SystemClock(), SyncLimits(hellos=4, hellos_per_second=0.001)).running() as here:
        evil, good = await joined(here, "evil"), await joined(here, "good")
        async with evil.channel(here) as channel, good.channel(here) as other:
            for number in range(4):
                async with stream(channel, f"s-{number}") as link:
                    await link.send(hello=evil.hello())
                    await link.receive("welcome")
            async with stream(channel) as link:
                # Without a frame: the agent would not know one of a stream that has no name yet.
                assert await failure(link.call.read()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "link/too-many-hellos")
            async with stream(other) as link:
                await link.send(hello=good.hello())
                await link.receive("welcome")
        assert [name for name, _ in here.fleet.hellos] == ["evil"] * 4 + ["good"]


def _facts(region: str, environment: str = "dev") -> link_pb2.Hello:
    return link_pb2.Hello(
        facts=types_pb2.ClusterFacts(uid="uid", environments=[environment], projects=["*"], region=region)
    )


async def test_v16_facts_that_change_with_each_hello_are_placed_at_a_rate_and_the_last_ones_in_the_end(
    tmp_path: Path,
) -> None:
    """V16: fifty changes cost a few placements, all others wait for one; another cluster is placed at once."""
    async with live_api(tmp_path) as api:
        root, ada = new_root()
        ada.realm = (await api.services.realm.adopt(root)).realm
        clock = ManualClock(api.services.clock.now())
        rooms = make_rooms(api.store, api.services.realm, clock, Keys(ada))
        clusters = rooms.clusters
        for name in ("evil", "good"):
            await clusters.create_cluster(name, "test", Invited(("dev", "prod")))
        release = ada.release()
        dev, prod = ada.deployment(release, 1, "dev"), ada.deployment(release, 1, "prod", cell="cart")
        await rooms.documents.accept([release, dev, prod])
        placed: list[str] = []
        place = clusters.moves._place

        async def counted(cluster: str) -> None:
            placed.append(cluster)
            await place(cluster)

        clusters.moves._place = counted
        await asyncio.gather(*(clusters.hello("evil", _facts(f"r{number}")) for number in range(50)))
        await clusters.hello("evil", _facts("last", "prod"))
        assert 1 <= placed.count("evil") <= 3
        await clusters.hello("good", _facts("eu"))
        assert placed[-1] == "good"
        assert [item.deployment_digest for item in await clusters.items("good", 0)] == [digest(dev)]
        for _ in range(3):
            clock.advance(20)
            await clusters.moves.work_off()
        # What it is not given any more is withheld whenever it is placed; what it is given in addition came later.
        assert digest(prod) in [item.deployment_digest for item in await clusters.items("evil", 0)]
        before = placed.count("evil")
        assert before <= 5
        clock.advance(1000)
        await clusters.moves.work_off()
        assert placed.count("evil") == before
