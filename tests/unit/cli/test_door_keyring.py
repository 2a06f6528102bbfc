"""The keyring that documents of a hub are verified by begins at this side's own root, and forgets no lock made here."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from cellward.api import schemas
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.revocations import Revocations, SignedLock
from cellward.errors import CellwardError
from cellward.policy.model import VerifiedSet
from cellward.policy.publisher import MetadataFile, create_root, publish_keyring, sign_timestamp
from cellward.policy.record import Record
from cellward.policy.signing import sign_metadata
from cli.context import Local
from cli.door.client import Client
from cli.door.keyring import trusted_policy
from cli.home import Home, Trust
from cli.records import Base
from cli.setup import first_keyring
from tests.fakes.policy import PolicyWorld, denying, keys_of, moment, now


class Hub:
    """A hub that shows one set; satisfies what the door asks of a client."""

    def __init__(self, shown: schemas.PolicyMetadata) -> None:
        self.shown = shown

    def get(self, path: str, model: type[Any], **query: object) -> Any:
        """Answer the one question."""
        assert (path, model) == ("/policy/metadata", schemas.PolicyMetadata)
        return self.shown


@pytest.fixture
def world() -> PolicyWorld:
    """An authority with a set that is served."""
    made = PolicyWorld()
    made.publish(denying("Bad"))
    return made


def set_of(world: PolicyWorld) -> dict[str, bytes]:
    """The metadata served."""
    return {
        role: world.source.metadata[role, world.version(role)]
        for role in ("targets", "keyring", "snapshot", "timestamp")
    }


def shown(world: PolicyWorld, roots: list[bytes], metadata: dict[str, bytes]) -> schemas.PolicyMetadata:
    """What a hub shows."""
    return schemas.PolicyMetadata(roots=roots, contents=list(world.source.targets.values()), **metadata)


def trusted(world: PolicyWorld, home: Path, answer: schemas.PolicyMetadata) -> int:
    """Take what is shown; return the version of the keyring, or raise why not."""
    return policy_of(world, home, answer).keyring_version


def policy_of(world: PolicyWorld, home: Path, answer: schemas.PolicyMetadata) -> VerifiedSet:
    """Take what is shown."""
    return trusted_policy(cast("Client", Hub(answer)), Home(home), trust_of(world, home), moment())


def trust_of(world: PolicyWorld, home: Path) -> Trust:
    """A home that trusts the world's root."""
    (home / "root.json").write_bytes(world.root)
    return Trust(world.realm, home / "root.json", "", "ada", evaluation=True, tree_head_spki=b"")


def sign_here(world: PolicyWorld, home: Path, **changes: Any) -> Record:
    """Sign and keep another set as a command does, whose upload the hub then refuses; return the record kept."""
    publication = publish_keyring(world.record, keys=world.keys, now=moment(), seen=world.floors, **changes)
    assert publication.record is not None
    path, raw = home / "policy-record.json", world.record.to_bytes()
    path.write_bytes(raw)
    place = Local(Home(home))
    base = Base(place, trust_of(world, home), cast("Client", None), world.record, path, raw, world.floors)
    base.keep(publication.record)
    return publication.record


def stolen(world: PolicyWorld) -> tuple[bytes, dict[str, bytes]]:
    """The same content under a root of the hub's own making, which calls itself version 2."""
    thief = Ed25519Signer.generate()
    role = keys_of(thief)
    first = create_root(root=role, policy=role, publisher=role, timestamp=role, signers=[thief], now=now())
    root = Metadata[Root].from_bytes(first)
    root.signed.version = 2
    root.signatures.clear()
    targets = Metadata[Targets].from_bytes(set_of(world)["targets"])
    targets.signatures.clear()
    files = {**set_of(world), "targets": sign_metadata(targets, [thief])}
    snapshot = Metadata[Snapshot].from_bytes(files["snapshot"])
    snapshot.signatures.clear()
    snapshot.signed.meta["targets.json"] = MetaFile.from_data(targets.signed.version, files["targets"], ["sha256"])
    files["snapshot"] = sign_metadata(snapshot, [thief])
    named = MetadataFile("snapshot", snapshot.signed.version, files["snapshot"])
    life = timedelta(hours=12)
    files["timestamp"] = sign_timestamp(world.timestamp_version + 1, named, thief, now=now(), life=life)
    return sign_metadata(root, [thief]), files


def test_an_honest_set_is_taken(world: PolicyWorld, tmp_path: Path) -> None:
    """So what follows is refused for what it is."""
    assert trusted(world, tmp_path, shown(world, [world.root], set_of(world))) == world.version("keyring")


@pytest.mark.parametrize("before", [0, 1], ids=["alone", "after-ours"])
def test_v2_a_root_of_the_hubs_own_is_none(world: PolicyWorld, tmp_path: Path, before: int) -> None:
    """V2: it verifies by itself and is of no version 1, so no realm can be told from it; nothing begins there."""
    root, files = stolen(world)
    with pytest.raises(CellwardError) as caught:
        trusted(world, tmp_path, shown(world, [world.root] * before + [root], files))
    assert caught.value.code == "policy/unverified"


@pytest.fixture
def authored(world: PolicyWorld) -> str:
    """Id of an author's key that stands in the keyring that is served."""
    author = Ed25519Signer.generate()
    world.amend(keyring=replace(first_keyring(world.realm, "ada", author), version=2))
    return author.keyid


def lock(kind: str, subject: str) -> SignedLock:
    """A lock."""
    return SignedLock(kind, subject, "stolen", now())  # type: ignore[arg-type]


def state_of(policy: VerifiedSet, keyid: str) -> str:
    """How a keyring gives a key."""
    entry = policy.keyring.find(keyid)
    assert entry is not None
    return entry.state


def test_v2_a_lock_signed_here_outlives_a_hub_that_did_not_take_it(
    world: PolicyWorld, tmp_path: Path, authored: str
) -> None:
    """V2: the hub goes on serving the set before; nothing that it verifies by gives the stolen key back."""
    before = shown(world, [world.root], set_of(world))
    assert state_of(policy_of(world, tmp_path, before), authored) == "active"
    locks = (lock("key", authored), lock("cluster", "eu-1"))
    sign_here(world, tmp_path, revocations=Revocations(world.realm, locks))
    for _ in range(3):
        policy = policy_of(world, tmp_path, before)
        assert state_of(policy, authored) == "compromised"
        assert policy.revocations.lock_of(uid="", cluster="eu-1") is not None
        state = Home(tmp_path).state(trust_of(world, tmp_path)).read()
        assert state.locked_keys == (authored,)


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not-taken"])
def test_a_lock_is_lifted_by_a_newer_signed_set_alone(
    world: PolicyWorld, tmp_path: Path, authored: str, taken: bool
) -> None:
    """Whether a hub ever served the set that locked: one that was signed after it, and has no lock, lifts it."""
    record = sign_here(world, tmp_path, revocations=Revocations(world.realm, (lock("key", authored),)))
    world.record = record
    if taken:
        world.amend(revocations=record.revocations)
        assert state_of(policy_of(world, tmp_path, shown(world, [world.root], set_of(world))), authored) != "active"
    world.amend(revocations=Revocations(world.realm))
    assert state_of(policy_of(world, tmp_path, shown(world, [world.root], set_of(world))), authored) == "active"
    assert Home(tmp_path).state(trust_of(world, tmp_path)).read().locks == {}


def test_a_lock_signed_again_needs_a_set_newer_than_the_last(world: PolicyWorld, tmp_path: Path, authored: str) -> None:
    """Locked, lifted, locked again here: the set in between lifts the first lock, not the second."""
    locked = Revocations(world.realm, (lock("key", authored),))
    world.amend(revocations=locked)
    policy_of(world, tmp_path, shown(world, [world.root], set_of(world)))
    world.amend(revocations=Revocations(world.realm))
    lifted = shown(world, [world.root], set_of(world))
    sign_here(world, tmp_path, revocations=locked)
    assert state_of(policy_of(world, tmp_path, lifted), authored) == "compromised"
