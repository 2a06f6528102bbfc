"""An agent's policy that survives restarts, and short ways to ask it and to wait for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.policy.interfaces import TimeKeeper
from agent.policy.service import PolicyService
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.policy import FACTS, MemorySource, PolicyWorld, now, request, thing


class MemoryFloors:
    """A second place for floors, which outlives the policy directory."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None

    async def get(self) -> Any:
        """Return what was set."""
        return self.value

    async def set(self, value: Mapping[str, object]) -> None:
        """Keep it."""
        if self.error is not None:
            raise self.error
        self.value = json.loads(json.dumps(value))


class Agent:
    """One agent's policy on a state directory that survives restarts."""

    def __init__(self, world: PolicyWorld, state: Path, opa: Path) -> None:
        self.world, self.state, self.opa = world, state, opa
        self.health = HealthRegistry()
        self.floors = MemoryFloors()
        self.clock = ManualClock(now())
        self.time_floor: TimeKeeper | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PolicyService]:
        service = PolicyService(
            state_dir=self.state,
            root=self.world.root,
            realm=self.world.realm,
            facts=FACTS,
            opa_binary=self.opa,
            clock=self.clock,
            health=self.health,
            floors=self.floors,
            time_floor=self.time_floor,
        )
        await service.start()
        try:
            yield service
        finally:
            await service.close()

    def condition(self, name: str) -> str:
        return next(item.code for item in self.health.get() if item.name == name)

    def files(self) -> dict[str, bytes]:
        """Every file of the policy on disk."""
        found = sorted(path for path in (self.state / "policy").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in found}

    def message(self, name: str) -> str:
        return next((item.message for item in self.health.get() if item.name == name), "")


async def denied(service: PolicyService, world: PolicyWorld, kind: str) -> bool:
    """Whether an object of a kind is refused."""
    decision = await service.evaluator.decide(request(world.realm, thing(kind)))
    return not decision.allowed


async def refused(service: PolicyService, source: MemorySource) -> str:
    """Return the code a refresh is refused with."""
    with pytest.raises(CellwardError) as caught:
        await service.refresh(source)
    return caught.value.code


async def eventually(probe: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Poll until it holds, or fail."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await probe():
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.02)


async def stop(pid: int) -> None:
    """Stop a process and wait until it is: its threads may still answer for a moment."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    await eventually(
        lambda: true(all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in tasks.iterdir()))
    )


async def true(value: bool) -> bool:
    """Return what was found, for ``eventually`` to wait for."""
    return value


async def refused_until_recovered(service: PolicyService, world: PolicyWorld, pid: int) -> int:
    """Ask until another engine answers; return how often there was none, which must have its own code each time."""
    refusals = 0
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        assert asyncio.get_running_loop().time() < deadline, "no other engine ever answered"
        try:
            decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
        except CellwardError as error:
            if error.code != "policy/engine-unavailable":
                raise
            refusals += 1
        else:
            assert [violation.rule for violation in decision.violations] == ["base/no"]
            if service.engine_pid != pid:
                return refusals
        await asyncio.sleep(0.01)
