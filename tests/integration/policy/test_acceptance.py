"""Sets the agent accepts and refuses, on the real engine and the real python-tuf: verification and the switch."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot

from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from cellward.policy.signing import TufSigner
from tests.fakes.policy import PolicyWorld, archive, denying, keys_of, request, serve, thing
from tests.integration.policy.agent import Agent, denied, eventually, refused, true

pytestmark = pytest.mark.real


async def test_accepts_decides_and_survives_a_restart_offline_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1, V8: an accepted set decides; after a restart with the hub away it decides again."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        accepted = await service.refresh(world.source)
        assert accepted is not None
        assert (accepted.snapshot_version, accepted.targets_version) == (
            world.version("snapshot"),
            world.version("targets"),
        )
        decision = await service.evaluator.decide(request(world.realm, thing("Bad"), thing("Good")))
        assert [(item.rule, item.object, item.remediation) for item in decision.violations] == [
            ("base/no", "Bad/shop--front--dev/x", "leave it out")
        ]
        assert not await denied(service, world, "Good")
    async with agent.running() as service:
        assert service.current == accepted
        assert await denied(service, world, "Bad")
        world.source.down = True
        assert await refused(service, world.source) == "policy/content-unreachable"
        assert await denied(service, world, "Bad")


async def test_one_bad_snapshot_does_not_wedge(world: PolicyWorld, agent: Agent) -> None:
    """V16: a validly signed snapshot whose targets never verify is refused, and the next good one is accepted."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        bad = world.source.copy()
        publication = world.make([denying("Good")])
        serve(bad, publication)
        newest = max(version for role, version in bad.metadata if role == "targets")
        bad.metadata["targets", newest] = bad.metadata["targets", newest].replace(b"targets", b"target$")
        world.timestamp(bad)
        assert await refused(service, bad) == "policy/unverified"
        assert not list((agent.state / "policy" / "staged").iterdir())
        assert await denied(service, world, "Bad")
        world.publish(denying("Worse", version="1.0.1"))
        assert await service.refresh(world.source) is not None
        assert await denied(service, world, "Worse")


async def test_forged_targets_refused_and_later_good_accepted(world: PolicyWorld, agent: Agent) -> None:
    """V8: targets by a wrong key, under real publisher and hub keys; the good set still decides, a good one follows."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        forged = world.source.copy()
        serve(forged, world.forge(denying("Good", version="6.6.6")))
        world.timestamp(forged)
        assert await refused(service, forged) == "policy/unverified"
        assert await denied(service, world, "Bad")
        assert not await denied(service, world, "Good")
        world.publish(denying("Worse", version="1.0.1"))
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")
        assert not await denied(service, world, "Bad")


async def test_renewed_timestamp_and_snapshot_keep_the_engine(world: PolicyWorld, agent: Agent) -> None:
    """A new timestamp or snapshot alone is made durable without a new engine."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert await service.refresh(world.source) is None
        world.timestamp()
        assert await service.refresh(world.source) is None
        assert service.current is not None
        assert service.current.timestamp_version == world.timestamp_version
        world.refresh()
        renewed = await service.refresh(world.source)
        assert renewed is not None
        assert renewed.snapshot_version == world.version("snapshot")
        assert service.engine_pid == pid


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("does not compile", archive("base", "1.0.1", "deny contains x if { input.y }"), "policy/does-not-compile"),
        ("calls out", archive("base", "1.0.1", 'deny contains "x" if http.send({}).body'), "policy/does-not-compile"),
        (
            "asks the clock",
            archive("base", "1.0.1", 'deny contains "x" if time.now_ns() > 1'),
            "policy/does-not-compile",
        ),
        ("no such entrypoint", archive("base", "1.0.1", "x := 1"), "policy/canary-failed"),
        ("not a set", archive("base", "1.0.1", "deny := true"), "policy/canary-failed"),
        # Compiles alone, but not with the question: OPA would try to activate it for ever, and say "not ready" only.
        ("a function", archive("base", "1.0.1", "deny(x) := x"), "policy/does-not-compile"),
    ],
)
async def test_what_cannot_decide_never_replaces_what_does_v16(
    world: PolicyWorld, agent: Agent, name: str, data: bytes, code: str
) -> None:
    """V16: a correctly signed bundle that cannot decide leaves the old one deciding, and its floors untouched."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        before = (agent.floors.value, agent.files())
        world.publish(data)
        assert await refused(service, world.source) == code, name
        assert before == (agent.floors.value, agent.files())
        assert await denied(service, world, "Bad")
        assert service.engine_pid == pid
        assert agent.condition("policy-set") == code
        world.publish(denying("Worse", version="1.0.2"))
        await service.refresh(world.source)
        assert agent.condition("policy-set") == ""
        assert await denied(service, world, "Worse")


async def test_the_old_set_decides_until_the_new_one_is_warm(world: PolicyWorld, agent: Agent) -> None:
    """V16: under constant questions a switch loses none, and what is asked after it is answered by the new set."""
    world.publish(denying("Bad", rule="base/old"))
    async with agent.running() as service:
        await service.refresh(world.source)
        enough, switched = asyncio.Event(), asyncio.Event()
        seen: list[tuple[str, bool]] = []

        async def ask() -> None:
            while not enough.is_set():
                after = switched.is_set()
                decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
                assert len(decision.violations) == 1
                seen.append((decision.violations[0].rule, after))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
            world.publish(denying("Bad", rule="base/new", version="1.0.1"))
            await service.refresh(world.source)
            switched.set()
            await eventually(lambda: true(sum(after for _, after in seen) > 20))
            enough.set()
        assert seen[0] == ("base/old", False)
        assert {rule for rule, after in seen if after} == {"base/new"}


async def test_thresholds_count_keys_not_signatures(world: PolicyWorld, agent: Agent) -> None:
    """M of n: one of two, also twice, is refused by the publisher, and by an agent whom such a set reaches anyhow."""
    second = Ed25519Signer.generate()
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        world.rotate(targets=keys_of(world.policy_key, second, threshold=2))
        for signers in ((world.policy_key,), (world.policy_key, world.policy_key), (second, Ed25519Signer.generate())):
            with pytest.raises(CellwardError) as caught:
                world.make([denying("Worse", version="1.0.1")], keys=replace(world.keys, policy=signers))
            assert caught.value.code == "policy/unverified"
        both = replace(world.keys, policy=(world.policy_key, second))
        world.publish(denying("Worse", version="1.0.1"), keys=both)
        newest, snapshots = world.version("targets"), world.version("snapshot")
        for kept in (0, 1):
            lacking = world.source.copy()
            targets = json.loads(lacking.metadata["targets", newest])
            targets["signatures"] = [targets["signatures"][kept]] * 2
            lacking.metadata["targets", newest] = json.dumps(targets).encode()
            snapshot = Metadata[Snapshot].from_bytes(lacking.metadata["snapshot", snapshots])
            data = lacking.metadata["targets", newest]
            snapshot.signed.meta["targets.json"] = MetaFile.from_data(newest, data, ["sha256"])
            snapshot.sign(TufSigner(world.publisher_key))
            lacking.metadata["snapshot", snapshots] = snapshot.to_bytes()
            world.timestamp(lacking)
            assert await refused(service, lacking) == "policy/unverified"
        assert await denied(service, world, "Bad")
        world.timestamp()
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")
