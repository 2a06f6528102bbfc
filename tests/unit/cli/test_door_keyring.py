"""The keyring that a hub's documents are verified by begins at this side's own root, whatever the hub shows first."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from cellward.api import schemas
from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from cellward.policy.publisher import MetadataFile, create_root, sign_timestamp
from cellward.policy.signing import sign_metadata
from cli.door.client import Client
from cli.door.keyring import trusted_policy
from cli.home import Home, Trust
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
    (home / "root.json").write_bytes(world.root)
    trust = Trust(world.realm, home / "root.json", "", "ada", evaluation=True, tree_head_spki=b"")
    return trusted_policy(cast("Client", Hub(answer)), Home(home), trust, moment()).keyring_version


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
