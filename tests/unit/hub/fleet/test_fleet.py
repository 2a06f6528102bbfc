"""The fleet's service over the store in memory: uploads, placement, reports."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cellward.documents import canonical
from cellward.documents.dsse import dump_envelope, parse_envelope, sign_document
from cellward.documents.facts import Selector
from cellward.documents.model import Tombstone
from cellward.documents.names import CellKey
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cellward.wire.codec import item_from_wire, item_to_wire
from cellward.wire.v1 import link_pb2, types_pb2
from hub.fleet import documents, judging
from hub.fleet.delivery import Invited, differences
from hub.fleet.index import index_envelope
from hub.fleet.realm import RealmService
from hub.fleet.rows import document_row
from hub.fleet.service import FleetService
from hub.store.documents import Usage
from hub.store.interfaces import Tables
from hub.store.sql.store import SqlStore
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused
from tests.fakes.signed import LATER, NOW, Author, Keys, digest, new_root
from tests.fakes.store import scratch_store

CART = CellKey("shop", "cart", "dev")
#: For tests in which the agent's own facts choose.
ANYTHING = Invited(("dev", "prod", "test", "e" * 12))


@dataclass
class World:
    """A fleet with one realm and one author."""

    store: SqlStore
    realm: RealmService
    fleet: FleetService
    author: Author
    clock: ManualClock
    keys: Keys

    async def join(self, name: str, *environments: str, region: str = "", projects: tuple[str, ...] = ("*",)) -> None:
        """Create a cluster and let its agent say hello."""
        if await self.store.clusters.get(name) is None:
            await self.fleet.create_cluster(name, "test", replace(ANYTHING, region=region))
        facts = types_pb2.ClusterFacts(
            uid=f"uid-{name}", environments=environments or ("dev",), region=region, projects=projects
        )
        await self.fleet.hello(name, link_pb2.Hello(facts=facts))

    async def invite(self, name: str, invited: Invited) -> None:
        """Say what a cluster is meant to be."""

        async def mint(_: Tables) -> None:
            return None

        await self.fleet.invite(name, invited, mint)

    async def digests(self, cluster: str) -> list[str]:
        """Deployment digests a cluster is meant to have."""
        return [item.deployment_digest for item in await self.fleet.items(cluster, 0)]


@pytest.fixture
async def world() -> World:
    """A fresh fleet with a realm."""
    clock = ManualClock(NOW)
    store = scratch_store(clock)
    realm = RealmService(store.meta)
    root, author = new_root()
    author.realm = (await realm.adopt(root)).realm
    keys = Keys(author)
    return World(store, realm, FleetService(store, realm, clock, keys), author, clock, keys)


async def _refused(world: World, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await world.fleet.accept(list(envelopes))
    return caught.value.code


async def test_deployment_reaches_matching_clusters_only(world: World) -> None:
    """Environment, selector and allowed projects choose; facts decide, never a name alone."""
    await world.join("eu-1", "dev", region="eu")
    await world.join("us-1", "dev", region="us")
    await world.join("eu-2", "prod", region="eu")
    await world.join("eu-3", "dev", region="eu", projects=("bank",))
    release = world.author.release()
    deployment = world.author.deployment(release, 1, "dev", selector=Selector(regions=("eu",)))
    accepted = await world.fleet.accept([release, deployment])
    assert accepted.clusters == ("eu-1",)
    item = (await world.fleet.items("eu-1", 0))[0]
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
    await world.fleet.accept([old, first])
    await world.fleet.accept([new, second, yes, elsewhere])
    item = (await world.fleet.items("eu-1", 0))[-1]
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
    assert (await world.fleet.accept([world.author.deployment(release)])).clusters == ()
    assert (await world.fleet.accept([release])).clusters == ("eu-1",)


@pytest.mark.parametrize("named", ["as release", "as fallback"])
async def test_a_deployment_that_names_anothers_release_gets_nobody_to_see_it(world: World, named: str) -> None:
    """A release is configuration: an author of one project has none of another's delivered to his own cluster."""
    await world.join("eu-1", projects=("shop",))
    theirs, ours = world.author.release("vault", project="bank"), world.author.release()
    await world.fleet.accept([theirs, ours])
    first, second = (ours, digest(theirs)) if named == "as fallback" else (theirs, None)
    await world.fleet.accept([world.author.deployment(first, fallback=second)])
    assert digest(theirs) not in await world.fleet.placed("eu-1")


async def test_same_upload_twice_changes_no_revision(world: World) -> None:
    """Uploading is idempotent: nobody is woken for nothing."""
    await world.join("eu-1")
    release = world.author.release()
    batch = [release, world.author.deployment(release)]
    await world.fleet.accept(batch)
    before = await world.fleet.revision("eu-1")
    assert (await world.fleet.accept(batch)).clusters == ()
    assert await world.fleet.revision("eu-1") == before


async def test_a_document_is_pending_until_as_many_owners_signed_as_must(world: World) -> None:
    """One signature of two is kept and moves nothing; the second owner's delivers it, narrowed as before."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    await world.fleet.narrow("eu-1", CART, "hold")
    world.keys.need(deployment=2)
    deployment = world.author.deployment(release, 2)
    accepted = await world.fleet.accept([deployment])
    assert (accepted.entries[0].standing, accepted.entries[0].owners, accepted.clusters) == ("pending", ("ada",), ())
    before = await world.fleet.revision("eu-1")
    assert (await world.fleet.accept([bob.cosign(deployment)], dry_run=True)).clusters == ("eu-1",)
    assert await world.fleet.revision("eu-1") == before
    assert (await world.fleet.accept([bob.cosign(deployment)])).clusters == ("eu-1",)
    item = (await world.fleet.items("eu-1", before))[0]
    assert (item.deployment_digest, item.hub_state) == (digest(deployment), "hold")
    kept = await world.fleet.document(digest(deployment))
    assert {signature.keyid for signature in parse_envelope(kept.envelope).signatures} == {
        world.author.signer.keyid, bob.signer.keyid,
    }  # fmt: skip
    # Known signatures again, and nobody is woken.
    assert (await world.fleet.accept([deployment, bob.cosign(deployment)])).clusters == ()


async def test_a_verified_document_that_gains_a_signature_is_told_again(world: World) -> None:
    """What an agent refused for want of a second owner reaches it with the second signature."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    release = world.author.release()
    deployment = world.author.deployment(release)
    await world.fleet.accept([release, deployment])
    before = await world.fleet.revision("eu-1")
    assert (await world.fleet.accept([bob.cosign(deployment)])).clusters == ("eu-1",)
    assert (await world.fleet.items("eu-1", before))[0].deployment_digest == digest(deployment)


async def test_signatures_that_do_not_count_are_not_kept(world: World) -> None:
    """Of an upload only what counts stays: no stranger's, no compromised key's, one of each owner."""
    mallory, ada2 = Author(world.author.realm, "mallory"), Author(world.author.realm, "ada")
    stolen = Author(world.author.realm, "carol")
    world.keys.enrol(ada2)
    world.keys.enrol(stolen, state="compromised")
    release = world.author.release()
    parsed = parse_envelope(release)
    signed = [parse_envelope(who.cosign(release)).signatures[0] for who in (mallory, stolen, ada2)]
    junk = tuple(replace(parsed.signatures[0], sig=bytes([number]) * 64) for number in range(12))
    everything = replace(parsed, signatures=(*signed, *junk, parsed.signatures[0]))
    accepted = await world.fleet.accept([dump_envelope(everything)])
    assert (accepted.entries[0].standing, accepted.entries[0].owners) == ("verified", ("ada",))
    kept = parse_envelope((await world.fleet.document(digest(release))).envelope).signatures
    assert [signature.keyid for signature in kept] == [ada2.signer.keyid]
    for who in (mallory, stolen):
        assert await _refused(world, who.cosign(release)) == "fleet/unverified-document"


async def test_a_changed_keyring_judges_what_is_kept_again(world: World) -> None:
    """A compromised key's documents move nothing any more; a retired one still vouches for what was verified."""
    await world.join("eu-1")
    release = world.author.release()
    first, second = world.author.deployment(release, 1), world.author.deployment(release, 2)
    await world.fleet.accept([release, first, second])
    world.keys.enrol(world.author, state="retired")
    assert await world.fleet.judge_again()
    assert not await world.fleet.judge_again()
    await world.join("eu-2")
    assert await world.digests("eu-2") == [digest(second)]
    world.keys.enrol(world.author, state="compromised")
    await world.fleet.judge_again()
    assert {row.standing for row in (await world.fleet.documents()).items} == {"unverified"}
    await world.join("eu-3")
    assert await world.digests("eu-3") == []
    # V14: what was given stays; whether it still counts the agent asks its own keyring.
    assert await world.digests("eu-1") == [digest(second)]


async def test_a_retired_author_adds_nothing_but_a_release_that_is_named(world: World) -> None:
    """A Deployment may name a release whose signer is retired; beyond that such a key adds nothing."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    before, release, back = (bob.release(version=version) for version in ("0", "1", "2"))
    await world.fleet.accept([before])
    world.keys.enrol(bob, state="retired")
    await world.fleet.judge_again()
    assert (await world.fleet.document(digest(before))).standing == "verified"
    assert await _refused(world, release) == "fleet/unverified-document"
    assert await _refused(world, bob.deployment(release), release) == "fleet/unverified-document"
    named = world.author.deployment(release, 1, fallback=digest(back))
    assert await _refused(world, bob.release(version="3"), named) == "fleet/unverified-document"
    await world.fleet.accept([release, named])
    assert (await world.fleet.accept([back])).entries[0].standing == "verified"
    assert await world.digests("eu-1") == [digest(named)]
    # What a compromised key's Deployment names is named by nobody.
    eve, last = Author(world.author.realm, "eve"), bob.release(version="4")
    world.keys.enrol(eve)
    await world.fleet.accept([eve.deployment(last, 2)])
    world.keys.enrol(eve, state="compromised")
    await world.fleet.judge_again()
    assert await _refused(world, last) == "fleet/unverified-document"
    world.keys.enrol(bob, state="compromised")
    assert await _refused(world, release) == "fleet/unverified-document"


async def test_a_document_a_raised_threshold_leaves_short_waits(world: World) -> None:
    """A threshold that was raised holds for what is kept as well."""
    await world.join("eu-1")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    world.keys.need(deployment=2)
    await world.fleet.judge_again()
    await world.join("eu-2")
    assert await world.digests("eu-2") == []


async def test_a_restart_judges_by_the_keyring_of_now(world: World) -> None:
    """A key that was compromised while the hub was down counts for nothing from the first placement on."""
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    world.keys.enrol(world.author, state="compromised")
    again = FleetService(world.store, world.realm, world.clock, world.keys)
    await again.start()
    await world.join("eu-1")
    assert await again.items("eu-1", 0) == []


async def test_all_of_it_is_judged_again_a_page_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """V4: also what does not fit into one page; what is to be placed is placed when all of it was judged."""
    monkeypatch.setattr(judging, "_PAGE", 2)
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    releases = [world.author.release(version=str(number)) for number in range(5)]
    placing = [world.author.deployment(one, number) for number, one in enumerate(releases, 1)]
    await world.fleet.accept([*releases, *placing])
    world.keys.enrol(world.author, state="compromised")
    assert await world.fleet.judge_again()
    assert not await world.fleet.judge_again()
    assert {row.standing for row in (await world.fleet.documents()).items} == {"unverified"}
    world.keys.enrol(bob)
    await world.fleet.accept([bob.cosign(document) for document in (releases[0], placing[0])])
    assert (await world.digests("eu-1"))[-1] == digest(placing[0])
    world.keys.enrol(world.author, state="active")
    assert await world.fleet.judge_again()
    assert (await world.digests("eu-1"))[-1] == digest(placing[4])


async def test_v16_a_dry_run_leaves_nothing_and_wakes_nobody(world: World) -> None:
    """It is decided as the upload would be, and undone: what is kept, placed and told stays as it was."""
    await world.join("eu-1")
    release, changes = world.author.release(), world.store.changes
    topics = ("documents", "desired:eu-1", "clusters")
    before = changes.stamp(*topics), await world.store.desired.revision("eu-1")
    tried = await world.fleet.accept([release, world.author.deployment(release)], dry_run=True)
    assert tried.clusters == ("eu-1",)
    assert (changes.stamp(*topics), await world.store.desired.revision("eu-1")) == before
    assert await world.store.documents.usage("shop") == Usage()
    assert await world.store.documents.keys() == frozenset()


@pytest.mark.parametrize("then", ["a restart", "another Hello"])
async def test_v13_facts_that_were_kept_and_not_placed_are_made_up_for(world: World, then: str) -> None:
    """A hub that ended after keeping what an agent said and before placing by it: what is owed is in the row."""
    await world.join("eu-1", "prod")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    await world.fleet.judge_again()
    assert await world.digests("eu-1") == []
    row = await world.store.clusters.get("eu-1")
    assert row is not None
    report = {"facts": {**row.report["facts"], "environments": ["dev"]}}
    await world.store.clusters.update_seen("eu-1", NOW, report)
    again = FleetService(world.store, world.realm, world.clock, world.keys)
    if then == "a restart":
        await again.start()
    else:
        facts = types_pb2.ClusterFacts(uid="uid-eu-1", environments=["dev"], projects=["*"])
        await again.hello("eu-1", link_pb2.Hello(facts=facts))
    assert len(await again.items("eu-1", 0)) == 1


async def test_unsigned_payloads_are_for_dry_runs_alone(world: World) -> None:
    """What would happen can be asked without a signature; nothing of it is kept."""
    await world.join("eu-1")
    release = world.author.release()
    bare = [_bare(release), _bare(world.author.deployment(release))]
    assert (await world.fleet.accept(bare, dry_run=True)).clusters == ("eu-1",)
    assert not (await world.fleet.documents()).items
    assert await _refused(world, *bare) == "fleet/unverified-document"


async def test_without_a_keyring_nothing_is_taken(world: World) -> None:
    """Before the first publication nothing can be verified, so nothing is kept."""
    world.keys.absent = True
    assert await _refused(world, world.author.release()) == "fleet/no-keyring"


async def test_what_waits_for_signatures_takes_no_number(world: World) -> None:
    """A Deployment that nobody completes stands in the way of none that is, also under its own sequence."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    world.keys.need(deployment=2)
    release = world.author.release()
    left = world.author.deployment(release, 1)
    assert (await world.fleet.accept([release, left])).entries[1].standing == "pending"
    whole = world.author.deployment(release, 1, "dev", selector=Selector(environments=("dev",)))
    assert digest(whole) != digest(left)
    parsed = parse_envelope(whole)
    signatures = (*parsed.signatures, *parse_envelope(bob.cosign(whole)).signatures)
    await world.fleet.accept([dump_envelope(replace(parsed, signatures=signatures))])
    assert await world.digests("eu-1") == [digest(whole)]


async def test_changed_facts_place_again_and_take_nothing_away(world: World) -> None:
    """V14: a cluster that stops matching keeps its item; one that starts to match gets one."""
    await world.join("eu-1", "prod")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release, 1, "dev")])
    assert await world.digests("eu-1") == []
    await world.join("eu-1", "dev", "prod")
    assert len(await world.digests("eu-1")) == 1
    await world.join("eu-1", "prod")
    assert len(await world.digests("eu-1")) == 1


async def test_tombstone_replaces_the_deployment(world: World) -> None:
    """A cell ends only by a signed tombstone, which is an item like any other."""
    await world.join("eu-1")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    end = world.author.tombstone(2)
    await world.fleet.accept([end])
    assert (await world.digests("eu-1"))[-1] == digest(end)


async def test_narrowing_survives_a_new_deployment_and_moves_nothing(world: World) -> None:
    """Hold and quarantine change the hub's word alone, and stay until lifted."""
    await world.join("eu-1")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    before = await world.digests("eu-1")
    await world.fleet.narrow("eu-1", CART, "hold")
    item = (await world.fleet.items("eu-1", 0))[-1]
    assert (item.hub_state, [item.deployment_digest]) == ("hold", before)
    other = world.author.release(version="2")
    await world.fleet.accept([other, world.author.deployment(other, 2)])
    assert (await world.fleet.items("eu-1", 0))[-1].hub_state == "hold"
    with pytest.raises(CellwardError) as caught:
        await world.fleet.narrow("eu-1", CellKey("shop", "nothing", "dev"), "hold")
    assert caught.value.code == "fleet/unknown-cell"


async def test_start_places_what_was_kept_just_before_the_end(world: World) -> None:
    """A hub that died between keeping a document and placing it places it at its next start."""
    await world.join("eu-1")
    release = world.author.release()
    for envelope in (release, world.author.deployment(release)):
        row = document_row(index_envelope(envelope), envelope)
        await world.store.documents.put(replace(row, standing="verified"))
    assert not await world.digests("eu-1")
    again = FleetService(world.store, world.realm, world.clock, world.keys)
    await again.start()
    assert len(await again.items("eu-1", 0)) == 1


async def test_upload_is_all_or_nothing(world: World) -> None:
    """V16: one bad document among good ones, and none is kept."""
    good = world.author.release()
    stranger = Author("sha256:" + "9" * 64).release()
    assert await _refused(world, good, stranger) == "fleet/foreign-realm"
    assert await _refused(world, good, b"{}") == "document/bad-envelope"
    assert not (await world.fleet.documents()).items


def _bare(envelope: bytes) -> bytes:
    return dump_envelope(replace(parse_envelope(envelope), signatures=()))


def _forged(author: Author, kind: str, **fields: object) -> bytes:
    body = {"schema": f"cellward.{kind}/v1", "realm": author.realm, "project": "shop", "cell": "cart", **fields}
    envelope = sign_document(canonical.encode(body), f"application/vnd.cellward.{kind}.v1+json", (author.signer,))
    return dump_envelope(envelope)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda author: b"not json", "document/not-json"),
        (lambda author: b"x" * (2 * 1024**2 + 1), "fleet/document-too-large"),
        (lambda author: _bare(author.release()), "fleet/unverified-document"),
        (lambda author: _forged(author, "release", novelty=True), "document/malformed"),
        (lambda author: _forged(author, "secret"), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", schema="cellward.deployment/v1"), "fleet/bad-document"),
        (lambda author: _forged(author, "release", project="Shop"), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", environments=["dev"], sequence=0), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", environments=["dev", "dev"], sequence=1), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", environments=[], sequence=1), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", environments=["dev"], sequence=True), "fleet/bad-document"),
        (lambda author: _forged(author, "release", cell="a--b"), "fleet/bad-document"),
        (lambda author: _forged(author, "release", cell="c" * 25), "fleet/bad-document"),
        (lambda author: _forged(author, "release", project="p" * 21), "fleet/bad-document"),
        (lambda author: _forged(author, "tombstone", environments=["e" * 13], sequence=1), "fleet/bad-document"),
        (lambda author: author.approval("sha256:" + "1" * 64), "fleet/bad-document"),
        (
            lambda author: _forged(
                author, "deployment", environments=["dev"], sequence=1, releaseDigest="sha256:" + "1" * 64,
                clusterSelector={},
            ),
            "fleet/bad-document",
        ),
    ],
)  # fmt: skip
async def test_malformed_documents_are_refused_with_a_code(world: World, make: object, code: str) -> None:
    """V16: what nobody could take is refused at the door, and nothing is kept."""
    assert await _refused(world, make(world.author)) == code  # type: ignore[operator]
    assert not (await world.fleet.documents()).items


async def test_longest_names_and_the_last_sequence_are_carried(world: World) -> None:
    """What agents take the hub takes: 20, 24 and 12 characters, and a number ten minutes ahead of its clock."""
    await world.join("eu-1", "e" * 12)
    last = milliseconds(world.clock.now()) + 600_000
    assert await _refused(world, world.author.tombstone(last + 1)) == "document/number-ahead"
    end = world.author.sign(
        Tombstone(
            realm=world.author.realm, project="p" * 20, cell="c" * 24, environments=("e" * 12,), sequence=last,
            delete_data=False, issued_at=NOW, not_after=LATER,
        )
    )  # fmt: skip
    assert (await world.fleet.accept([end])).clusters == ("eu-1",)
    assert item_from_wire(item_to_wire((await world.fleet.items("eu-1", 0))[0])).project == "p" * 20


async def test_what_no_agent_takes_at_this_time_is_refused(world: World) -> None:
    """A document that ran out, or of a clock that is ahead, is told to its author; what is kept already comes again."""
    release = world.author.release()
    over = world.author.deployment(release, 1)
    await world.fleet.accept([release, over])
    world.clock.advance(366 * 86_400)
    assert await _refused(world, world.author.tombstone(2)) == "document/expired"
    assert (await world.fleet.accept([over])).clusters == ()
    world.clock.advance(-366 * 86_400 - 601)
    assert await _refused(world, world.author.release(version="2")) == "document/issued-in-the-future"
    world.clock.advance(1)
    await world.fleet.accept([world.author.release(version="2")])


async def test_a_number_of_the_future_that_was_kept_stands_before_nobody(world: World) -> None:
    """An older hub, or one whose clock was wrong, kept it: agents refuse it, so it neither leads nor is delivered."""
    await world.join("eu-1")
    release = world.author.release()
    await world.fleet.accept([release])
    ahead = world.author.tombstone(milliseconds(NOW) + 86_400_000)
    row = document_row(index_envelope(ahead), ahead)
    await world.store.documents.put(replace(row, standing="verified"))
    again = FleetService(world.store, world.realm, world.clock, world.keys)
    await again.start()
    deployment = world.author.deployment(release, milliseconds(NOW))
    assert (await again.accept([deployment])).clusters == ("eu-1",)
    assert [item.deployment_digest for item in await again.items("eu-1", 0)] == [digest(deployment)]


async def test_v16_names_an_older_hub_kept_reach_no_agent(world: World) -> None:
    """V16: an item that every agent would refuse at every reconnect stays where it is, and the others go out."""
    await world.join("eu-1")
    bad = _forged(world.author, "tombstone", environments=["dev"], sequence=1)
    row = document_row(index_envelope(bad), bad)
    await world.store.documents.put(replace(row, cell="a--b"))
    await world.store.desired.upsert("eu-1", CellKey("shop", "a--b", "prod"), row.digest)
    again = FleetService(world.store, world.realm, world.clock, world.keys)
    await again.start()
    release = world.author.release(cell="web")
    await again.accept([release, world.author.deployment(release, cell="web")])
    assert [item.key for item in await again.items("eu-1", 0)] == [("shop", "web", "dev")]


async def test_upload_before_a_root_is_refused() -> None:
    """Without a realm there is nothing to compare a document with."""
    store = scratch_store()
    fleet = FleetService(store, RealmService(store.meta), ManualClock(), Keys())
    with pytest.raises(CellwardError) as caught:
        await fleet.accept([Author("sha256:" + "1" * 64).release()])
    assert caught.value.code == "fleet/no-realm"


async def test_reports_about_nothing_leave_nothing(world: World) -> None:
    """An agent cannot fill the store with cells it was never meant to have."""
    await world.join("eu-1")
    status = link_pb2.CellStatus(project="x", cell="y", environment="z", phase=link_pb2.CELL_PHASE_READY)
    receipt = link_pb2.Receipt(project="x", cell="y", environment="z", deployment_digest="sha256:" + "1" * 64)
    await world.fleet.cell_status("eu-1", status)
    await world.fleet.receipt("eu-1", receipt)
    assert await world.fleet.cells() == ()


async def test_hello_with_facts_no_document_could_name_is_refused(world: World) -> None:
    """V16: malformed facts are refused with a code and change nothing that was known."""
    await world.join("eu-1", "dev")
    with refused("document/malformed"):
        await world.join("eu-1", "Not A Name")
    facts = (await world.fleet.cluster("eu-1")).facts
    assert facts is not None
    assert facts.environments == ("dev",)


async def test_presence_follows_the_newest_stream(world: World) -> None:
    """The end of an old stream does not make a reconnected agent look gone."""
    await world.join("eu-1")
    await world.fleet.connected("eu-1", "old")
    await world.fleet.connected("eu-1", "new")
    await world.fleet.disconnected("eu-1", "old")
    assert (await world.fleet.cluster("eu-1")).connected
    await world.fleet.disconnected("eu-1", "new")
    assert not (await world.fleet.cluster("eu-1")).connected


async def test_a_cluster_is_given_what_its_invite_and_its_facts_both_name(world: World) -> None:
    """A development cluster that claims production is given nothing of it; the invite widens and narrows at once."""
    release = world.author.release()
    dev, prod = (world.author.deployment(release, 1, name, cell="cart") for name in ("dev", "prod"))
    await world.fleet.accept([release, dev, prod])
    await world.fleet.create_cluster("eu-1", "test", Invited(("dev",), projects=("shop",)))
    await world.join("eu-1", "dev", "prod")
    assert await world.digests("eu-1") == [digest(dev)]
    assert await world.fleet.placed("eu-1") == {digest(dev), digest(release)}
    await world.invite("eu-1", Invited(("dev", "prod"), projects=("shop",)))
    assert set(await world.digests("eu-1")) == {digest(dev), digest(prod)}
    await world.invite("eu-1", Invited(("dev", "prod"), projects=("bank",)))
    assert (await world.digests("eu-1"), await world.fleet.placed("eu-1")) == ([], frozenset())
    before = await world.fleet.revision("eu-1")
    await world.invite("eu-1", Invited(("dev",)))
    # What was withheld comes with a revision the agent has not passed.
    assert [item.deployment_digest for item in await world.fleet.items("eu-1", before)] == [digest(dev)]


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
    await world.fleet.accept([*releases.values(), *chosen.values()])
    named = {"right": Invited(("dev",), region="eu", labels={"tier": "edge"}), "none": Invited(("dev",))}
    named["other"] = Invited(("dev",), region="us", labels={"tier": "core"})
    facts = types_pb2.ClusterFacts(environments=["dev"], region="eu", labels={"tier": "edge"}, projects=["*"])
    for name, invited in named.items():
        facts.uid = f"uid-{name}"
        await world.fleet.create_cluster(name, "test", invited)
        await world.fleet.hello(name, link_pb2.Hello(facts=facts))
        wanted = chosen.values() if name == "right" else ()
        assert set(await world.digests(name)) == set(map(digest, wanted))
        view = await world.fleet.cluster(name)
        assert view.facts is not None
        assert view.invited == invited
        told = differences(view.invited, view.facts)
        assert [text.partition(":")[0] for text in told] == ([] if name == "right" else ["region", "labels"])
    # What the invite of an older hub did not name selects nothing either.
    assert Invited.from_json({"environments": ["dev"], "production": False, "projects": ["*"]}) == named["none"]


async def test_a_cluster_nothing_was_named_for_is_given_nothing(world: World) -> None:
    """Deny by default, and where the two disagree on production."""
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release)])
    await world.fleet.create_cluster("eu-1", "test")
    await world.fleet.create_cluster("eu-2", "test", Invited(("dev",), production=True))
    for name in ("eu-1", "eu-2"):
        await world.join(name, "dev")
        assert await world.digests(name) == []


async def test_cluster_names_are_checked_and_never_taken_twice(world: World) -> None:
    """V3: one name, one cluster."""
    await world.fleet.create_cluster("eu-1", "ada")
    bad = "fleet/bad-cluster-name"
    for name, code in (("eu-1", "fleet/cluster-exists"), ("Eu", bad), ("a" * 41, bad)):
        with pytest.raises(CellwardError) as caught:
            await world.fleet.create_cluster(name, "ada")
        assert caught.value.code == code


async def test_first_root_stays(world: World) -> None:
    """One root, one hub: the same root again is fine, another one is refused; who waits for it hears it once."""
    heard: list[str] = []

    async def hear(realm: object) -> None:
        heard.append(str(realm))

    store = scratch_store()
    service = RealmService(store.meta)
    service.on_adopted.append(hear)
    root, _ = new_root()
    realm = await service.adopt(root)
    assert await service.adopt(root) == realm
    assert len(heard) == 1
    with pytest.raises(CellwardError) as caught:
        await service.adopt(new_root()[0])
    assert caught.value.code == "fleet/realm-adopted"
    with refused("policy/unverified"):
        await service.adopt(b"{}")
    assert await RealmService(store.meta).current() == realm


@pytest.mark.parametrize("step", ["_read", "_judge_one"])
@pytest.mark.parametrize("revoked", [False, True])
async def test_v16_v4_an_upload_that_takes_long_is_in_nobodys_way(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, revoked: bool
) -> None:
    """V16: cells are held while it is read or judged. V4: a key that is revoked meanwhile counts for nothing."""
    await world.join("eu-1", "dev")
    release = world.author.release()
    await world.fleet.accept([release, world.author.deployment(release, 1)])
    begun, go, real = threading.Event(), threading.Event(), getattr(documents, step)

    def slowly(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        begun.set()
        assert go.wait(20.0)
        return found

    monkeypatch.setattr(documents, step, slowly)
    second = world.author.deployment(release, 2)
    upload = asyncio.ensure_future(world.fleet.accept([second]))
    async with asyncio.timeout(20.0):
        while not begun.is_set():
            await asyncio.sleep(0.005)
        await world.fleet.narrow("eu-1", CART, "hold")
    if revoked:
        world.keys.entries.clear()
        world.keys.changes += 1
    go.set()
    if revoked:
        with pytest.raises(CellwardError, match="no signature"):
            await upload
    else:
        await upload
    assert ((await world.digests("eu-1"))[-1] == digest(second)) is not revoked
