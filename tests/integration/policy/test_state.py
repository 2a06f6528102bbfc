"""The policy on disk: what is corrupt, older, gone, half written or no longer decidable at the next start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.spool.errors import FULL
from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from cellward.policy import capabilities
from cellward.runtime.files import write_atomic
from tests.fakes.policy import PolicyWorld, archive, denying, keys_of, request, thing
from tests.integration.policy.agent import Agent, denied, refused

pytestmark = pytest.mark.real


async def test_corrupted_state_is_a_finding_and_allows_nothing_v8(world: PolicyWorld, agent: Agent) -> None:
    """V1, V8: one changed byte in the accepted set is found at start; nothing is allowed until a set verifies."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
    targets = sorted((agent.state / "policy" / "accepted").glob("*/targets/*"), key=lambda file: file.stat().st_size)
    data = targets[-1].read_bytes()
    targets[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/no-verified-set"
        assert await service.refresh(world.source) is not None
        assert await denied(service, world, "Bad")


@pytest.mark.parametrize(
    ("put_back", "code"),
    [("accepted", "policy/state-corrupt"), ("current.json", "policy/state-corrupt"), ("", "policy/state-older")],
)
async def test_older_policy_put_back_is_a_finding_v1(
    world: PolicyWorld, agent: Agent, put_back: str, code: str
) -> None:
    """V1: an older set in place of the accepted one, a part of it or the whole directory, validly signed, is found."""
    world.publish(denying("Old"))
    place, kept = agent.state / "policy", agent.state / "kept"
    async with agent.running() as service:
        await service.refresh(world.source)
        older = world.source.copy()
        shutil.copytree(place, kept)
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
    if put_back == "accepted":
        shutil.copytree(kept / "accepted" / "1", place / "accepted" / "2", dirs_exist_ok=True)
    elif put_back:
        shutil.copy(kept / put_back, place / put_back)
    else:
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == [code]
        assert service.lost
        assert service.current is None
        world.timestamp(older)
        assert await refused(service, older) == "policy/rollback", "the floors outlive the set"
        world.timestamp()
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
    async with agent.running() as service:
        assert not service.lost


async def test_emptied_policy_is_a_finding_and_floors_survive_it_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1: without the directory nothing is decided, and a hub cannot begin again with an older set."""
    async with agent.running() as service:
        assert not service.lost, "a first start is no finding"
        world.publish(denying("Old"))
        older = world.source.copy()
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
    shutil.rmtree(agent.state / "policy")
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-older"]
        assert service.lost
        assert agent.condition("policy-set") == "policy/state-older"
        world.timestamp(older)
        assert await refused(service, older) == "policy/rollback"


async def test_floors_that_cannot_be_kept_elsewhere_do_not_keep_policy_back(world: PolicyWorld, agent: Agent) -> None:
    """V13: a full spool must not keep a revocation away; what could not be kept is kept at the next start."""
    world.publish(denying("Old"))
    async with agent.running() as service:
        agent.floors.error = FULL("the state file is full")
        await service.refresh(world.source)
        assert await denied(service, world, "Old")
        assert agent.floors.value is None
    agent.floors.error = None
    async with agent.running() as service:
        assert service.findings == ()
    assert agent.floors.value["roles"]["targets"]["version"] == world.version("targets")


async def test_power_cut_while_a_root_replaces_the_timestamp_key_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1: of two copies of the floors the newer root's timestamp counts, or the agent would refuse its hub for good."""
    world.publish(denying("Bad"))
    world.timestamp(version=900)
    async with agent.running() as service:
        await service.refresh(world.source)
        before = agent.floors.value
        world.hub_key = Ed25519Signer.generate()
        world.rotate(timestamp=keys_of(world.hub_key))
        world.timestamp(version=3)
        await service.refresh(world.source)
    agent.floors.value = before
    async with agent.running() as service:
        assert service.findings == ()
        assert agent.floors.value["roles"]["timestamp"]["version"] == 3
        world.timestamp(version=4)
        await service.refresh(world.source)
        assert service.current is not None
        assert service.current.timestamp_version == 4


async def test_v16_start_never_raises(world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """V16: an agent that cannot read its policy still repairs, narrows and records."""
    (agent.state / "policy").write_text("not a directory")
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        assert agent.condition("policy-set") == "policy/state-corrupt"


async def test_v8_what_was_accepted_with_more_capabilities_does_not_decide(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V8: an upgraded agent that allows less finds it at start; a set it can decide with is accepted."""
    world.publish(archive("base", "1.0.0", 'deny contains upper("no") if input.object.kind == "Bad"'))
    async with agent.running() as service:
        await service.refresh(world.source)
    everything = capabilities.allowed()
    fewer = {**everything, "builtins": [name for name in everything["builtins"] if name != "upper"]}
    monkeypatch.setattr(capabilities, "allowed", lambda: fewer)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/does-not-compile"]
        assert agent.condition("policy-set") == "policy/does-not-compile"
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/does-not-compile"
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
        assert not await denied(service, world, "Good")
    async with agent.running() as service:
        assert service.findings == ()


@pytest.mark.parametrize("replaced", [False, True])
async def test_full_disk_leaves_the_old_set(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """V16: whichever file of the new set cannot be made durable, it is not used, and after a restart one set is whole.

    ``replaced``: the write fails after it took place, as when only the directory cannot be synced any more.
    """
    written: list[Path] = []
    fails_at = 0

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == fails_at:
            if replaced:
                write_atomic(path, data)
            raise OSError(28, "No space left on device")
        write_atomic(path, data)

    monkeypatch.setattr("agent.policy.store.write_atomic", write)
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        total = len(written)
        assert total > 6
        for turn in (1, total // 2, total - 1, total):
            world.publish(denying(f"Worse{turn}", version=f"1.0.{turn}"))
            written.clear()
            fails_at = turn
            assert await refused(service, world.source) == "policy/state-unwritable"
            assert (written[-1].name == "current.json") is (turn == total)
            assert await denied(service, world, "Bad")
            assert not await denied(service, world, f"Worse{turn}")
    fails_at = 0
    async with agent.running() as service:
        assert service.findings == ()
        assert await denied(service, world, f"Worse{total}") is replaced
        await service.refresh(world.source)
        assert await denied(service, world, f"Worse{total}")
