"""Who looks at the pods of cells, how many at once, and what is said when nobody may (V12, V15, V16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agent.cells import pods as looks
from agent.cells.overview import Overview
from agent.kube.errors import KUBE_FORBIDDEN
from agent.kube.interfaces import ObjectRef, WatchEvent, WatchType
from agent.metrics.registry import AgentMetrics
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

IMAGE = "registry.example/web:1"


def _namespace(cell: str) -> str:
    return f"shop--{cell}--dev"


def _web(cell: str) -> ObjectRef:
    return ObjectRef("apps/v1", "Deployment", _namespace(cell), "web")


async def _deploy(world: World, cell: str) -> None:
    receipt = await world.deploy(cell_yaml(cell, components=service_yaml(image=IMAGE, replicas=1)), cell)
    assert receipt.accepted, receipt.refusals


def _ready(kube: FakeKube, cell: str) -> None:
    kube.set_status(_web(cell), {"observedGeneration": 99, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1})


async def _pod(kube: FakeKube, cell: str, state: dict[str, Any], name: str = "web-1-a") -> ObjectRef:
    """Make a pod of the Deployment whose container is in a state."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": True}
    labels = {"app.kubernetes.io/managed-by": "cellward"}
    metadata = {"name": name, "namespace": _namespace(cell), "labels": labels, "ownerReferences": [owner]}
    spec = {"nodeName": "n1", "containers": [{"name": "main", "image": IMAGE}]}
    await kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, manager="kubelet")
    ref = ObjectRef("v1", "Pod", _namespace(cell), name)
    _says(kube, ref, state)
    return ref


def _says(kube: FakeKube, ref: ObjectRef, state: dict[str, Any]) -> None:
    kube.set_status(ref, {"phase": "Running", "containerStatuses": [{"name": "main", "image": IMAGE, "state": state}]})


def _codes(world: World, cell: str) -> list[str]:
    return [one.code for one in world.report(cell).conditions]


def _watched(kube: FakeKube) -> set[str]:
    """Namespaces whose pods are watched."""
    return {one.namespace for one in kube._watchers if one.kind == "Pod"}


_NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}


async def test_v15_pods_are_looked_at_while_their_cell_is_in_trouble(world: World, kube: FakeKube) -> None:
    """Only then, and only in its own namespace; what was said is over when the pods run."""
    await _deploy(world, "one")
    pod = await _pod(kube, "one", _NO_IMAGE)
    await world.until(lambda: _codes(world, "one") == ["cell/image-not-pulled"])
    assert _watched(kube) == {_namespace("one")}
    _says(kube, pod, {"running": {}})
    _ready(kube, "one")
    await world.phase("one", "ready")
    await world.until(lambda: not _codes(world, "one") and not _watched(kube))


async def test_v15_a_rollout_that_fails_says_what_its_pods_said(world: World, kube: FakeKube) -> None:
    """The record of the failure names image and reason, not only a number of pods."""
    await _deploy(world, "one")
    await _pod(kube, "one", _NO_IMAGE)
    await world.until(lambda: _codes(world, "one") == ["cell/image-not-pulled"])
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    kube.set_status(_web("one"), {"observedGeneration": 99, "conditions": [late]})
    await world.until(lambda: world.report("one").refusals)
    (refusal,) = world.report("one").refusals
    assert f"image {IMAGE}: ErrImagePull: manifest unknown" in refusal.reason


async def test_what_crashes_now_and_then_is_said_in_between(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that runs again makes its cell ready for a while: the reason stays that long, and then goes."""
    await _deploy(world, "one")
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    pod = await _pod(kube, "one", ended)
    await world.until(lambda: _codes(world, "one") == ["cell/out-of-memory"])
    _ready(kube, "one")
    await world.phase("one", "ready")
    _says(kube, pod, {"terminated": {"exitCode": 1, "reason": "Error"}})
    await world.until(lambda: _codes(world, "one") == ["cell/container-crashes"])
    monkeypatch.setattr(looks, "LINGER_SECONDS", 0.0)
    await world.until(lambda: not _codes(world, "one") and not _watched(kube))


async def test_v16_cells_in_trouble_take_turns(world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more at once than there are turns, and each says its own."""
    monkeypatch.setattr(looks, "TURN_SECONDS", 0.05)
    world.engine._watches.pods._turns = asyncio.Semaphore(2)
    cells = ["one", "two", "three", "four", "five"]
    most = 0
    for cell in cells:
        await _deploy(world, cell)
        await _pod(kube, cell, _NO_IMAGE)

    def all_said() -> bool:
        nonlocal most
        most = max(most, len(_watched(kube)))
        return all(_codes(world, cell) == ["cell/image-not-pulled"] for cell in cells)

    await world.until(all_said)
    assert most == 2


async def test_v15_pods_that_may_not_be_read_say_so(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the chart of an older version: a code of its own, and nothing else of the cell suffers."""
    real, allowed = kube.watch, asyncio.Event()

    async def watch(api_version: str, kind: str, **rest: Any) -> AsyncIterator[WatchEvent]:
        if kind in {"Pod", "Event"} and not allowed.is_set():
            assert rest["as_user"] == f"system:serviceaccount:cellward-system:cell-{_namespace('one')}"
            yield WatchEvent(WatchType.RESTARTED, {})
            yield WatchEvent(WatchType.INTERRUPTED, {}, "watch: pods is forbidden", KUBE_FORBIDDEN.code)
            await allowed.wait()
        async for event in real(api_version, kind, **rest):
            yield event

    monkeypatch.setattr(kube, "watch", watch)
    await _deploy(world, "one")
    await world.until(lambda: _codes(world, "one") == ["cell/pods-not-read"])
    await _pod(kube, "one", _NO_IMAGE)
    allowed.set()
    await world.until(lambda: _codes(world, "one") == ["cell/image-not-pulled"])


def _events(count: int) -> Iterator[WatchEvent]:
    yield WatchEvent(WatchType.RESTARTED, {})
    for number in range(count):
        yield WatchEvent(WatchType.ADDED, {"metadata": {"name": f"p{number}"}})
    yield WatchEvent(WatchType.SYNCED, {})


def test_v16_what_is_kept_of_a_cell_is_bounded() -> None:
    """However many pods it has; a new list replaces the old one when it is whole."""
    seen = looks._Seen(lambda pod: str(pod["metadata"]["name"]))
    for event in _events(2000):
        seen.take(event)
    assert len(seen.found) == 500
    told = [seen.take(event) for event in _events(3)]
    assert told == [False, False, False, False, True]
    assert set(seen.found.values()) == {"p0", "p1", "p2"}


async def test_v9_how_long_real_pods_were_open_is_reported(world: World, kube: FakeKube) -> None:
    """What their start gates found is the metric, where it is worse than what a probe measured."""
    world.prober.lag = 1.5
    await _deploy(world, "one")
    pod = await _pod(kube, "one", {"running": {}})
    ended = {"terminated": {"exitCode": 0, "message": '{"open":"01","lag_ms":[2250,0]}'}}
    gate = {"name": "cellward-start-gate", "image": IMAGE, "state": ended}
    kube.set_status(pod, {"phase": "Pending", "initContainerStatuses": [gate]})
    metrics, key = AgentMetrics(), {"project": "shop", "cell": "one", "environment": "dev"}

    def reported() -> bool:
        Overview(world.engine._roster, world.health, metrics).judge(())
        return metrics.registry.get_sample_value("cellward_agent_egress_lag_seconds", key) == 2.25

    await world.until(reported)
