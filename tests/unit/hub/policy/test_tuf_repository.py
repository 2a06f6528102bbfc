"""The hub's repository: it verifies like a client, signs the timestamp alone, and never goes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring, KeyringEntry, State
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cellward.policy.bundle import read_bundle
from cellward.policy.model import BindingSet
from cellward.policy.publisher import (
    MetadataFile,
    Publication,
    draft_keyring,
    finish,
    next_root,
    publish,
    publish_keyring,
    refresh,
    sign_timestamp,
)
from cellward.policy.signing import TufSigner, tuf_key
from cellward.policy.trust import digest_of
from hub.policy.service import TufRepository
from hub.store.interfaces import Commit, Tables, TufMetadata
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, archive, binding, denying, keys_of, moment, now


class TinyTufStore:
    """Just enough of TufStore: publish is atomic, versions are immutable."""

    def __init__(self) -> None:
        self.metadata: dict[tuple[str, int], bytes] = {}
        self.targets: dict[str, bytes] = {}

    async def put_metadata(self, role: str, version: int, data: bytes) -> None:
        assert self.metadata.setdefault((role, version), data) == data

    async def get_metadata(self, role: str, version: int | None = None) -> bytes | None:
        if version is None:
            version = max((number for name, number in self.metadata if name == role), default=0)
        return self.metadata.get((role, version))

    async def put_target(self, digest: str, data: bytes) -> None:
        self.targets[digest] = data

    async def get_target(self, digest: str) -> bytes | None:
        return self.targets.get(digest)

    async def publish(
        self, metadata: Sequence[TufMetadata], targets: Mapping[str, bytes], expect: Mapping[str, int] | None = None
    ) -> None:
        for role, version in (expect or {}).items():
            assert version == max((number for name, number in self.metadata if name == role), default=0)
        for file in metadata:
            for key in [key for key in self.metadata if key[0] == "timestamp" == file.role and key[1] > file.version]:
                del self.metadata[key]
            await self.put_metadata(file.role, file.version, file.data)
        self.targets.update(targets)


def under_lease(store: TinyTufStore) -> Commit[None]:
    """Write as whoever has the lease."""

    async def commit(job: Callable[[Tables], Awaitable[None]], /) -> None:
        await job(cast("Tables", SimpleNamespace(tuf=store)))

    return commit


@pytest.fixture
def world() -> PolicyWorld:
    """Return an authority."""
    return PolicyWorld()


@pytest.fixture
def store() -> TinyTufStore:
    """Return an empty store."""
    return TinyTufStore()


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands at now."""
    return ManualClock(now())


@pytest.fixture
def repository(world: PolicyWorld, store: TinyTufStore, clock: ManualClock) -> TufRepository:
    """Return a repository over both."""
    return TufRepository(store, world.hub_key, clock, realm=lambda: world.realm)


def take(world: PolicyWorld, publication: Publication) -> Publication:
    """Take a publication over as published."""
    world.take(publication)
    return publication


async def refused(repository: TufRepository, store: TinyTufStore, upload: Publication) -> str:
    """Return the code an upload is refused with; it must leave no trace."""
    before = (dict(store.metadata), dict(store.targets))
    with pytest.raises(CellwardError) as caught:
        await repository.publish(upload)
    assert before == (store.metadata, store.targets), "a refused upload must leave no trace"
    return caught.value.code


async def test_publishes_and_signs_the_timestamp_alone(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository
) -> None:
    """§2: what is served verifies for a client, and the hub added nothing but a timestamp of at most 24 h."""
    seen: list[int] = []

    async def note(version: int) -> None:
        seen.append(version)

    repository.on_new_timestamp.append(note)
    upload = take(world, world.make([denying("Bad")]))
    result = await repository.publish(upload)
    versions = (world.version("targets"), world.version("snapshot"))
    assert (result.root_version, result.targets_version, result.snapshot_version) == (1, *versions)
    assert result.realm == world.realm
    assert seen == [result.timestamp_version]
    assert {key for key in store.metadata if key[0] == "timestamp"} == {("timestamp", result.timestamp_version)}
    for file in upload.metadata:
        assert await repository.fetch(file.role, file.version) == file.data
    for digest, data in upload.targets.items():
        assert await repository.fetch_target(digest) == data
    timestamp = await repository.fetch("timestamp", None)
    assert timestamp is not None
    assert Metadata[Timestamp].from_bytes(timestamp).signed.expires <= now() + timedelta(hours=24)
    assert await repository.status() == result


async def test_timestamp_version_follows_what_is_served(
    world: PolicyWorld, repository: TufRepository, clock: ManualClock
) -> None:
    """The version agents are told is 0 before the first publish, and then always that of the newest timestamp."""
    assert await repository.timestamp_version() == 0
    await repository.publish(take(world, world.make([denying("Bad")])))
    first = milliseconds(clock.now())
    assert await repository.timestamp_version() == first
    await repository.renew_timestamp()
    assert [await repository.timestamp_version() for _ in range(2)] == [first + 1] * 2
    clock.advance(100)
    assert await repository.renew_timestamp() == first + 100_000


async def test_hub_restored_from_a_backup_is_ahead_of_what_its_agents_accepted(
    world: PolicyWorld, store: TinyTufStore, clock: ManualClock
) -> None:
    """What it signed after the backup is gone with it; agents refuse what is older, so versions are its clock."""
    await TufRepository(store, world.hub_key, clock).publish(take(world, world.make([denying("Bad")])))
    backup = dict(store.metadata)
    last = 0
    for _ in range(5):
        clock.advance(3600)
        last = await TufRepository(store, world.hub_key, clock).renew_timestamp() or 0
    lost = take(world, world.make([denying("Worse", version="1.0.1")])).floors
    store.metadata = backup
    clock.advance(60)
    restored = TufRepository(store, world.hub_key, clock)
    result = await restored.publish(take(world, world.make([denying("Worse", version="1.0.1")])))
    assert result.timestamp_version > last
    assert result.targets_version > lost.roles["targets"].version, "above what was published and lost"
    assert result.snapshot_version > lost.roles["snapshot"].version


async def test_hub_whose_clock_was_ahead_serves_what_agents_accept_once_it_is_right(
    world: PolicyWorld, store: TinyTufStore, clock: ManualClock
) -> None:
    """Nobody took what it signed meanwhile, so it need not stay above it."""
    repository = TufRepository(store, world.hub_key, clock)
    await repository.publish(take(world, world.make([denying("Bad")])))
    newest = world.version("snapshot")
    snapshot = MetadataFile("snapshot", newest, store.metadata["snapshot", newest])
    wrong = clock.now() + timedelta(days=4000)
    version = milliseconds(wrong)
    store.metadata["timestamp", version] = sign_timestamp(
        version, snapshot, world.hub_key, now=wrong, life=timedelta(hours=12)
    )
    clock.advance(60)
    assert await repository.renew_timestamp() == milliseconds(clock.now())
    assert await repository.timestamp_version() == milliseconds(clock.now())
    await repository.publish(take(world, world.make([denying("Worse", version="1.0.1")])))


async def test_refuses_what_an_agent_would_refuse_v16(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository
) -> None:
    """V16: a bad upload is refused with its code and leaves the state untouched."""
    first = take(world, world.make([denying("Bad")]))
    await repository.publish(first)
    good = world.make([denying("Worse", version="1.0.1")])
    assert await refused(repository, store, world.forge(denying("Worse", version="1.0.1"))) == "policy/unverified"
    assert await refused(repository, store, replace(good, targets={})) == "policy/incomplete-set"
    assert await refused(repository, store, replace(good, metadata=good.metadata[:-1])) == "policy/incomplete-set"
    wrong = {digest: data + b"x" for digest, data in good.targets.items()}
    assert await refused(repository, store, replace(good, targets=wrong)) == "policy/unverified"
    garbage = (*good.metadata[:-1], MetadataFile("snapshot", 2, b"garbage"))
    assert await refused(repository, store, replace(good, metadata=garbage)) == "policy/unverified"
    own = MetadataFile("timestamp", 2, b"{}")
    assert await refused(repository, store, replace(good, metadata=(*good.metadata, own))) == "policy/unverified"
    twice = replace(good, metadata=(*good.metadata, good.metadata[-1]))
    assert await refused(repository, store, twice) == "policy/unverified"
    other = PolicyWorld()
    assert await refused(repository, store, other.make([denying("Bad")])) == "policy/unverified"
    await repository.publish(good)


async def test_refuses_older_versions(world: PolicyWorld, store: TinyTufStore, repository: TufRepository) -> None:
    """The hub never serves an older set again, nor another one under the same version."""
    first = take(world, world.make([denying("Bad")]))
    await repository.publish(first)
    fork = replace(world.record, targets=None, keyring_metadata=None, snapshot=0)
    second = take(world, world.make([denying("Worse", version="1.0.1")]))
    await repository.publish(second)
    assert await refused(repository, store, first) == "policy/rollback"
    forked = publish(
        fork, bundles=[denying("Good")], bindings=BindingSet(world.realm, (binding(denying("Good")),)),
        keys=world.keys, now=moment(),
    )  # fmt: skip
    assert await refused(repository, store, forked) == "policy/old-base"
    await repository.publish(second)


async def test_first_upload_must_be_of_the_own_realm(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository
) -> None:
    """One root, one hub installation."""
    other = PolicyWorld()
    assert await refused(repository, store, other.make([denying("Bad")])) == "policy/foreign-realm"


async def test_a_root_that_names_another_timestamp_key_is_refused(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository
) -> None:
    """An upload that this hub could never serve freshly is refused at the door."""
    await repository.publish(take(world, world.make([denying("Bad")])))
    world.rotate(timestamp=keys_of(Ed25519Signer.generate()))
    assert await refused(repository, store, world.make([denying("Bad")])) == "policy/unverified"


async def test_v16_a_root_whose_ids_are_not_those_of_its_keys_is_refused(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository
) -> None:
    """V16: signed by the real root key, with a policy key under the id of another."""
    await repository.publish(take(world, world.make([denying("Bad")])))
    metadata = Metadata[Root].from_bytes(next_root(world.record.roots, changes={}, now=now()))
    planted = tuf_key(Ed25519Signer.generate().public_spki_der)
    planted.keyid = Ed25519Signer.generate().keyid
    metadata.signed.add_key(planted, "targets")
    metadata.sign(TufSigner(world.root_key))
    again = replace(world.refresh(), targets={})
    forged = replace(again, metadata=(*again.metadata, MetadataFile("root", 2, metadata.to_bytes())))
    assert await refused(repository, store, forged) == "policy/bad-root"
    await repository.publish(again)


async def test_hubs_own_key_is_no_authors(world: PolicyWorld, store: TinyTufStore, repository: TufRepository) -> None:
    """§2: under an author's name the key that signs timestamps would make the hub one, also after a rotation."""
    entry = KeyringEntry(
        world.hub_key.keyid, "ed25519", world.hub_key.public_spki_der, "alice", ("deployment",), ("*",), ("*",),
        now(), now() + timedelta(days=1),
    )  # fmt: skip
    world.record = replace(world.record, keyring=Keyring(world.realm, 1, (entry,)))
    assert await refused(repository, store, world.make([denying("Bad")])) == "policy/unverified"
    world.hub_key = Ed25519Signer.generate()
    world.rotate(timestamp=keys_of(world.hub_key))
    repository = TufRepository(store, world.hub_key, ManualClock(now()), realm=lambda: world.realm)
    assert await refused(repository, store, world.make([denying("Bad")])) == "policy/unverified"
    honest = Ed25519Signer.generate()
    entry = replace(entry, keyid=honest.keyid, spki_der=honest.public_spki_der)
    world.record = replace(world.record, keyring=Keyring(world.realm, 1, (entry,)))
    await repository.publish(world.make([denying("Bad")]))


@pytest.mark.parametrize("bad", ["retired", "compromised"])
async def test_a_key_that_went_bad_is_not_made_good_again(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository, bad: State
) -> None:
    """A keyring of the real keys that lifts what is served is refused at the door: every agent would refuse it."""
    bob = Ed25519Signer.generate()
    entry = KeyringEntry(
        bob.keyid, "ed25519", bob.public_spki_der, "bob", ("release",), ("*",), ("*",), now(), now() + timedelta(days=1)
    )
    good = Keyring(world.realm, 1, (entry,))
    await repository.publish(take(world, world.make([denying("Bad")])))
    await repository.publish(world.amend(keyring=good))
    await repository.publish(world.amend(keyring=Keyring(world.realm, 2, (replace(entry, state=bad),))))
    # Past what an honest publisher's program refuses.
    drafted = draft_keyring(replace(world.record, keyring=good), now=moment(), seen=replace(world.floors, keys={}))
    lifted = finish(drafted.signed(world.keys), world.keys.publisher, now=moment(), seen=world.floors)
    assert await refused(repository, store, lifted) == "policy/key-state-lifted"


async def test_root_rotation(world: PolicyWorld, store: TinyTufStore, repository: TufRepository) -> None:
    """A new root signed by the old one is stored with its set; its realm is still that of version 1."""
    await repository.publish(take(world, world.make([denying("Bad")])))
    world.policy_key = Ed25519Signer.generate()
    world.rotate(targets=keys_of(world.policy_key))
    result = await repository.publish(take(world, world.make([denying("Worse", version="1.0.1")])))
    assert (result.root_version, result.realm) == (2, world.realm)
    state = await repository.state()
    assert state is not None
    assert [Metadata[Root].from_bytes(data).signed.version for data in state.roots] == [1, 2]


async def test_refresh_and_keyring_alone(world: PolicyWorld, store: TinyTufStore, repository: TufRepository) -> None:
    """A renewed snapshot, and a keyring without the policy key, are taken; bundles come from the store."""
    await repository.publish(take(world, world.make([denying("Bad")])))
    targets = world.version("targets")
    renewed = take(world, refresh(world.record, keys=replace(world.keys, root=(), policy=(), keyring=()), now=moment()))
    assert (await repository.publish(renewed)).snapshot_version == world.version("snapshot")
    grown = replace(world.keyring, version=2)
    keys = replace(world.keys, root=(), policy=())
    authors = publish_keyring(world.record, keyring=grown, keys=keys, now=moment(), seen=world.floors)
    result = await repository.publish(take(world, authors))
    assert (result.targets_version, result.keyring_version) == (targets, world.version("keyring"))


async def test_timestamp_is_renewed_in_time(
    world: PolicyWorld, store: TinyTufStore, repository: TufRepository, clock: ManualClock
) -> None:
    """Twelve hours of life, renewed when nine are left, on the hub's clock; nothing to renew before a publish."""
    assert await repository.renew_timestamp() is None
    assert await repository.renew_if_due() is None
    await repository.publish(take(world, world.make([denying("Bad")])))
    assert await repository.renew_if_due() is None
    clock.advance(3 * 3600 + 60)
    assert await repository.renew_if_due() == milliseconds(clock.now())
    stop = asyncio.Event()
    clock.advance(4 * 3600)
    renewed = asyncio.Event()

    async def note(_version: int) -> None:
        renewed.set()

    repository.on_new_timestamp.append(note)
    task = asyncio.create_task(repository.run(stop, lambda: under_lease(store)))
    await asyncio.wait_for(renewed.wait(), 30)
    stop.set()
    await task
    result = await repository.status()
    assert result is not None
    assert result.timestamp_version == milliseconds(clock.now())


async def test_v16_a_mistake_does_not_end_the_renewals(repository: TufRepository, store: TinyTufStore) -> None:
    """V16: an error nobody foresaw is logged, and the task goes on until it is stopped."""
    asked = asyncio.Event()

    async def broken(role: str, version: int | None = None) -> bytes | None:
        asked.set()
        raise RuntimeError(f"{role} {version}")

    store.get_metadata = broken  # type: ignore[method-assign]
    stop = asyncio.Event()
    task = asyncio.create_task(repository.run(stop, lambda: under_lease(store)))
    await asyncio.wait_for(asked.wait(), 30)
    stop.set()
    await asyncio.wait_for(task, 30)


async def test_no_timestamp_lives_longer_than_a_day(
    world: PolicyWorld, store: TinyTufStore, clock: ManualClock
) -> None:
    """Whatever is configured: agents would refuse it, so it is cut; the realm may be asked for late."""
    known: list[str] = ["sha256:" + "0" * 64]
    repository = TufRepository(store, world.hub_key, clock, realm=lambda: known[0], life=timedelta(days=30))
    upload = take(world, world.make([denying("Bad")]))
    assert await refused(repository, store, upload) == "policy/foreign-realm"
    known[0] = world.realm
    await repository.publish(upload)
    data = await repository.fetch("timestamp", None)
    assert data is not None
    assert Metadata[Timestamp].from_bytes(data).signed.expires == clock.now() + timedelta(hours=24)


async def test_serves_known_roles_only(world: PolicyWorld, repository: TufRepository) -> None:
    """V2: a closed list of roles; nothing else is looked up."""
    await repository.publish(take(world, world.make([denying("Bad")])))
    assert await repository.fetch("../root", 1) is None
    assert await repository.fetch("root", 0) is None
    assert await repository.fetch("root", 9) is None


@pytest.mark.parametrize("roots", [["base", "system"], [""], []])
async def test_hostile_bundle_with_good_signatures_is_refused(
    world: PolicyWorld,
    store: TinyTufStore,
    repository: TufRepository,
    roots: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle that claims the engine's guard is refused although the security team signed it."""
    evil = archive("base", "1.0.1", "x := 1", roots=roots)
    disguise = replace(read_bundle(denying("Bad", version="1.0.1")), digest=digest_of(evil))
    monkeypatch.setattr("cellward.policy.publisher.read_bundle", lambda _data: disguise)
    chosen = replace(binding(denying("Bad", version="1.0.1")), bundle_digest=digest_of(evil))
    upload = world.make([evil], [chosen])
    assert await refused(repository, store, upload) == "policy/bad-roots"


async def test_an_agent_is_sent_what_it_lacks(
    repository: TufRepository, world: PolicyWorld, store: TinyTufStore, clock: ManualClock
) -> None:
    """Roots above its own and the timestamp always; the rest unless it holds the newest snapshot."""
    assert await repository.newer(1, 0) is None
    upload = world.make([denying("Pod")])
    await repository.publish(upload)
    world.take(upload)
    newest = {file.role: file for file in upload.metadata}
    found = await repository.newer(1, 0)
    assert found is not None
    assert [file.role for file in found.metadata] == ["timestamp", "snapshot", "targets", "keyring"]
    assert all(file.data == store.metadata[file.role, file.version] for file in found.metadata)
    assert {digest_of(data) for data in found.targets} == set(upload.targets)
    assert len(found.targets) == 4
    held = await repository.newer(0, newest["snapshot"].version)
    assert held is not None
    assert [file.role for file in held.metadata] == ["root", "timestamp"]
    assert held.targets == ()


async def test_a_small_bundle_is_sent_to_who_did_not_have_it_and_a_large_one_is_not(
    repository: TufRepository, world: PolicyWorld
) -> None:
    """A fleet fetches what is too large, and nobody is sent again what the set it holds had."""
    noise = random.Random(1).randbytes(100_000).hex()
    small = denying("Pod")
    large = archive("wide", "1.0.0", "x := 1", extra={"wide/data.json": f'{{"noise": "{noise}"}}'.encode()})
    first = world.make([small])
    await repository.publish(first)
    world.take(first)
    held = next(file.version for file in first.metadata if file.role == "snapshot")
    upload = world.make([small, large])
    await repository.publish(upload)
    sent = {version: await repository.newer(1, version) for version in (0, held)}
    assert all(found is not None for found in sent.values())
    names = {version: {digest_of(data) for data in found.targets} for version, found in sent.items() if found}
    assert digest_of(small) in names[0]
    assert digest_of(small) not in names[held]
    assert digest_of(large) not in names[0] | names[held]
