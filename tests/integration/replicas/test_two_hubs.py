"""Two hubs on one database: what one has decided holds at the other, and of two that race one wins (V13, V14)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2, types_pb2
from hub.audit.service import AuditLog
from hub.documents.model import Accepted
from hub.documents.realm import RealmService
from hub.documents.served import ServedKeyring
from hub.documents.service import DocumentService
from hub.leases import JUDGE, Leases
from hub.policy.service import TufRepository
from hub.store.interfaces import Tables
from hub.store.log import AuditEvent
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, now, starter_archive
from tests.fakes.postgres import Server
from tests.fakes.rooms import Rooms, make_rooms
from tests.fakes.signed import NOW, Author, Keys, digest, new_root

CLUSTERS = ("eu-1", "eu-2", "us-1")
KEY = Ed25519Signer.generate()


@dataclass
class Hub:
    """One of them."""

    store: SqlStore
    realm: RealmService
    rooms: Rooms

    async def upload(self, *envelopes: bytes) -> Accepted:
        """Upload with a record, as the API does."""

        async def commit(job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - generic as the protocol
            async def recorded(tables: Tables) -> Accepted:
                result: Accepted = await job(tables)
                event = AuditEvent("ada", "document.upload", f"Document//{result.entries[0].digest}", "done")
                await tables.audit.put_events([event])
                return result

            return await self.store.transact(recorded)

        return await self.rooms.documents.accept(list(envelopes), commit=commit)

    async def says(self, cluster: str, region: str) -> None:
        """Let an agent say where it is."""
        facts = types_pb2.ClusterFacts(uid=f"uid-{cluster}", environments=["dev"], region=region, projects=["*"])
        await self.rooms.clusters.hello(cluster, link_pb2.Hello(facts=facts))

    async def given(self, cluster: str, cell: str = "cart") -> str:
        """Digest of the Deployment that a cluster is given for a cell."""
        return next(item.deployment_digest for item in await self.rooms.clusters.items(cluster, 0) if item.cell == cell)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    server: Server = request.getfixturevalue("postgres")
    return await server.new()


@pytest.fixture
def author() -> Author:
    """An author who may sign everything."""
    return Author("")


@pytest.fixture
async def hubs(url: str, author: Author) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two hubs with one realm, three clusters and an agent's facts."""
    keys, made = Keys(author), []
    for _ in range(2):
        clock = ManualClock(NOW)
        store = await open_store(url, clock)
        realm = RealmService(store.meta)
        made.append(Hub(store, realm, make_rooms(store, realm, clock, keys)))
    first, second = made
    root, _ = new_root()
    author.realm = (await first.realm.adopt(root)).realm
    for name in CLUSTERS:
        await first.rooms.clusters.create_cluster(name, "ada")
        await first.store.clusters.set_invited(
            name, {"environments": ["dev"], "production": False, "projects": ["*"], "region": "", "labels": {}}
        )
        await first.says(name, "")
    yield first, second
    for hub in made:
        await hub.store.close()


async def test_a_realm_that_one_adopted_is_the_others(hubs: tuple[Hub, Hub], author: Author) -> None:
    """Also where the other one had looked before there was one; its parts hear of it."""
    _, second = hubs
    heard: list[str] = []

    async def hear(realm: object) -> None:
        heard.append(str(realm))

    second.realm.on_adopted.append(hear)
    found = await second.realm.current()
    assert found is not None
    assert found.realm == author.realm
    assert len(heard) == 1
    with pytest.raises(CellwardError) as caught:
        await second.realm.adopt(new_root()[0])
    assert caught.value.code == "fleet/realm-adopted"


async def test_v14_an_older_deployment_is_not_put_back_by_the_other_hub(hubs: tuple[Hub, Hub], author: Author) -> None:
    """What it remembers of documents is a moment old; it decides on what there is when it writes."""
    first, second = hubs
    release = author.release()
    await second.upload(release, author.deployment(release, 1))
    newer = author.deployment(release, 2)
    await first.upload(newer)
    # Its memory ends at the first one.
    await second.upload(author.release(cell="web"))
    for name in CLUSTERS:
        assert await second.given(name) == digest(newer)
    await second.says("eu-1", "eu")
    assert await first.given("eu-1") == digest(newer)


async def test_of_two_documents_with_one_sequence_one_is_kept(hubs: tuple[Hub, Hub], author: Author) -> None:
    """Uploaded at the same time, one at each hub; the other one is told which document has it."""
    first, second = hubs
    release, other = author.release(), author.release(version="2")
    await first.upload(release, other)
    for sequence in range(1, 9):
        one, two = author.deployment(release, sequence), author.deployment(other, sequence)
        outcomes = await asyncio.gather(first.upload(one), second.upload(two), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [getattr(error, "code", error) for error in refused] == ["fleet/sequence-taken"]
        kept = digest(two if isinstance(outcomes[0], BaseException) else one)
        for hub in hubs:
            assert {await hub.given(name) for name in CLUSTERS} == {kept}


async def test_v13_uploads_at_both_are_each_placed_and_recorded_once(hubs: tuple[Hub, Hub], author: Author) -> None:
    """Forty at once; every cell is on its newest Deployment everywhere, and one log has a record of each upload."""
    first, _ = hubs
    cells = [f"c{number}" for number in range(4)]
    releases = {cell: author.release(cell=cell) for cell in cells}
    await first.upload(*releases.values())
    sent = [
        (sequence, cell, author.deployment(releases[cell], sequence, cell=cell))
        for sequence in range(1, 11)
        for cell in cells
    ]
    await asyncio.gather(*(hubs[number % 2].upload(envelope) for number, (_, _, envelope) in enumerate(sent)))
    newest = {cell: digest(envelope) for sequence, cell, envelope in sent if sequence == 10}
    for hub in hubs:
        for name in CLUSTERS:
            assert {cell: await hub.given(name, cell) for cell in cells} == newest
    logs = [AuditLog(hub.store.audit, KEY._key, lambda: "", ManualClock(NOW)) for hub in hubs]
    await asyncio.gather(*(log.settle() for log in logs))
    records = [json.loads(row.record) for row in await first.store.audit.records(0, 1000)]
    uploads = [record["object"] for record in records if record["action"] == "document.upload"]
    first_one = digest(releases[cells[0]])
    wanted = [first_one, *(digest(envelope) for _, _, envelope in sent)]
    assert sorted(uploads) == sorted(f"Document//{each}" for each in wanted)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))


async def test_of_two_publications_at_once_one_is_served(url: str) -> None:
    """V15: the other one is told which came first; the timestamp is of the one that is served."""
    world, stores = PolicyWorld(), [await open_store(url, ManualClock(now())) for _ in range(2)]
    hubs = [TufRepository(store.tuf, world.hub_key, ManualClock(now()), realm=lambda: world.realm) for store in stores]
    await hubs[0].publish(world.publish(starter_archive()))
    one, two = world.make([starter_archive()]), world.make([starter_archive()])
    outcomes = await asyncio.gather(hubs[0].publish(one), hubs[1].publish(two), return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, CellwardError)]
    assert len(won) == len(lost) == 1, outcomes
    assert lost[0].code == "policy/overtaken"
    assert f"snapshot version {won[0].snapshot_version} is served" in lost[0].message
    assert lost[0].hint
    served = [await hub.status() for hub in hubs]
    assert served[0] is not None
    assert served[0] == served[1]
    assert served[0].snapshot_version == won[0].snapshot_version
    for store in stores:
        await store.close()


async def test_v4_a_new_keyring_is_applied_by_the_hub_that_has_the_lease_and_by_its_successor(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V4: one judges for both, whoever of them was told; the other one goes on when that one has ended."""
    world, stores = PolicyWorld(), [await open_store(url) for _ in range(2)]
    ada = Author(world.realm)
    world.record = replace(world.record, keyring=Keyring(world.realm, 1, tuple(Keys(ada).entries.values())))
    leases, services, policies = [], [], []
    judged: list[list[bool]] = [[], []]
    for number, store in enumerate(stores):
        realm = RealmService(store.meta)
        await realm.adopt(world.root)
        policies.append(TufRepository(store.tuf, world.hub_key, SystemClock(), realm=lambda: world.realm))
        keyring = ServedKeyring(policies[number], store.changes)
        services.append(make_rooms(store, realm, SystemClock(), keyring).documents)
        leases.append(Leases(store, f"hub-{number}"))
        await leases[number].look()
        monkeypatch.setattr(services[number], "judge_again", _noted(services[number].judge_again, judged[number]))
    stop = asyncio.Event()

    def work(number: int) -> list[asyncio.Task[None]]:
        mine = leases[number]
        follow = services[number].follow_keyring(stop, lambda: mine.held(JUDGE) is not None)
        return [asyncio.create_task(stores[number].watch()), asyncio.create_task(follow)]

    tasks = [work(0), work(1)]
    await policies[1].publish(world.publish(starter_archive()))
    await _until(lambda: True in judged[0])
    assert judged[1] == [], "one judges for both"
    await leases[0].release()
    await leases[1].look()
    looked = len(judged[0])
    # The same keyring: there is nothing to judge by it, and who looks whether there is tells whose it is.
    await policies[0].publish(world.publish(starter_archive()))
    await _until(lambda: bool(judged[1]))
    assert len(judged[0]) == looked, "who has no lease any more judges nothing"
    stop.set()
    for watch, follow in tasks:
        watch.cancel()
        follow.cancel()
    await asyncio.gather(*(task for pair in tasks for task in pair), return_exceptions=True)
    for store in stores:
        await store.close()


def _noted(judge: Callable[[], Awaitable[bool]], into: list[bool]) -> Callable[[], Awaitable[bool]]:
    async def noted() -> bool:
        found = await judge()
        into.append(found)
        return found

    return noted


async def _until(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not question():
            await asyncio.sleep(0.01)


async def test_v4_an_upload_judged_by_an_older_keyring_is_not_kept_by_it(url: str) -> None:
    """V4: a key that another hub revokes while its document is on its way counts for nothing."""
    world = PolicyWorld()
    thief, bob = Author(world.realm, "eve"), Author(world.realm, "bob")
    entries = Keys(thief, bob).entries
    world.record = replace(world.record, keyring=Keyring(world.realm, 1, tuple(entries.values())))
    hubs: list[tuple[SqlStore, TufRepository, DocumentService]] = []
    for _ in range(2):
        clock = ManualClock(now())
        store = await open_store(url, clock)
        realm = RealmService(store.meta)
        await realm.adopt(world.root)
        policy = TufRepository(store.tuf, world.hub_key, clock, realm=lambda: world.realm)
        hubs.append((store, policy, make_rooms(store, realm, clock, ServedKeyring(policy, store.changes)).documents))
    (first, _, mine), (_, policy, others) = hubs
    await policy.publish(world.publish(starter_archive()))
    assert await others.judge_again()
    before = thief.release(version="before")
    await mine.accept([before])
    revoked = replace(entries[thief.signer.keyid], state="compromised")
    publication = world.amend(keyring=Keyring(world.realm, 2, (revoked, entries[bob.signer.keyid])))
    published: list[bool] = []

    async def commit(job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - generic as the protocol
        if not published:
            await policy.publish(publication)
            published.append(await others.judge_again())
        return await first.transact(job)

    with pytest.raises(CellwardError) as caught:
        await mine.accept([thief.release()], commit=commit)
    assert (caught.value.code, published) == ("fleet/unverified-document", [True])
    # Whose key is in force is not held up by that.
    await mine.accept([bob.release()], commit=commit)
    kept = {row.digest: row.standing for row in (await first.documents.list()).items}
    assert kept == {digest(before): "unverified", digest(bob.release()): "verified"}
    for store, *_ in hubs:
        await store.close()
