"""What is placed where: uploads, facts and invites come in, items come out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cellward.documents.dsse import parse_envelope
from cellward.documents.facts import Selector
from cellward.documents.names import CellKey
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cellward.wire.v1 import link_pb2, types_pb2
from hub.documents.index import index_payload
from hub.documents.rows import document_row
from hub.placement.delivery import Invited, differences
from tests.fakes.rooms import CART, World
from tests.fakes.signed import NOW, digest, forged


async def _refused(world: World, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await world.documents.accept(list(envelopes))
    return caught.value.code


async def test_deployment_reaches_matching_clusters_only(world: World) -> None:
    """Environment, selector and allowed projects choose; facts decide, never a name alone."""
    await world.join("eu-1", "dev", region="eu")
    await world.join("us-1", "dev", region="us")
    await world.join("eu-2", "prod", region="eu")
    await world.join("eu-3", "dev", region="eu", projects=("bank",))
    release = world.author.release()
    deployment = world.author.deployment(release, 1, "dev", selector=Selector(regions=("eu",)))
    accepted = await world.documents.accept([release, deployment])
    assert accepted.clusters == ("eu-1",)
    item = (await world.clusters.items("eu-1", 0))[0]
    assert item.key == CART
    assert item.evidence == (digest(release),)


async def test_highest_sequence_wins_and_evidence_names_fallback_and_approvals(world: World) -> None:
    """What an agent needs to verify is named: release, approvals for this environment, release to fall back to."""
    await world.join("eu-1", "dev")
    old, new = world.author.release(version="1"), world.author.release(version="2")
    first = world.author.deployment(old, 1)
    second = world.author.deployment(new, 2, "dev", "prod", fallback=digest(old))
    yes = world.author.approval(digest(second), "dev")
    elsewhere = world.author.approval(digest(second), "prod")
    await world.documents.accept([old, first])
    await world.documents.accept([new, second, yes, elsewhere])
    item = (await world.clusters.items("eu-1", 0))[-1]
    assert item.deployment_digest == digest(second)
    assert item.evidence == (digest(new), digest(yes), digest(old))
    # An older one that arrives late moves nothing.
    late = world.author.deployment(old, 1, "dev", selector=Selector(environments=("dev",)))
    assert await _refused(world, late) == "fleet/sequence-taken"
    assert (await world.digests("eu-1"))[-1] == digest(second)


async def test_deployment_waits_for_its_release(world: World) -> None:
    """A package that is not complete is not handed out; it is as soon as the rest arrives."""
    await world.join("eu-1")
    release = world.author.release()
    assert (await world.documents.accept([world.author.deployment(release)])).clusters == ()
    assert (await world.documents.accept([release])).clusters == ("eu-1",)


@pytest.mark.parametrize("named", ["as release", "as fallback"])
async def test_a_deployment_that_names_anothers_release_gets_nobody_to_see_it(world: World, named: str) -> None:
    """A release is configuration: an author of one project has none of another's delivered to his own cluster."""
    await world.join("eu-1", projects=("shop",))
    theirs, ours = world.author.release("vault", project="bank"), world.author.release()
    await world.documents.accept([theirs, ours])
    first, second = (ours, digest(theirs)) if named == "as fallback" else (theirs, None)
    await world.documents.accept([world.author.deployment(first, fallback=second)])
    assert digest(theirs) not in await world.clusters.placed("eu-1")


async def test_same_upload_twice_changes_no_revision(world: World) -> None:
    """Uploading is idempotent: nobody is woken for nothing."""
    await world.join("eu-1")
    release = world.author.release()
    batch = [release, world.author.deployment(release)]
    await world.documents.accept(batch)
    before = await world.clusters.revision("eu-1")
    assert (await world.documents.accept(batch)).clusters == ()
    assert await world.clusters.revision("eu-1") == before


async def test_changed_facts_place_again_and_take_nothing_away(world: World) -> None:
    """V14: a cluster that stops matching keeps its item; one that starts to match gets one."""
    await world.join("eu-1", "prod")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release, 1, "dev")])
    assert await world.digests("eu-1") == []
    await world.join("eu-1", "dev", "prod")
    assert len(await world.digests("eu-1")) == 1
    await world.join("eu-1", "prod")
    assert len(await world.digests("eu-1")) == 1


async def test_tombstone_replaces_the_deployment(world: World) -> None:
    """A cell ends only by a signed tombstone, which is an item like any other."""
    await world.join("eu-1")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    end = world.author.tombstone(2)
    await world.documents.accept([end])
    assert (await world.digests("eu-1"))[-1] == digest(end)


async def test_narrowing_survives_a_new_deployment_and_moves_nothing(world: World) -> None:
    """Hold and quarantine change the hub's word alone, and stay until lifted."""
    await world.join("eu-1")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    before = await world.digests("eu-1")
    await world.clusters.narrow("eu-1", CART, "hold")
    item = (await world.clusters.items("eu-1", 0))[-1]
    assert (item.hub_state, [item.deployment_digest]) == ("hold", before)
    other = world.author.release(version="2")
    await world.documents.accept([other, world.author.deployment(other, 2)])
    assert (await world.clusters.items("eu-1", 0))[-1].hub_state == "hold"
    with pytest.raises(CellwardError) as caught:
        await world.clusters.narrow("eu-1", CellKey("shop", "nothing", "dev"), "hold")
    assert caught.value.code == "fleet/unknown-cell"


async def test_start_places_what_was_kept_just_before_the_end(world: World) -> None:
    """A hub that died between keeping a document and placing it places it at its next start."""
    await world.join("eu-1")
    release = world.author.release()
    for envelope in (release, world.author.deployment(release)):
        row = document_row(index_payload(parse_envelope(envelope)), envelope)
        await world.store.documents.put(replace(row, standing="verified"))
    assert not await world.digests("eu-1")
    again = world.again()
    await again.start()
    assert len(await again.clusters.items("eu-1", 0)) == 1


@pytest.mark.parametrize("then", ["a restart", "another Hello"])
async def test_v13_facts_that_were_kept_and_not_placed_are_made_up_for(world: World, then: str) -> None:
    """A hub that ended after keeping what an agent said and before placing by it: what is owed is in the row."""
    await world.join("eu-1", "prod")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    await world.documents.judge_again()
    assert await world.digests("eu-1") == []
    row = await world.store.clusters.get("eu-1")
    assert row is not None
    report = {"facts": {**row.report["facts"], "environments": ["dev"]}}
    await world.store.clusters.update_seen("eu-1", NOW, report)
    again = world.again()
    if then == "a restart":
        await again.start()
    else:
        facts = types_pb2.ClusterFacts(uid="uid-eu-1", environments=["dev"], projects=["*"])
        await again.clusters.hello("eu-1", link_pb2.Hello(facts=facts))
    assert len(await again.clusters.items("eu-1", 0)) == 1


async def test_a_number_of_the_future_that_was_kept_stands_before_nobody(world: World) -> None:
    """An older hub, or one whose clock was wrong, kept it: agents refuse it, so it neither leads nor is delivered."""
    await world.join("eu-1")
    release = world.author.release()
    await world.documents.accept([release])
    ahead = world.author.tombstone(milliseconds(NOW) + 86_400_000)
    row = document_row(index_payload(parse_envelope(ahead)), ahead)
    await world.store.documents.put(replace(row, standing="verified"))
    again = world.again()
    await again.start()
    deployment = world.author.deployment(release, milliseconds(NOW))
    assert (await again.documents.accept([deployment])).clusters == ("eu-1",)
    assert [item.deployment_digest for item in await again.clusters.items("eu-1", 0)] == [digest(deployment)]


async def test_v16_names_an_older_hub_kept_reach_no_agent(world: World) -> None:
    """V16: an item that every agent would refuse at every reconnect stays where it is, and the others go out."""
    await world.join("eu-1")
    bad = forged(world.author, "tombstone", environments=["dev"], sequence=1)
    row = document_row(index_payload(parse_envelope(bad)), bad)
    await world.store.documents.put(replace(row, cell="a--b"))
    await world.store.desired.upsert("eu-1", CellKey("shop", "a--b", "prod"), row.digest)
    again = world.again()
    await again.start()
    release = world.author.release(cell="web")
    await again.documents.accept([release, world.author.deployment(release, cell="web")])
    assert [item.key for item in await again.clusters.items("eu-1", 0)] == [("shop", "web", "dev")]


async def test_a_cluster_is_given_what_its_invite_and_its_facts_both_name(world: World) -> None:
    """A development cluster that claims production is given nothing of it; the invite widens and narrows at once."""
    release = world.author.release()
    dev, prod = (world.author.deployment(release, 1, name, cell="cart") for name in ("dev", "prod"))
    await world.documents.accept([release, dev, prod])
    await world.clusters.create_cluster("eu-1", "test", Invited(("dev",), projects=("shop",)))
    await world.join("eu-1", "dev", "prod")
    assert await world.digests("eu-1") == [digest(dev)]
    assert await world.clusters.placed("eu-1") == {digest(dev), digest(release)}
    await world.invite("eu-1", Invited(("dev", "prod"), projects=("shop",)))
    assert set(await world.digests("eu-1")) == {digest(dev), digest(prod)}
    await world.invite("eu-1", Invited(("dev", "prod"), projects=("bank",)))
    assert (await world.digests("eu-1"), await world.clusters.placed("eu-1")) == ([], frozenset())
    before = await world.clusters.revision("eu-1")
    await world.invite("eu-1", Invited(("dev",)))
    # What was withheld comes with a revision the agent has not passed.
    assert [item.deployment_digest for item in await world.clusters.items("eu-1", before)] == [digest(dev)]


async def test_a_region_or_label_counts_where_invite_and_facts_say_the_same(world: World) -> None:
    """An agent that says it is in another region, or has another label, is not selected by what it says."""
    releases = {name: world.author.release(cell=name) for name in ("by-region", "by-label", "by-both")}
    chosen = {
        name: world.author.deployment(releases[name], 1, "dev", cell=name, selector=selector)
        for name, selector in (
            ("by-region", Selector(regions=("eu",))),
            ("by-label", Selector(labels={"tier": "edge"})),
            ("by-both", Selector(regions=("eu",), labels={"tier": "edge"})),
        )
    }
    await world.documents.accept([*releases.values(), *chosen.values()])
    named = {"right": Invited(("dev",), region="eu", labels={"tier": "edge"}), "none": Invited(("dev",))}
    named["other"] = Invited(("dev",), region="us", labels={"tier": "core"})
    facts = types_pb2.ClusterFacts(environments=["dev"], region="eu", labels={"tier": "edge"}, projects=["*"])
    for name, invited in named.items():
        facts.uid = f"uid-{name}"
        await world.clusters.create_cluster(name, "test", invited)
        await world.clusters.hello(name, link_pb2.Hello(facts=facts))
        wanted = chosen.values() if name == "right" else ()
        assert set(await world.digests(name)) == set(map(digest, wanted))
        view = await world.clusters.cluster(name)
        assert view.facts is not None
        assert view.invited == invited
        told = differences(view.invited, view.facts)
        assert [text.partition(":")[0] for text in told] == ([] if name == "right" else ["region", "labels"])
    # What the invite of an older hub did not name selects nothing either.
    assert Invited.from_json({"environments": ["dev"], "production": False, "projects": ["*"]}) == named["none"]


async def test_a_fleet_that_says_its_facts_at_once_is_placed_in_few_transactions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given what its own facts and invite choose."""
    release = world.author.release()
    dev = world.author.deployment(release)
    await world.documents.accept([release, dev])
    names = [f"eu-{number}" for number in range(16)]
    for name in names:
        await world.clusters.create_cluster(name, "test", Invited(("dev",) if name != "eu-3" else ("prod",)))
    transactions = 0
    transact = world.clusters._placing._transact

    async def counted(job: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return await transact(job)

    monkeypatch.setattr(world.clusters._placing, "_transact", counted)
    facts = types_pb2.ClusterFacts(uid="uid", environments=["dev"], projects=["*"])
    await asyncio.gather(*(world.clusters.hello(name, link_pb2.Hello(facts=facts)) for name in names))
    given = [await world.digests(name) for name in names]
    assert given == [[] if name == "eu-3" else [digest(dev)] for name in names]
    assert 1 <= transactions <= 6


async def test_a_cluster_nothing_was_named_for_is_given_nothing(world: World) -> None:
    """Deny by default, and where the two disagree on production."""
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    await world.clusters.create_cluster("eu-1", "test")
    await world.clusters.create_cluster("eu-2", "test", Invited(("dev",), production=True))
    for name in ("eu-1", "eu-2"):
        await world.join(name, "dev")
        assert await world.digests(name) == []


async def test_v16_a_hello_that_says_the_same_places_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cluster was placed by is compared as it was kept, also after another invite."""
    await world.join("eu-1", "dev", region="eu")
    placed: list[str] = []
    place = world.clusters.moves._place

    async def counted(cluster: str) -> None:
        placed.append(cluster)
        await place(cluster)

    monkeypatch.setattr(world.clusters.moves, "_place", counted)
    await world.join("eu-1", "dev", region="eu")
    await world.invite("eu-1", Invited(("dev", "prod"), region="eu", labels={"tier": "gold"}))
    await world.join("eu-1", "dev", region="eu")
    assert placed == []
    await world.join("eu-1", "dev", "prod", region="eu")
    await world.join("eu-1", "dev", "prod", region="eu")
    assert placed == ["eu-1"]
