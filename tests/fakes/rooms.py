"""The hub's rooms of clusters and documents over one store, as ``hub.app`` composes them, and a world around them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cellward.documents.names import CellKey
from cellward.runtime.clock import Clock
from cellward.wire.v1 import link_pb2, types_pb2
from hub.clusters.service import ClusterService
from hub.documents.bounds import Bounds
from hub.documents.intake import KeyringPort
from hub.documents.placing import Placer
from hub.documents.realm import RealmService
from hub.documents.service import DocumentService
from hub.placement.delivery import Invited
from hub.store.interfaces import Store, Tables
from hub.store.sql.store import SqlStore
from tests.fakes.clock import ManualClock
from tests.fakes.signed import NOW, Author, Keys, new_root
from tests.fakes.store import scratch_store

CART = CellKey("shop", "cart", "dev")
#: For tests in which the agent's own facts choose.
ANYTHING = Invited(("dev", "prod", "test", "e" * 12))


@dataclass(frozen=True)
class Rooms:
    """Clusters and documents of one process."""

    clusters: ClusterService
    documents: DocumentService

    async def start(self) -> None:
        """Do what a hub does when it starts."""
        await self.documents.judge_again()
        await self.clusters.start()


def make_rooms(
    store: Store, realm: RealmService, clock: Clock, keyring: KeyringPort, bounds: Bounds | None = None
) -> Rooms:
    """Compose the rooms of a process."""
    placer = Placer(clock)
    return Rooms(ClusterService(store, clock, placer), DocumentService(store, realm, clock, keyring, placer, bounds))


@dataclass
class World:
    """One hub with a realm and one author, who may sign everything."""

    store: SqlStore
    realm: RealmService
    author: Author
    clock: ManualClock
    keys: Keys
    rooms: Rooms = field(init=False)

    def __post_init__(self) -> None:
        self.rooms = self.again()

    @property
    def clusters(self) -> ClusterService:
        """Clusters of the hub."""
        return self.rooms.clusters

    @property
    def documents(self) -> DocumentService:
        """Documents of the hub."""
        return self.rooms.documents

    def again(self, **bounds: int) -> Rooms:
        """Rooms of another process over the same store."""
        return make_rooms(self.store, self.realm, self.clock, self.keys, Bounds(**bounds))

    async def join(self, name: str, *environments: str, region: str = "", projects: tuple[str, ...] = ("*",)) -> None:
        """Create a cluster and let its agent say hello."""
        if await self.store.clusters.get(name) is None:
            await self.clusters.create_cluster(name, "test", replace(ANYTHING, region=region))
        facts = types_pb2.ClusterFacts(
            uid=f"uid-{name}", environments=environments or ("dev",), region=region, projects=projects
        )
        await self.clusters.hello(name, link_pb2.Hello(facts=facts))

    async def invite(self, name: str, invited: Invited) -> None:
        """Say what a cluster is meant to be."""

        async def mint(_: Tables) -> None:
            return None

        await self.clusters.invite(name, invited, mint)

    async def digests(self, cluster: str) -> list[str]:
        """Deployment digests a cluster is meant to have."""
        return [item.deployment_digest for item in await self.clusters.items(cluster, 0)]


async def new_world() -> World:
    """Make a hub with a realm, at the time of the documents that tests sign."""
    clock = ManualClock(NOW)
    store = scratch_store(clock)
    realm = RealmService(store.meta)
    root, author = new_root()
    author.realm = (await realm.adopt(root)).realm
    return World(store, realm, author, clock, Keys(author))
