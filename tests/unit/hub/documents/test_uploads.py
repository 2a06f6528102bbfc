"""Uploads: what is taken, what is refused, and that it is all or nothing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from cellward.documents.dsse import dump_envelope, parse_envelope
from cellward.documents.facts import Selector
from cellward.documents.model import Tombstone
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cellward.wire.codec import item_from_wire, item_to_wire
from hub.documents import intake
from hub.documents.realm import RealmService
from hub.store.documents import Usage
from tests.fakes.clock import ManualClock
from tests.fakes.rooms import CART, World, make_rooms
from tests.fakes.signed import LATER, NOW, Author, Keys, digest, forged
from tests.fakes.store import scratch_store


async def _refused(world: World, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await world.documents.accept(list(envelopes))
    return caught.value.code


async def test_v16_a_dry_run_leaves_nothing_and_wakes_nobody(world: World) -> None:
    """It is decided as the upload would be, and undone: what is kept, placed and told stays as it was."""
    await world.join("eu-1")
    release, changes = world.author.release(), world.store.changes
    topics = ("documents", "desired:eu-1", "clusters")
    before = changes.stamp(*topics), await world.store.desired.revision("eu-1")
    tried = await world.documents.accept([release, world.author.deployment(release)], dry_run=True)
    assert tried.clusters == ("eu-1",)
    assert (changes.stamp(*topics), await world.store.desired.revision("eu-1")) == before
    assert await world.store.documents.usage("shop") == Usage()
    assert await world.store.documents.keys() == frozenset()


async def test_unsigned_payloads_are_for_dry_runs_alone(world: World) -> None:
    """What would happen can be asked without a signature; nothing of it is kept."""
    await world.join("eu-1")
    release = world.author.release()
    bare = [_bare(release), _bare(world.author.deployment(release))]
    assert (await world.documents.accept(bare, dry_run=True)).clusters == ("eu-1",)
    assert not (await world.documents.list()).items
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
    assert (await world.documents.accept([release, left])).entries[1].standing == "pending"
    whole = world.author.deployment(release, 1, "dev", selector=Selector(environments=("dev",)))
    assert digest(whole) != digest(left)
    parsed = parse_envelope(whole)
    signatures = (*parsed.signatures, *parse_envelope(bob.cosign(whole)).signatures)
    await world.documents.accept([dump_envelope(replace(parsed, signatures=signatures))])
    assert await world.digests("eu-1") == [digest(whole)]


async def test_upload_is_all_or_nothing(world: World) -> None:
    """V16: one bad document among good ones, and none is kept."""
    good = world.author.release()
    stranger = Author("sha256:" + "9" * 64).release()
    assert await _refused(world, good, stranger) == "fleet/foreign-realm"
    assert await _refused(world, good, b"{}") == "document/bad-envelope"
    assert not (await world.documents.list()).items


def _bare(envelope: bytes) -> bytes:
    return dump_envelope(replace(parse_envelope(envelope), signatures=()))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda author: b"not json", "document/not-json"),
        (lambda author: b"x" * (2 * 1024**2 + 1), "fleet/document-too-large"),
        (lambda author: _bare(author.release()), "fleet/unverified-document"),
        (lambda author: forged(author, "release", novelty=True), "document/malformed"),
        (lambda author: forged(author, "secret"), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", schema="cellward.deployment/v1"), "fleet/bad-document"),
        (lambda author: forged(author, "release", project="Shop"), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", environments=["dev"], sequence=0), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", environments=["dev", "dev"], sequence=1), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", environments=[], sequence=1), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", environments=["dev"], sequence=True), "fleet/bad-document"),
        (lambda author: forged(author, "release", cell="a--b"), "fleet/bad-document"),
        (lambda author: forged(author, "release", cell="c" * 25), "fleet/bad-document"),
        (lambda author: forged(author, "release", project="p" * 21), "fleet/bad-document"),
        (lambda author: forged(author, "tombstone", environments=["e" * 13], sequence=1), "fleet/bad-document"),
        (lambda author: author.approval("sha256:" + "1" * 64), "fleet/bad-document"),
        (
            lambda author: forged(
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
    assert not (await world.documents.list()).items


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
    assert (await world.documents.accept([end])).clusters == ("eu-1",)
    assert item_from_wire(item_to_wire((await world.clusters.items("eu-1", 0))[0])).project == "p" * 20


async def test_what_no_agent_takes_at_this_time_is_refused(world: World) -> None:
    """A document that ran out, or of a clock that is ahead, is told to its author; what is kept already comes again."""
    release = world.author.release()
    over = world.author.deployment(release, 1)
    await world.documents.accept([release, over])
    world.clock.advance(366 * 86_400)
    assert await _refused(world, world.author.tombstone(2)) == "document/expired"
    assert (await world.documents.accept([over])).clusters == ()
    world.clock.advance(-366 * 86_400 - 601)
    assert await _refused(world, world.author.release(version="2")) == "document/issued-in-the-future"
    world.clock.advance(1)
    await world.documents.accept([world.author.release(version="2")])


async def test_upload_before_a_root_is_refused() -> None:
    """Without a realm there is nothing to compare a document with."""
    store = scratch_store()
    documents = make_rooms(store, RealmService(store.meta), ManualClock(), Keys()).documents
    with pytest.raises(CellwardError) as caught:
        await documents.accept([Author("sha256:" + "1" * 64).release()])
    assert caught.value.code == "fleet/no-realm"


@pytest.mark.parametrize("step", ["_read", "_judge_one"])
@pytest.mark.parametrize("revoked", [False, True])
async def test_v16_v4_an_upload_that_takes_long_is_in_nobodys_way(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, revoked: bool
) -> None:
    """V16: cells are held while it is read or judged. V4: a key that is revoked meanwhile counts for nothing."""
    await world.join("eu-1", "dev")
    release = world.author.release()
    await world.documents.accept([release, world.author.deployment(release, 1)])
    begun, go, real = threading.Event(), threading.Event(), getattr(intake, step)

    def slowly(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        begun.set()
        assert go.wait(20.0)
        return found

    monkeypatch.setattr(intake, step, slowly)
    second = world.author.deployment(release, 2)
    upload = asyncio.ensure_future(world.documents.accept([second]))
    async with asyncio.timeout(20.0):
        while not begun.is_set():
            await asyncio.sleep(0.005)
        await world.clusters.narrow("eu-1", CART, "hold")
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
