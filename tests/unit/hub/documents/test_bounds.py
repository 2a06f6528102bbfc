"""What one project may have on a hub, and what makes way for what."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from cellward.documents.model import Tombstone
from cellward.errors import CellwardError
from cellward.wire.v1 import link_pb2, types_pb2
from hub.documents.bounds import Bounds
from hub.documents.realm import RealmService
from hub.placement.delivery import Invited
from hub.store.sql.store import SqlStore
from tests.fakes.clock import ManualClock
from tests.fakes.rooms import Rooms, make_rooms
from tests.fakes.signed import NOW, Author, Keys, digest, new_root
from tests.fakes.store import scratch_store


@dataclass
class World:
    """A store with one realm and three authors; ``hub`` makes one over it."""

    clock: ManualClock
    store: SqlStore
    realm: RealmService
    keys: Keys
    authors: list[Author] = field(default_factory=list)

    def hub(self, **bounds: int) -> Rooms:
        """A hub with these bounds."""
        return make_rooms(self.store, self.realm, self.clock, self.keys, Bounds(**bounds))

    async def kept(self) -> set[str]:
        """Digests of everything kept."""
        return {row.digest for row in (await self.store.documents.list(limit=500)).items}


@pytest.fixture
async def world() -> World:
    """A fresh realm; ada, bob and eve may sign everything."""
    clock = ManualClock(NOW)
    store = scratch_store(clock)
    realm = RealmService(store.meta)
    root, ada = new_root()
    ada.realm = (await realm.adopt(root)).realm
    authors = [ada, Author(ada.realm, "bob"), Author(ada.realm, "eve")]
    return World(clock, store, realm, Keys(*authors), authors)


async def _refused(hub: Rooms, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await hub.documents.accept(list(envelopes))
    assert caught.value.code == "fleet/project-full"
    return caught.value.message


async def test_bounds_are_per_project(world: World) -> None:
    """One project at its bound keeps no other out, and says which bound it was."""
    ada, hub = world.authors[0], world.hub(documents=3, pending=1, items=2)
    release = ada.release()
    await hub.documents.accept([release, ada.deployment(release, 1), ada.deployment(release, 2)])
    assert "have 4 documents" in await _refused(hub, ada.release(version="2"))
    other = ada.release(project="bank")
    await hub.documents.accept([other, ada.deployment(other, 1, "dev", "prod", project="bank")])
    assert "cells in environments" in await _refused(hub, ada.deployment(other, 1, "test", project="bank"))
    # Known documents come again at any time.
    await hub.documents.accept([release])
    world.keys.need(deployment=2)
    waiting = [ada.deployment(other, sequence, project="bank") for sequence in (2, 3)]
    assert "wait for signatures" in await _refused(hub, *waiting)


async def test_bytes_are_bounded_per_project(world: World) -> None:
    """A project that stores much keeps no other out; what it has already comes again at any time."""
    ada = world.authors[0]
    release = ada.release()
    hub = world.hub(bytes=len(release) + 100)
    await hub.documents.accept([release])
    assert "bytes of documents" in await _refused(hub, ada.release(version="2"))
    world.keys.need(release=2)
    assert "bytes of documents" in await _refused(hub, ada.release(version="2"))
    await hub.documents.accept([release])
    await hub.documents.accept([ada.release(project="bank")])


@pytest.mark.parametrize("bounds", [{"pending": 4}, {"documents": 12}, {"items": 6}, {"bytes": 12_000}])
@pytest.mark.parametrize("how", ["compromised", "threshold"])
async def test_what_does_not_verify_any_more_keeps_nothing_out(world: World, bounds: dict[str, int], how: str) -> None:
    """A thief filled the project before his key was revoked, or a threshold rose: verified documents go on."""
    thief, bob, eve = world.authors
    hub = world.hub(**bounds)
    for number in range(6):
        cell = f"x{number}"
        release = thief.release(cell=cell)
        await hub.documents.accept([release, thief.deployment(release, 1, cell=cell)])
    if how == "compromised":
        world.keys.enrol(thief, state="compromised")
    else:
        world.keys.need(release=2, deployment=2)
    await hub.documents.judge_again()
    for sequence in (1, 2, 3):
        release = bob.release(version=str(sequence))
        documents = [release, bob.deployment(release, sequence)]
        if how == "threshold":
            documents += [eve.cosign(document) for document in documents]
        accepted = await hub.documents.accept(documents)
        assert {entry.standing for entry in accepted.entries} == {"verified"}
    # What waits for a second signature is taken as well.
    world.keys.need(release=2)
    assert (await hub.documents.accept([bob.release(version="9")])).entries[0].standing == "pending"
    rows = (await world.store.documents.list(limit=500)).items
    assert sum(len(row.envelope) for row in rows) <= bounds.get("bytes", 10**6)
    assert len(rows) <= bounds.get("documents", 10**6) + 256


async def test_a_pending_document_that_is_completed_is_bounded_as_a_verified_one(world: World) -> None:
    """The way over a threshold leads around no bound."""
    ada, bob, _ = world.authors
    hub = world.hub(documents=1)
    await hub.documents.accept([ada.release()])
    world.keys.need(release=2)
    second = ada.release(version="2")
    await hub.documents.accept([second])
    await hub.documents.judge_again()
    await hub.documents.accept([bob.cosign(ada.release())])
    assert "have 2 documents" in await _refused(hub, bob.cosign(second))


async def test_of_what_waits_the_owner_with_most_makes_way(world: World) -> None:
    """One signer's junk neither keeps another's document out nor takes it along by adding a signature to it."""
    junk, bob, ada = world.authors
    world.keys.need(release=3)
    hub = world.hub(pending=4)
    mine = ada.release(version="mine")
    await hub.documents.accept([mine])
    heap = [junk.release(version=str(number)) for number in range(9)]
    for document in (heap[0], heap[1], junk.cosign(mine), *heap[2:]):
        await hub.documents.accept([document])
    assert await world.kept() == {digest(mine), *map(digest, heap[-3:])}
    hers = bob.release(version="hers")
    accepted = await hub.documents.accept([hers])
    assert [entry.digest for entry in accepted.dropped] == [digest(heap[-3])]
    await hub.documents.accept([bob.cosign(mine)])
    assert (await hub.documents.get(digest(mine))).judgement["owners"] == ["ada", "bob", "eve"]
    assert (await hub.documents.get(digest(mine))).standing == "verified"


async def test_what_a_raised_threshold_leaves_short_is_kept_as_long_as_there_is_room(world: World) -> None:
    """More of it than may wait, and still nothing is lost: the second owner completes all of it."""
    ada, bob, eve = world.authors
    hub = world.hub(pending=2)
    old = [ada.release(version=str(number)) for number in range(5)]
    await hub.documents.accept(old)
    world.keys.need(release=2)
    await hub.documents.judge_again()
    for number in range(3):
        await hub.documents.accept([eve.release(version=f"w{number}")])
    assert {digest(document) for document in old} <= await world.kept()
    accepted = await hub.documents.accept([bob.cosign(document) for document in old])
    assert {entry.standing for entry in accepted.entries} == {"verified"}


async def test_a_waiting_document_runs_out(world: World) -> None:
    """What nobody completed in time goes with the next upload; a dry run drops nothing."""
    ada = world.authors[0]
    world.keys.need(tombstone=2)
    hub = world.hub()
    ending = ada.sign(
        Tombstone(
            realm=ada.realm, project="shop", cell="cart", environments=("dev",), sequence=1, delete_data=False,
            issued_at=NOW, not_after=NOW + timedelta(days=1),
        )
    )  # fmt: skip
    await hub.documents.accept([ending])
    await hub.documents.accept([ada.release()])
    assert digest(ending) in await world.kept()
    world.clock.advance(2 * 86_400)
    assert not (await hub.documents.accept([ada.release(version="2")], dry_run=True)).dropped
    assert digest(ending) in await world.kept()
    await hub.documents.accept([ada.release(version="2")])
    assert digest(ending) not in await world.kept()


async def test_v14_what_an_agent_was_given_stays(world: World) -> None:
    """A raised threshold and a full project: the documents in force are kept, and can be completed; others make way."""
    ada, bob, eve = world.authors
    hub = world.hub(documents=4, pending=1)
    await hub.clusters.create_cluster("eu-1", "test", Invited(("dev",)))
    facts = types_pb2.ClusterFacts(uid="uid", environments=["dev"], projects=["*"])
    await hub.clusters.hello("eu-1", link_pb2.Hello(facts=facts))
    release = ada.release()
    placed = ada.deployment(release, 1)
    old = [ada.release(version=version) for version in ("0.1", "0.2")]
    await hub.documents.accept([release, placed, *old])
    world.keys.need(release=2, deployment=2)
    await hub.documents.judge_again()
    for number in range(4):
        made = bob.release(version=str(number), cell="bank")
        await hub.documents.accept([made, eve.cosign(made)])
        await hub.documents.accept([bob.release(version=f"w{number}")])
    kept = await world.kept()
    assert {digest(release), digest(placed)} <= kept
    assert digest(old[0]) not in kept
    assert [item.deployment_digest for item in await hub.clusters.items("eu-1", 0)] == [digest(placed)]
