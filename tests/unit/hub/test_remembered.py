"""What is remembered of rows: content that can never change is read once, what may change every time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cellward.documents.dsse import Ed25519Signer, dump_envelope, sign_document
from cellward.documents.revocations import Revocations, SignedLock
from cellward.identity.locks import Lock, parse_lock
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import MAX_CARRIED, DesiredItem
from hub.clusters.directory import Directory
from hub.clusters.locks import LockBook, LocksInForce, signed_locks
from hub.policy.service import TufRepository
from hub.store.documents import DocumentRow
from hub.store.interfaces import ClusterRow, LockRow
from hub.sync.content import Content, PolicyPosition
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, starter_archive
from tests.fakes.store import run_sql, scratch_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UIDS = [f"6f9619ff-8b86-4011-b42d-00c04fc964f{digit}" for digit in "abc"]


class Counted:
    """A store in memory whose reads of documents and metadata are counted."""

    def __init__(self) -> None:
        self.store = scratch_store(ManualClock(NOW))
        self.reads: list[str] = []
        documents, tuf = self.store.documents.get, self.store.tuf.get_metadata

        async def get(digest: str) -> DocumentRow | None:
            self.reads.append(digest)
            return await documents(digest)

        async def get_metadata(role: str, version: int | None = None) -> bytes | None:
            self.reads.append(f"{role} {version}")
            return await tuf(role, version)

        self.store.documents.get = get  # type: ignore[method-assign]
        self.store.tuf.get_metadata = get_metadata  # type: ignore[method-assign]

    def content(self, bound: int = 1000) -> Content:
        """Return the port over it."""
        policy = TufRepository(self.store.tuf, Ed25519Signer.generate(), ManualClock(NOW))

        async def placed(cluster: str) -> frozenset[str]:
            return frozenset(map(digest, "abcd")) if cluster == "eu-1" else frozenset()

        return Content(self.store.documents, policy, self.store.changes, placed, bound=bound)

    def position(self) -> PolicyPosition:
        """Return the port that knows the version of the timestamp, here of an empty store."""
        empty = scratch_store(ManualClock(NOW))
        return PolicyPosition(TufRepository(empty.tuf, Ed25519Signer.generate(), ManualClock(NOW)), empty.changes)


def digest(letter: str) -> str:
    """Return a digest."""
    return "sha256:" + letter * 64


@pytest.fixture
def counted() -> Counted:
    """Return an empty store."""
    return Counted()


async def test_small_documents_of_an_item_are_carried_and_what_else_it_names_is_not(counted: Counted) -> None:
    """A document above the bound is fetched, as are targets and what is not there; each is read once for a fleet."""
    sizes = {"a": 10, "b": MAX_CARRIED + 1, "c": MAX_CARRIED}
    for letter, size in sizes.items():
        await counted.store.documents.put(DocumentRow(digest(letter), "release", b"x" * size, "shop"))
    await counted.store.tuf.put_target(digest("d"), b"a target")
    content = counted.content(bound=1_000_000)
    item = DesiredItem(1, "shop", "cart", "dev", digest("a"), tuple(map(digest, "bcde")))
    for _ in range(2):
        assert [(name, len(data)) for name, data in await content.carried(item)] == [
            (digest("a"), 10), (digest("c"), MAX_CARRIED),
        ]  # fmt: skip
    assert counted.reads.count(digest("a")) == 1


async def test_content_of_a_digest_is_read_once(counted: Counted) -> None:
    """A fleet asks for the same bytes; the store is asked once, and still the right bytes come."""
    await counted.store.tuf.put_target(digest("a"), b"bytes of a")
    content = counted.content()
    assert [await content.by_digest("eu-1", digest("a")) for _ in range(3)] == [b"bytes of a"] * 3
    assert counted.reads == [digest("a")]


async def test_what_is_absent_is_asked_for_again(counted: Counted) -> None:
    """What was absent and comes later is found (V16); a target that comes alone tells nobody."""
    content = counted.content()
    assert await content.by_digest("eu-1", digest("a")) is None
    assert await content.tuf("snapshot", 1) is None
    await counted.store.tuf.put_target(digest("a"), b"late")
    await counted.store.tuf.put_metadata("snapshot", 1, b"late too")
    assert await content.by_digest("eu-1", digest("a")) == b"late"
    assert await content.tuf("snapshot", 1) == b"late too"


async def test_the_newest_metadata_is_read_once_and_followed_at_once(counted: Counted) -> None:
    """A fleet that asks for the newest costs one read; a newer one is served from the moment it is durable."""
    await counted.store.tuf.put_metadata("timestamp", 1, b"one")
    content, position = counted.content(), counted.position()
    assert await asyncio.gather(*(content.tuf("timestamp", None) for _ in range(50))) == [b"one"] * 50
    assert counted.reads == ["timestamp None"]
    await counted.store.tuf.put_metadata("timestamp", 2, b"two")
    assert await content.tuf("timestamp", None) == b"two"
    assert [await content.tuf("timestamp", 1) for _ in range(2)] == [b"one"] * 2
    assert counted.reads.count("timestamp 1") == 1
    assert [await position.timestamp_version() for _ in range(2)] == [0, 0]


async def test_an_absent_root_is_asked_for_once_and_found_when_it_comes(counted: Counted) -> None:
    """Every agent asks whether there is a next root; the answer no is one read, and ends with the rotation."""
    content = counted.content()
    assert [await content.tuf("root", 2) for _ in range(3)] == [None] * 3
    assert counted.reads == ["root 2"]
    await counted.store.tuf.put_metadata("root", 2, b"rotated")
    assert await content.tuf("root", 2) == b"rotated"


async def test_bindings_are_read_together_and_follow_changes() -> None:
    """A fleet that comes back costs a few reads; a new binding or lock is seen by the next question."""
    store = scratch_store(ManualClock(NOW))
    reads: list[int] = []
    real = store.clusters.get_many

    async def get_many(names: Sequence[str]) -> Mapping[str, ClusterRow]:
        reads.append(len(names))
        return await real(names)

    store.clusters.get_many = get_many  # type: ignore[method-assign]
    for number in range(50):
        await store.clusters.create(f"c{number}", "test")
    directory = Directory(store.clusters, LocksInForce(store.locks, store.changes), store.changes)
    assert await directory.binding("c1") is None
    await store.clusters.bind("c1", "uid-1", "k", b"spki", 1, "1")
    found = await asyncio.gather(*(directory.binding(f"c{number % 50}") for number in range(200)))
    assert [binding.uid for binding in found if binding is not None] == ["uid-1"] * 4
    assert len(reads) <= 3
    await store.clusters.bind("c1", "uid-1", "k2", b"spki", 2, "2")
    binding = await directory.binding("c1")
    assert binding is not None
    assert binding.generation == 2
    assert await store.clusters.remove("c1") is None
    assert await directory.binding("c1") is None


async def test_v4_standing_joins_own_locks_and_signed_ones() -> None:
    """V4: what a hub locked and what a signed document locks hold alike; a uid is found at the name it is bound to."""
    store = scratch_store(ManualClock())
    for name, uid in (("a", UIDS[0]), ("b", UIDS[1]), ("c", UIDS[2])):
        await store.clusters.create(name, "test")
        await store.clusters.bind(name, uid, "k", b"spki", 1, "1")

    async def signed() -> Sequence[Lock]:
        return [parse_lock(f"agent/{UIDS[0]}")]

    locks = LocksInForce(store.locks, store.changes, signed)
    directory = Directory(store.clusters, locks, store.changes)
    await store.locks.put(LockRow("agent", UIDS[1], "copied", ManualClock().now(), "hub"))
    standing = await directory.standing()
    assert standing.uids == {"a": UIDS[0], "b": UIDS[1]}
    assert standing.locks.hit(cluster="c", uid=UIDS[2]) is None
    await store.locks.remove("agent", UIDS[0])
    assert (await directory.standing()).locks.hit(uid=UIDS[0]) is not None


async def test_memory_is_bounded(counted: Counted) -> None:
    """What was used longest ago goes first, and what is larger than the bound is served and not kept."""
    for letter in "abc":
        await counted.store.tuf.put_target(digest(letter), letter.encode() * 40)
    await counted.store.tuf.put_target(digest("d"), b"d" * 200)
    content = counted.content(bound=100)
    for letter in "abacadc":
        assert await content.by_digest("eu-1", digest(letter)) == letter.encode() * (200 if letter == "d" else 40)
    asked = [read[7] for read in counted.reads]
    # b made room for c, and d for nobody: a and c are still there.
    assert asked == list("abcd")


async def test_a_document_of_another_cluster_is_absent(counted: Counted) -> None:
    """Its configuration is nobody else's; targets are everybody's."""
    await counted.store.documents.put(DocumentRow(digest("a"), "release", b"bytes of a", "shop"))
    await counted.store.tuf.put_target(digest("f"), b"target")
    content = counted.content()
    assert await content.by_digest("eu-1", digest("a")) == b"bytes of a"
    assert await content.by_digest("eu-2", digest("a")) is None
    assert await content.by_digest("eu-2", digest("f")) == b"target"


async def test_what_is_kept_is_forgotten_when_the_store_changes(counted: Counted) -> None:
    """An envelope may gain a signature, and a restored store may hold other metadata under the same version."""
    one, two = (sign_document(b"{}", "type", [Ed25519Signer.generate()]) for _ in range(2))
    both = dump_envelope(replace(one, signatures=one.signatures + two.signatures))
    row = DocumentRow(digest("a"), "release", dump_envelope(one), "shop")
    await counted.store.documents.put(row)
    content = counted.content()
    assert await content.by_digest("eu-1", digest("a")) == dump_envelope(one)
    await counted.store.documents.put(replace(row, envelope=both), dump_envelope(one))
    assert await content.by_digest("eu-1", digest("a")) == both
    await counted.store.tuf.put_metadata("snapshot", 3, b"planted")
    assert await content.tuf("snapshot", 3) == b"planted"
    await run_sql(counted.store, "DELETE FROM tuf_metadata")
    await counted.store.tuf.put_metadata("snapshot", 3, b"honest")
    assert await content.tuf("snapshot", 3) == b"honest"


async def test_v4_the_hub_enforces_signed_locks_it_serves_and_lifts_none_of_them() -> None:
    """V4: a lock in the policy set holds at the hub as at agents, from its publication to the next one without it."""
    world, store = PolicyWorld(), scratch_store(ManualClock())
    repository = TufRepository(store.tuf, world.hub_key, SystemClock(), realm=lambda: world.realm)
    locks = LocksInForce(store.locks, store.changes, signed_locks(repository))
    await store.clusters.create("a", "test")
    await store.clusters.bind("a", UIDS[0], "k", b"spki", 1, "1")
    directory = Directory(store.clusters, locks, store.changes)
    await repository.publish(world.publish(starter_archive()))
    assert len(await locks.current()) == 0
    signed = SignedLock("agent", UIDS[0], "key stolen", datetime(2026, 11, 30, tzinfo=UTC))
    await repository.publish(world.amend(revocations=Revocations(world.realm, (signed,))))
    standing = await directory.standing()
    assert standing.uids == {"a": UIDS[0]}
    assert standing.locks.hit(uid=UIDS[0]) == Lock("agent", UIDS[0], "key stolen")
    assert await store.locks.remove("agent", UIDS[0]) is None
    assert [(str(view.lock), view.signed) for view in await LockBook(store, ManualClock(), locks).list()] == [
        (f"agent/{UIDS[0]}", True)
    ]
    await repository.publish(world.amend(revocations=Revocations(world.realm)))
    assert (await directory.standing()).uids == {}
