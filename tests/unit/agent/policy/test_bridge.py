"""Fetching for python-tuf: a whole set in one piece where the hub can, singly where it cannot, trusted neither way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.policy.bridge import SourceFetch
from agent.policy.interfaces import FetchedSet
from agent.policy.store import PolicyStore
from cellward.policy.client import Candidate
from tests.fakes.policy import MemorySource, PolicyWorld, denying, now
from tests.fakes.refusals import refused


class Agent:
    """What of an agent accepts policy, without an engine."""

    def __init__(self, world: PolicyWorld, place: Path) -> None:
        self.store = PolicyStore(place, root=world.root, realm=world.realm)
        self.store.load(lambda _: True)
        self.held = 0

    async def refresh(self, source: MemorySource) -> list[str]:
        """Accept what a source has; return what it was asked for."""
        source.asked.clear()
        fetch = SourceFetch(source, self.held)
        candidate: Candidate = await asyncio.to_thread(self.store.fetch, fetch, lambda _: True, now())
        if self.store.changed(candidate):
            self.store.commit(candidate, now())
        self.held = candidate.verified.snapshot_version
        return list(source.asked)


@pytest.fixture
def world() -> PolicyWorld:
    """An authority whose hub serves whole sets."""
    made = PolicyWorld()
    made.source.whole = True
    made.publish(denying("Pod"))
    return made


async def test_a_set_comes_in_one_piece_and_is_the_same_as_singly(world: PolicyWorld, tmp_path: Path) -> None:
    """One question instead of nine; then one for a timestamp, a new set, and a set behind a new root each."""
    whole, singly = Agent(world, tmp_path / "whole"), Agent(world, tmp_path / "singly")
    plain = world.source.copy()
    plain.whole = False
    assert await whole.refresh(world.source) == ["set/1/0"]
    assert len(await singly.refresh(plain)) == 9
    assert whole.store._files == singly.store._files
    world.timestamp()
    held = whole.held
    assert await whole.refresh(world.source) == [f"set/1/{held}"]
    world.publish(denying("Service", version="2.0.0"))
    assert await whole.refresh(world.source) == [f"set/1/{held}"]
    world.rotate()
    world.rotate()
    assert await whole.refresh(world.source) == [f"set/1/{whole.held}"]
    assert await whole.refresh(world.source) == [f"set/3/{whole.held}"]


async def test_what_a_set_lacks_is_fetched_singly(world: PolicyWorld, tmp_path: Path) -> None:
    """A bundle, or a file that a publish has just replaced, is asked for by its own name."""
    agent = Agent(world, tmp_path)
    real = world.source.fetch_set

    async def partly(root_version: int, snapshot_version: int, limit: int) -> FetchedSet | None:
        found = await real(root_version, snapshot_version, limit)
        assert found is not None
        metadata = {key: data for key, data in found.metadata.items() if key[0] != "snapshot"}
        return FetchedSet(metadata, ())

    world.source.fetch_set = partly  # type: ignore[method-assign]
    asked = await agent.refresh(world.source)
    newest = max(version for role, version in world.source.metadata if role == "snapshot" and version is not None)
    assert asked[:2] == ["set/1/0", f"snapshot/{newest}"]
    assert all(name.startswith("sha256:") for name in asked[2:])


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "keyring"])
async def test_a_forged_set_is_refused_and_changes_nothing(world: PolicyWorld, tmp_path: Path, role: str) -> None:
    """V16: in one piece a hub may lie as little as singly, and the next honest answer is accepted."""
    agent = Agent(world, tmp_path)
    await agent.refresh(world.source)
    before = dict(agent.store._files)
    world.publish(denying("Service", version="2.0.0"))
    bad = world.source.copy()
    key = max(key for key in bad.metadata if key[0] == role)
    bad.metadata[key] = bad.metadata[key].replace(b'"version"', b'"Version"')
    with refused("policy/unverified"):
        await agent.refresh(bad)
    assert agent.store._files == before
    await agent.refresh(world.source)
    assert agent.store._files != before


async def test_a_target_is_found_by_its_own_digest_only(world: PolicyWorld, tmp_path: Path) -> None:
    """Targets of a set carry no names: one that was swapped is not taken, but asked for."""
    agent = Agent(world, tmp_path)
    bindings = next(digest for digest, data in world.source.targets.items() if b'"bindings"' in data)
    honest = dict(world.source.targets)
    world.source.targets[bindings] = b"{}"
    fetch = world.source.fetch_digest

    async def by_digest(digest: str, limit: int) -> bytes | None:
        await fetch(digest, limit)
        return honest.get(digest)

    world.source.fetch_digest = by_digest  # type: ignore[method-assign]
    assert await agent.refresh(world.source) == ["set/1/0", bindings]
