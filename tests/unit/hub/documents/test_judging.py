"""What documents are worth by the keyring of now, and what changes when it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellward.documents.dsse import dump_envelope, parse_envelope
from cellward.errors import CellwardError
from hub.documents import judging
from tests.fakes.rooms import CART, World
from tests.fakes.signed import Author, digest


async def _refused(world: World, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await world.documents.accept(list(envelopes))
    return caught.value.code


async def test_a_document_is_pending_until_as_many_owners_signed_as_must(world: World) -> None:
    """One signature of two is kept and moves nothing; the second owner's delivers it, narrowed as before."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    await world.clusters.narrow("eu-1", CART, "hold")
    world.keys.need(deployment=2)
    deployment = world.author.deployment(release, 2)
    accepted = await world.documents.accept([deployment])
    assert (accepted.entries[0].standing, accepted.entries[0].owners, accepted.clusters) == ("pending", ("ada",), ())
    before = await world.clusters.revision("eu-1")
    assert (await world.documents.accept([bob.cosign(deployment)], dry_run=True)).clusters == ("eu-1",)
    assert await world.clusters.revision("eu-1") == before
    assert (await world.documents.accept([bob.cosign(deployment)])).clusters == ("eu-1",)
    item = (await world.clusters.items("eu-1", before))[0]
    assert (item.deployment_digest, item.hub_state) == (digest(deployment), "hold")
    kept = await world.documents.get(digest(deployment))
    assert {signature.keyid for signature in parse_envelope(kept.envelope).signatures} == {
        world.author.signer.keyid, bob.signer.keyid,
    }  # fmt: skip
    # Known signatures again, and nobody is woken.
    assert (await world.documents.accept([deployment, bob.cosign(deployment)])).clusters == ()


async def test_a_verified_document_that_gains_a_signature_is_told_again(world: World) -> None:
    """What an agent refused for want of a second owner reaches it with the second signature."""
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    world.keys.enrol(bob)
    release = world.author.release()
    deployment = world.author.deployment(release)
    await world.documents.accept([release, deployment])
    before = await world.clusters.revision("eu-1")
    assert (await world.documents.accept([bob.cosign(deployment)])).clusters == ("eu-1",)
    assert (await world.clusters.items("eu-1", before))[0].deployment_digest == digest(deployment)


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
    accepted = await world.documents.accept([dump_envelope(everything)])
    assert (accepted.entries[0].standing, accepted.entries[0].owners) == ("verified", ("ada",))
    kept = parse_envelope((await world.documents.get(digest(release))).envelope).signatures
    assert [signature.keyid for signature in kept] == [ada2.signer.keyid]
    for who in (mallory, stolen):
        assert await _refused(world, who.cosign(release)) == "fleet/unverified-document"


async def test_a_changed_keyring_judges_what_is_kept_again(world: World) -> None:
    """A compromised key's documents move nothing any more; a retired one still vouches for what was verified."""
    await world.join("eu-1")
    release = world.author.release()
    first, second = world.author.deployment(release, 1), world.author.deployment(release, 2)
    await world.documents.accept([release, first, second])
    world.keys.enrol(world.author, state="retired")
    assert await world.documents.judge_again()
    assert not await world.documents.judge_again()
    await world.join("eu-2")
    assert await world.digests("eu-2") == [digest(second)]
    world.keys.enrol(world.author, state="compromised")
    await world.documents.judge_again()
    assert {row.standing for row in (await world.documents.list()).items} == {"unverified"}
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
    await world.documents.accept([before])
    world.keys.enrol(bob, state="retired")
    await world.documents.judge_again()
    assert (await world.documents.get(digest(before))).standing == "verified"
    assert await _refused(world, release) == "fleet/unverified-document"
    assert await _refused(world, bob.deployment(release), release) == "fleet/unverified-document"
    named = world.author.deployment(release, 1, fallback=digest(back))
    assert await _refused(world, bob.release(version="3"), named) == "fleet/unverified-document"
    await world.documents.accept([release, named])
    assert (await world.documents.accept([back])).entries[0].standing == "verified"
    assert await world.digests("eu-1") == [digest(named)]
    # What a compromised key's Deployment names is named by nobody.
    eve, last = Author(world.author.realm, "eve"), bob.release(version="4")
    world.keys.enrol(eve)
    await world.documents.accept([eve.deployment(last, 2)])
    world.keys.enrol(eve, state="compromised")
    await world.documents.judge_again()
    assert await _refused(world, last) == "fleet/unverified-document"
    world.keys.enrol(bob, state="compromised")
    assert await _refused(world, release) == "fleet/unverified-document"


async def test_a_document_a_raised_threshold_leaves_short_waits(world: World) -> None:
    """A threshold that was raised holds for what is kept as well."""
    await world.join("eu-1")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    world.keys.need(deployment=2)
    await world.documents.judge_again()
    await world.join("eu-2")
    assert await world.digests("eu-2") == []


async def test_a_restart_judges_by_the_keyring_of_now(world: World) -> None:
    """A key that was compromised while the hub was down counts for nothing from the first placement on."""
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release)])
    world.keys.enrol(world.author, state="compromised")
    again = world.again()
    await again.start()
    await world.join("eu-1")
    assert await again.clusters.items("eu-1", 0) == []


async def test_all_of_it_is_judged_again_a_page_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """V4: also what does not fit into one page; what is to be placed is placed when all of it was judged."""
    monkeypatch.setattr(judging, "_PAGE", 2)
    await world.join("eu-1")
    bob = Author(world.author.realm, "bob")
    releases = [world.author.release(version=str(number)) for number in range(5)]
    placing = [world.author.deployment(one, number) for number, one in enumerate(releases, 1)]
    await world.documents.accept([*releases, *placing])
    world.keys.enrol(world.author, state="compromised")
    assert await world.documents.judge_again()
    assert not await world.documents.judge_again()
    assert {row.standing for row in (await world.documents.list()).items} == {"unverified"}
    world.keys.enrol(bob)
    await world.documents.accept([bob.cosign(document) for document in (releases[0], placing[0])])
    assert (await world.digests("eu-1"))[-1] == digest(placing[0])
    world.keys.enrol(world.author, state="active")
    assert await world.documents.judge_again()
    assert (await world.digests("eu-1"))[-1] == digest(placing[4])
