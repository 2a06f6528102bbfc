"""An agent that joined, and lies: what it is given, and what everybody else still sees."""

from __future__ import annotations

from pathlib import Path

from cellward.wire.v1 import link_pb2, types_pb2
from hub.placement.delivery import Invited
from hub.sync.content import Content
from tests.fakes.live_api import live_api
from tests.fakes.rooms import make_rooms
from tests.fakes.signed import Keys, digest, new_root


async def test_a_development_cluster_that_claims_production_gets_nothing_of_it(tmp_path: Path) -> None:
    """Neither items nor, by a digest it may have heard, the documents; the difference is red for everybody."""
    async with live_api(tmp_path) as api:
        root, ada = new_root()
        ada.realm = (await api.services.realm.adopt(root)).realm
        rooms = make_rooms(api.store, api.services.realm, api.services.clock, Keys(ada))
        clusters = rooms.clusters
        await clusters.create_cluster("dev-1", "test", Invited(("dev",)))
        release = ada.release()
        dev, prod = ada.deployment(release, 1, "dev"), ada.deployment(release, 1, "prod", cell="cart")
        secret = ada.release(version="2")
        await rooms.documents.accept([release, dev, prod, secret])
        for production in (False, True):
            facts = types_pb2.ClusterFacts(
                uid="uid", environments=["dev", "prod"], production=production, projects=["*"]
            )
            await clusters.hello("dev-1", link_pb2.Hello(facts=facts))
            given = [item.deployment_digest for item in await clusters.items("dev-1", 0)]
            assert given == ([] if production else [digest(dev)])
            content = Content(api.store.documents, api.services.policy, api.store.changes, clusters.placed)
            assert await content.by_digest("dev-1", digest(prod)) is None
            assert await content.by_digest("dev-1", digest(secret)) is None
            assert (await content.by_digest("dev-1", digest(release)) is None) is production
            view = await clusters.cluster("dev-1")
            assert view.facts is not None
