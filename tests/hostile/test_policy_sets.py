"""Policy sets that verify and must not be taken: made from less than is in force, or making a bad key good again.

The agent's own store decides; asserted by the keyring it verifies documents with afterwards, also after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.policy.store import PolicyStore
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring, KeyringEntry, State
from cellward.errors import CellwardError
from cellward.policy.client import select_all
from cellward.policy.publisher import draft_keyring, finish
from cellward.policy.record import Record
from tests.fakes.policy import PolicyWorld, denying, moment, now


@dataclass
class Served:
    """What a hub serves, read as the agent's worker thread does."""

    world: PolicyWorld

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        return self.world.source.metadata.get((role, self.world.version(role) if version is None else version))

    def target(self, digest: str, limit: int) -> bytes | None:
        return self.world.source.targets.get(digest)


@dataclass
class Agent:
    """The policy of one agent on a directory that survives restarts."""

    world: PolicyWorld
    directory: Path

    def __post_init__(self) -> None:
        self.store = PolicyStore(self.directory, root=self.world.root, realm=self.world.realm)

    def accept(self) -> None:
        """Take what is served; raises why not."""
        at = moment()
        self.store.commit(self.store.fetch(Served(self.world), select_all, at), at, "")

    def refuses(self) -> str:
        """Return the code it is refused with."""
        with pytest.raises(CellwardError) as caught:
            self.accept()
        return caught.value.code

    def restarted(self) -> tuple[Agent, Keyring | None]:
        """Start anew from the disk."""
        again = Agent(self.world, self.directory)
        loaded = again.store.load(select_all)
        assert loaded.finding is None
        return again, None if loaded.verified is None else loaded.verified.keyring


BOB = Ed25519Signer.generate()


def keyring(world: PolicyWorld, state: State | None, version: int = 1) -> Keyring:
    """A keyring with Bob's key in a state, or without it."""
    entry = KeyringEntry(
        BOB.keyid, "ed25519", BOB.public_spki_der, "bob", ("release",), ("*",), ("*",),
        now() - timedelta(days=1), now() + timedelta(days=1), state or "active",
    )  # fmt: skip
    return Keyring(world.realm, version, () if state is None else (entry,))


def state_of(found: Keyring | None) -> str:
    """The state of Bob's key."""
    entry = None if found is None else found.find(BOB.keyid)
    return "none" if entry is None else entry.state


def forced(world: PolicyWorld, record: Record, wanted: Keyring) -> None:
    """Sign a keyring with the real keys, past what an honest publisher's program refuses, and serve it."""
    draft = draft_keyring(replace(record, keyring=Keyring(world.realm, 1, ())), now=moment(), seen=world.floors)
    honest = replace(draft.record, keyring=wanted)
    drafted = draft_keyring(honest, now=moment(), seen=replace(world.floors, keys={}))
    world.take(finish(drafted.signed(world.keys), world.keys.publisher, now=moment(), seen=world.floors))


@pytest.fixture
def world() -> PolicyWorld:
    """An authority whose keyring has Bob."""
    made = PolicyWorld()
    made.record = replace(made.record, keyring=keyring(made, "active"))
    made.publish(denying("Bad"))
    return made


@pytest.mark.parametrize("bad", ["retired", "compromised"])
def test_a_revoked_key_is_not_brought_back(world: PolicyWorld, tmp_path: Path, bad: State) -> None:
    """Not by a newer keyring of the real keys, not after it was left out in between, not after a restart."""
    agent = Agent(world, tmp_path)
    agent.accept()
    world.amend(keyring=keyring(world, bad, 2))
    agent.accept()
    forced(world, world.record, keyring(world, "active", 3))
    assert agent.refuses() == "policy/key-state-lifted"
    again, found = agent.restarted()
    assert state_of(found) == bad
    forced(world, world.record, keyring(world, None, 4))
    again.accept()
    forced(world, world.record, keyring(world, "active", 5))
    assert again.refuses() == "policy/key-state-lifted"
    last, found = again.restarted()
    assert state_of(found) == "none"
    assert last.store.floors.keys == {BOB.keyid: bad}


def test_a_runner_with_an_older_record_brings_nothing_back(world: PolicyWorld, tmp_path: Path) -> None:
    """Its number is the highest of all, its signatures are real; it did not know the revocation, so nobody takes it."""
    agent = Agent(world, tmp_path)
    agent.accept()
    stale = world.record
    world.amend(keyring=keyring(world, "compromised", 2))
    agent.accept()
    newest = dict(world.source.metadata)
    drafted = draft_keyring(stale, now=moment())
    world.take(finish(drafted.signed(world.keys), world.keys.publisher, now=moment()))
    assert world.version("keyring") > max(version for role, version in newest if role == "keyring")
    assert agent.refuses() == "policy/old-base"
    _, found = agent.restarted()
    assert state_of(found) == "compromised"


def test_the_first_set_for_a_fresh_agent_may_have_any_base(world: PolicyWorld, tmp_path: Path) -> None:
    """A cluster that joins later has no floor to compare with, and one that was away for long jumps over many."""
    for number in range(3):
        world.publish(denying("Bad", version=f"1.0.{number + 1}"))
    agent = Agent(world, tmp_path)
    agent.accept()
    for number in range(3):
        world.publish(denying("Bad", version=f"1.1.{number + 1}"))
    agent.accept()
