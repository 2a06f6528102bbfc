"""The start gate comes with the next deployment, and with nothing else (V9, V11)."""

from __future__ import annotations

from typing import Any

from agent.kube.interfaces import ObjectRef
from cellward.cells.gate import StartGate
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

_OLD, _NEW = (StartGate(f"cellward.local/agent@sha256:{digit * 64}", ("10.96.0.1", 443)) for digit in "01")
_WEB = ObjectRef("apps/v1", "Deployment", "shop--web--dev", "web")
_ONCE = ObjectRef("batch/v1", "Job", "shop--web--dev", "once")
_JOB = "    once:\n      type: job\n      image: registry.example/once:1\n"


def _first(kube: FakeKube, ref: ObjectRef = _WEB) -> str:
    """Image of the first thing that pods of an object run; empty when it is no gate."""
    pod: dict[str, Any] = kube._objects[ref]["spec"]["template"]["spec"]
    return str((pod.get("initContainers") or [{"image": ""}])[0]["image"])


async def _deploy(world: World, version: str) -> None:
    receipt = await world.deploy(cell_yaml("web", version, service_yaml() + _JOB), "web")
    assert receipt.accepted, receipt.refusals


async def _with(world: World, gate: StartGate | None) -> None:
    """Start the agent again with other settings."""
    await world._stop()
    world.start_gate = gate
    await world._start()


async def test_v11_settings_alone_restart_no_pod(world: World, kube: FakeKube) -> None:
    """A gate that comes, changes or goes waits for a deployment that somebody signed; repairs know the one in force."""
    await _deploy(world, "1.0.0")
    before = ""
    for gate, version in ((_OLD, "1.1.0"), (_NEW, "1.2.0"), (None, "1.3.0")):
        untouched = kube._objects[_WEB]["metadata"]["resourceVersion"]
        await _with(world, gate)
        assert kube._objects[_WEB]["metadata"]["resourceVersion"] == untouched
        await kube.delete(_WEB)
        await world.until(lambda: _WEB in kube._objects)
        assert _first(kube) == before
        pending = [one for one in world.report("web").conditions if one.code == "cell/start-gate-pending"]
        assert bool(pending) == (gate is not None and not before), (
            "what starts without it says so, the Job that ran does not"
        )
        await _deploy(world, version)
        assert not [one for one in world.report("web").conditions if one.code == "cell/start-gate-pending"]
        before = "" if gate is None else gate.image
        assert _first(kube) == before


async def test_v11_a_job_that_ran_needs_no_replacement_for_a_gate(world: World, kube: FakeKube) -> None:
    """Its template cannot change: it keeps what it began with, and policy is asked about just that."""
    await _deploy(world, "1.0.0")
    await _with(world, _OLD)
    await _deploy(world, "1.1.0")
    assert (_first(kube), _first(kube, _ONCE)) == (_OLD.image, "")
    asked = world.policy.evaluator.asked[-1]
    assert asked.gates == (_OLD.image,)
    (job,) = [one for one in asked.objects if one["kind"] == "Job"]
    assert "initContainers" not in str(job)
