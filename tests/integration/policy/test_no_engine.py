"""No engine that can be started: said as that, with its own code and step, and over by itself (V8, V15, V16)."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from tests.fakes.policy import MemorySource, PolicyWorld, denying, request, thing
from tests.integration.policy.agent import Agent, denied, eventually, refused, refused_until_recovered, true

pytestmark = pytest.mark.real

CODE = "policy/engine-not-startable"


def _missing(opa: Path) -> None:
    opa.unlink(missing_ok=True)


def _not_executable(opa: Path) -> None:
    opa.unlink(missing_ok=True)
    opa.write_bytes(b"")
    opa.chmod(0o644)


def _crashing(opa: Path) -> None:
    opa.unlink(missing_ok=True)
    opa.write_text("#!/bin/sh\necho 'no such instruction' >&2\nexit 3\n", encoding="utf-8")
    opa.chmod(0o755)


def _killed(opa: Path) -> None:
    opa.unlink(missing_ok=True)
    opa.write_text("#!/bin/sh\nkill -SEGV $$\n", encoding="utf-8")
    opa.chmod(0o755)


@pytest.fixture
def opa(agent: Agent, tmp_path: Path) -> Path:
    """Return the path of the agent's engine, which a test may break."""
    path = tmp_path / "bin" / "opa"
    path.parent.mkdir()
    path.symlink_to(agent.opa)
    agent.opa = path
    return path


@pytest.mark.parametrize("break_it", [_missing, _not_executable, _crashing, _killed])
async def test_v15_an_engine_that_cannot_be_started_is_not_missing_policy(
    world: PolicyWorld, agent: Agent, opa: Path, opa_binary: Path, break_it: Callable[[Path], None]
) -> None:
    """Before any policy is there, and when it comes: nobody is told to publish; mended, the next look finds it."""
    break_it(opa)
    async with agent.running() as service:
        assert agent.condition("policy-engine") == CODE
        assert str(opa) in agent.message("policy-engine")
        assert await refused(service, MemorySource()) == "policy/nothing-published"
        assert agent.condition("policy-engine") == CODE
        world.publish(denying("Bad"))
        assert await refused(service, world.source) == CODE
        assert agent.condition("policy-set") == CODE
        assert service.missing.code == CODE
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == CODE
        assert "publish" not in caught.value.hint
        opa.unlink(missing_ok=True)
        opa.symlink_to(opa_binary)
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
        assert [agent.condition(name) for name in ("policy-engine", "policy-set")] == ["", ""]


async def test_an_engine_mended_before_any_policy_is_seen(world: PolicyWorld, agent: Agent, opa: Path) -> None:
    """Nothing was published yet, so no engine runs: the condition is green all the same, and policy is what misses."""
    real = opa.readlink()
    _missing(opa)
    async with agent.running() as service:
        assert agent.condition("policy-engine") == CODE
        opa.symlink_to(real)
        assert await refused(service, MemorySource()) == "policy/nothing-published"
        assert agent.condition("policy-engine") == ""
        assert service.missing.code == "policy/no-verified-set"


async def test_v8_a_newer_set_waits_for_an_engine_while_the_old_one_decides(
    world: PolicyWorld, agent: Agent, opa: Path
) -> None:
    """The engine that runs goes on; that the newer set cannot be put in force is told of the set."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        _missing(opa)
        world.publish(denying("Worse", version="1.0.1"))
        assert await refused(service, world.source) == CODE
        assert agent.condition("policy-set") == CODE
        assert agent.condition("policy-engine") == ""
        assert await denied(service, world, "Bad")


async def test_v16_an_engine_that_dies_and_cannot_be_started_says_which(
    world: PolicyWorld, agent: Agent, opa: Path, opa_binary: Path, tmp_path: Path
) -> None:
    """Not only that it does not answer; also an agent that starts without it, on the set it has."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        _crashing(opa)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: true(agent.condition("policy-engine") == CODE))
        assert "no such instruction" in agent.message("policy-engine")
    async with agent.running() as service:
        assert agent.condition("policy-engine") == CODE
        mended = tmp_path / "mended"
        mended.symlink_to(opa_binary)
        shutil.move(mended, opa)
        await eventually(lambda: true(agent.condition("policy-engine") == ""))
        await refused_until_recovered(service, world, 0)
