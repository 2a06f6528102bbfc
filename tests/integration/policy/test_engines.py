"""The real engine as a process: its guard, its end, and its return after it died, hung or found no room."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from agent.policy.opa import OpaProcess
from cellward.errors import CellwardError
from cellward.policy.bundle import read_bundle
from cellward.policy.compile import Compiler
from tests.fakes.policy import PolicyWorld, archive, denying, request, thing
from tests.integration.policy.agent import Agent, denied, eventually, refused, refused_until_recovered, stop, true

pytestmark = pytest.mark.real


async def test_no_engine_is_left_behind(world: PolicyWorld, agent: Agent) -> None:
    """Stopping the service ends its engine; a retired one is ended by the switch."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        first = service.engine_pid
        world.publish(denying("Worse", version="1.0.1"))
        await service.refresh(world.source)
        second = service.engine_pid
        assert first is not None
        assert second is not None
        assert not Path(f"/proc/{first}").exists()
    assert not Path(f"/proc/{second}").exists()


async def test_engine_dies_with_its_agent(world: PolicyWorld, agent: Agent, opa_binary: Path) -> None:
    """PR_SET_PDEATHSIG: SIGKILL of the agent takes the engine along."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from agent.policy.opa import OpaProcess\n"
        "async def main():\n"
        "    process = OpaProcess(pathlib.Path(sys.argv[1]), [], 'package cellward_gate')\n"
        "    await process.start()\n"
        "    print(process.pid, process.socket, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(opa_binary), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    pid, socket = (await child.stdout.readline()).decode().split()
    assert Path(f"/proc/{pid}").exists()
    child.kill()
    await child.wait()
    await eventually(lambda: true(_gone(int(pid))))
    shutil.rmtree(Path(socket).parent)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_guard_and_permissions(opa_binary: Path) -> None:
    """The socket is private, the environment empty; without the token nothing is answered, with it one question."""
    process = OpaProcess(opa_binary, [read_bundle(denying("Bad"))], "package cellward_gate\n\nresults := 1\n")
    await process.start()
    try:
        assert process.socket is not None
        assert process.socket.stat().st_mode & 0o777 == 0o600
        assert process.socket.parent.stat().st_mode & 0o777 == 0o700
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        assert await process.ask({}) == 1
        connector = aiohttp.UnixConnector(path=str(process.socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            for method, path in (
                ("GET", "/health"), ("GET", "/v1/data"), ("POST", "/v1/data/cellward_gate/results"),
                ("PUT", "/v1/policies/x"), ("GET", "/v1/config"), ("POST", "/v1/query"),
            ):  # fmt: skip
                async with session.request(method, f"http://localhost{path}", data=b"{}") as response:
                    assert response.status == 401, path
            assert process._client is not None
            bearer = {"Authorization": f"Bearer {process._client._token}"}
            for method, path, status in (
                ("POST", "/v1/data/cellward_gate/results", 200), ("GET", "/health", 200),
                ("GET", "/v1/data/cellward_gate/results", 401), ("POST", "/v1/data", 401), ("GET", "/v1/data", 401),
                ("POST", "/v1/data/base/deny", 401), ("POST", "/v0/data/cellward_gate/results", 401),
                ("POST", "/v1/data/cellward_gate/results/x", 401), ("PUT", "/v1/data/x", 401),
                ("PATCH", "/v1/data/x", 401),
                ("PUT", "/v1/policies/x", 401), ("GET", "/v1/policies", 401), ("DELETE", "/v1/policies/gate.rego", 401),
                ("GET", "/v1/config", 401), ("POST", "/v1/query", 401), ("POST", "/v1/compile", 401),
                ("POST", "/", 401), ("GET", "/metrics", 401),
            ):  # fmt: skip
                async with session.request(method, f"http://localhost{path}", data=b"{}", headers=bearer) as response:
                    assert response.status == status, (method, path)
    finally:
        await process.stop()


async def test_killed_engine_comes_back(world: PolicyWorld, agent: Agent) -> None:
    """OPA dead: decisions are refused with their own code meanwhile, and the engine is restarted."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await refused_until_recovered(service, world, pid) > 0
        assert agent.condition("policy-engine") == ""


async def test_hung_engine_is_replaced(world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPA hung: a query ends at its deadline, counts as a refusal, and the engine is replaced."""
    # Only the question itself may find it, not the health check that comes by now and then.
    monkeypatch.setattr("agent.policy.engine.HEALTH_INTERVAL", 3600.0)
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        await stop(pid)
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/engine-unavailable"
        await refused_until_recovered(service, world, pid)


async def test_engine_that_lost_its_socket_is_replaced(world: PolicyWorld, agent: Agent) -> None:
    """A connection kept alive must not make an engine look healthy that nobody can newly reach."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
        pid = service.engine_pid
        assert pid is not None
        assert service.active is not None
        process = service.active.engines.deciding._process
        assert process is not None
        assert process.socket is not None
        shutil.rmtree(process.socket.parent)
        assert not await process.healthy()
        await refused_until_recovered(service, world, pid)


async def test_v16_engine_that_finds_no_room_is_started_again_later(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: a full /tmp refuses with its code, at start and later, and ends nothing: with room there is an engine."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        with monkeypatch.context() as full:
            full.setattr("tempfile.tempdir", "/dev/null/full")
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: true(agent.message("policy-engine").startswith("the engine cannot be started: ")))
            world.publish(denying("Worse", version="1.0.1"))
            assert await refused(service, world.source) == "policy/state-unwritable"
            with pytest.raises(CellwardError) as caught:
                await Compiler(agent.opa).check([read_bundle(denying("Bad"))])
            assert caught.value.code == "policy/engine-unavailable"
        await refused_until_recovered(service, world, pid)
    with monkeypatch.context() as full:
        full.setattr("tempfile.tempdir", "/dev/null/full")
        running = agent.running()
        service = await running.__aenter__()
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/engine-unavailable"
    try:
        await refused_until_recovered(service, world, 0)
    finally:
        await running.__aexit__(None, None, None)


async def test_v16_engine_whose_keeper_fails_in_an_unforeseen_way_is_kept(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: a mistake of ours while an engine is started again must not be a denial for good."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        with monkeypatch.context() as broken:
            broken.setattr("agent.policy.opa.Scratch", None)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: true(agent.message("policy-engine") == "the engine cannot be kept: TypeError"))
        await refused_until_recovered(service, world, pid)
    with monkeypatch.context() as broken:
        broken.setattr("agent.policy.opa.Scratch", None)
        running = agent.running()
        service = await running.__aenter__()
    try:
        await refused_until_recovered(service, world, 0)
        assert service.findings == ()
    finally:
        await running.__aexit__(None, None, None)


async def test_condition_of_an_engine_that_was_replaced_is_not_told(world: PolicyWorld, agent: Agent) -> None:
    """An engine that dies while the next set is switched to must not leave its condition red."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        assert service.active is not None
        old = service.active.engines.deciding
        world.publish(denying("Worse", version="1.0.1"))
        stopped = asyncio.Event()
        end = old.stop

        async def late() -> None:
            pid = old.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: true(old.pid != pid))
            stopped.set()
            await end()

        old.stop = late  # type: ignore[method-assign]
        await service.refresh(world.source)
        assert stopped.is_set()
        assert agent.condition("policy-engine") == ""


async def test_bundle_that_the_engine_cannot_activate_is_named(opa_binary: Path) -> None:
    """OPA itself tries for ever, and would look like an engine that is slow to start."""
    process = OpaProcess(
        opa_binary,
        [read_bundle(archive("base", "1.0.0", "deny(x) := x"))],
        "package cellward_gate\n\nr := data.base.deny",
    )
    begun = asyncio.get_running_loop().time()
    with pytest.raises(CellwardError) as caught:
        await process.start()
    assert (caught.value.code, "data.base.deny" in caught.value.message) == ("policy/does-not-compile", True)
    assert asyncio.get_running_loop().time() - begun < 10
