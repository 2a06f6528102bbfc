"""Old sets and old time, on the real python-tuf: replays, floors, timestamps and expiry."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.spool.state import open_state
from cellward.documents.dsse import Ed25519Signer
from tests.fakes.policy import PolicyWorld, archive, denying, keys_of, moment, now, request, serve, thing
from tests.integration.policy.agent import Agent, denied, refused

pytestmark = pytest.mark.real


async def test_replayed_targets_refused_also_after_restart(world: PolicyWorld, agent: Agent) -> None:
    """V8: older targets and snapshot under a newer timestamp made with the hub's real key; also after a restart."""
    world.publish(denying("Old"))
    old = world.source.copy()
    world.publish(denying("Bad", version="1.0.1"))
    replay = old.copy()
    world.timestamp(replay, version=50)
    world.timestamp_version = 2
    async with agent.running() as service:
        await service.refresh(world.source)
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
    async with agent.running() as service:
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
        world.publish(denying("Worse", version="1.0.2"))
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")


async def test_floors_survive_a_root_that_replaces_keys(world: PolicyWorld, agent: Agent) -> None:
    """§10: python-tuf forgets versions when a root replaces snapshot and timestamp keys; our floors do not."""
    world.publish(denying("Old"))
    world.publish(denying("Bad", version="1.0.1"))
    async with agent.running() as service:
        await service.refresh(world.source)
    world.publisher_key, world.hub_key = Ed25519Signer.generate(), Ed25519Signer.generate()
    world.rotate(snapshot=keys_of(world.publisher_key), timestamp=keys_of(world.hub_key))
    present, floors = world.record, world.floors
    replay = world.source.copy()
    world.forget()
    replay.metadata = {key: data for key, data in replay.metadata.items() if key[0] == "root"}
    serve(replay, world.make([denying("Good")], at=moment() - timedelta(hours=1)))
    world.timestamp(replay, version=1)
    world.record, world.floors = present, floors
    async with agent.running() as service:
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
        world.take(world.make([denying("Worse", version="1.0.2")]), timestamp=False)
        world.timestamp(version=1)
        assert await service.refresh(world.source) is not None, "the timestamp floor alone is reset by the new root"
        assert await denied(service, world, "Worse")


async def test_timestamp_floor_holds_without_a_new_root(world: PolicyWorld, agent: Agent) -> None:
    """An older timestamp for the same snapshot is refused while the root is the same, also when the set was lost."""
    world.publish(denying("Bad"))
    world.timestamp(version=9)
    async with agent.running() as service:
        await service.refresh(world.source)
    (agent.state / "policy" / "current.json").write_bytes(b"{}")
    world.timestamp(version=8)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        assert await refused(service, world.source) == "policy/rollback"


async def test_other_timestamp_of_the_same_version_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """Two timestamps of one version: somebody else holds the hub's key. python-tuf keeps the first and says nothing."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        forked = world.source.copy()
        world.timestamp(forked, version=world.timestamp_version, life=timedelta(hours=11))
        assert await refused(service, forked) == "policy/rollback"
        assert agent.condition("policy-set") == "policy/rollback"
        assert await service.refresh(world.source) is None


async def test_timestamp_of_a_version_ahead_of_the_clock_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """A stolen hub key must not raise the floor, which never falls, out of the honest hub's reach."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        for version, code in ((2**64, "policy/unverified"), (2**53 - 1, "document/number-ahead")):
            stolen = world.source.copy()
            world.timestamp(stolen, version=version)
            assert await refused(service, stolen) == code
        world.timestamp(version=2)
        assert await service.refresh(world.source) is not None


async def test_timestamp_that_lives_too_long_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """§2: a timestamp living longer than 24 h would let the hub's key freeze policy."""
    world.publish(denying("Bad"))
    world.timestamp(life=timedelta(hours=25))
    async with agent.running() as service:
        assert await refused(service, world.source) == "policy/timestamp-too-long"
        assert service.current is None
        world.timestamp(life=timedelta(hours=24))
        assert await service.refresh(world.source) is not None


async def test_expired_metadata_is_refused_and_the_old_set_decides(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V8: an expired snapshot or timestamp brings nothing new; staleness counts from the snapshot's expiry."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        old = world.source.copy()
        world.timestamp(old, at=now() - timedelta(hours=20), version=world.timestamp_version + 1)
        assert await refused(service, old) == "policy/expired"
        monkeypatch.setattr("cellward.policy.publisher.SNAPSHOT_LIFE", timedelta(seconds=30))
        world.publish(denying("Good", version="1.0.1"), at=now() - timedelta(minutes=1))
        assert await refused(service, world.source) == "policy/expired"
        assert await denied(service, world, "Bad")
        assert service.current is not None
        expires = service.current.snapshot_expires
        late = service.staleness(expires + timedelta(hours=25))
        assert late is not None
        assert (late.seconds, late.verdict) == (25 * 3600, "refuse-new")
        early = service.staleness(expires + timedelta(hours=23))
        assert early is not None
        assert early.verdict == "fresh"


async def test_v8_clock_that_was_set_back_makes_no_policy_fresher(
    world: PolicyWorld, agent: Agent, tmp_path: Path
) -> None:
    """V8: staleness, decisions and acceptance go by the floor of the clock, and a step back is refused and told."""
    at = now()
    world.publish(archive("base", "1.0.0", 'deny contains input.time if input.object.kind == "Bad"'))
    opened = await open_state(tmp_path / "spool", clock=agent.clock)
    agent.time_floor = opened.db.time_floor
    try:
        async with agent.running() as service:
            await service.refresh(world.source)
            assert service.current is not None
            expires = service.current.snapshot_expires
            agent.clock.advance(9 * 86_400)
            world.refresh(at + timedelta(days=9))
            assert await refused(service, world.source) == "policy/expired"
            stale = service.staleness(expires - timedelta(days=1))
            assert stale is not None
            assert stale.verdict == "refuse-new"
            decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
            assert decision.violations[0].reason == (at + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
            agent.clock._now -= timedelta(days=1)
            assert await refused(service, world.source) == "document/clock-stepped-back"
            assert agent.condition("policy-set") == "document/clock-stepped-back"
            assert agent.condition("clock") == ""
            agent.clock._now += timedelta(days=40)
            assert await refused(service, world.source) == "policy/expired"
            assert agent.condition("clock") == "document/clock-jumped-ahead"
    finally:
        await opened.db.close()
