"""What cells use: amounts summed as the scheduler counts them, read by each cell's own account, gone when old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from agent.metrics.amounts import asked_by, quantity, used_by
from agent.metrics.registry import AgentMetrics
from agent.metrics.usage import UsageReader
from cellward.documents.names import CellKey
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube

KEY = CellKey("shop", "cart", "dev")
PLACE = "shop--cart--dev"
LABELS = {"project": "shop", "cell": "cart", "environment": "dev"}
MANAGED = {"app.kubernetes.io/managed-by": "cellward"}


def container(cpu: str = "", memory: str = "", *, limits: bool = True, **more: str) -> dict[str, Any]:
    """A container of a pod that asks for something, with the same as its limit."""
    asked = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
    resources = {"requests": asked, "limits": asked} if limits else {"requests": asked}
    return {"name": "c", "resources": resources, **more}


def pod(*containers: dict[str, Any], name: str = "a", phase: str = "Running", **spec: Any) -> dict[str, Any]:
    """A pod as the API server shows it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": PLACE, "labels": MANAGED},
        "spec": {"containers": list(containers), **spec},
        "status": {"phase": phase},
    }


def measured(name: str = "a", cpu: str = "250m", memory: str = "64Mi", at: str = "2026-01-01T00:00:00Z") -> Any:
    """What a metrics server says of a pod."""
    return {
        "apiVersion": "metrics.k8s.io/v1beta1",
        "kind": "PodMetrics",
        "metadata": {"name": name, "namespace": PLACE},
        "timestamp": at,
        "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": memory}}],
    }


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("250m", 0.25),
        ("1", 1.0),
        ("1.5Gi", 1.5 * 2**30),
        ("129e6", 129e6),
        ("1E", 1e18),
        ("1500n", 1.5e-6),
        (".5", 0.5),
    ],
)
def test_amounts_are_read_as_kubernetes_writes_them(text: str, amount: float) -> None:
    """Every suffix; exponents too."""
    assert quantity(text) == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e999", "9" * 400, "1Zi", "1 m", "0x10", None, {}])
def test_what_is_no_amount_is_refused(text: object) -> None:
    """Also what Python's float would take."""
    with pytest.raises(ValueError, match="amount"):
        quantity(text)


def test_requests_are_counted_as_the_scheduler_does() -> None:
    """An init container counts only where it needs more than what runs later; one that goes on counts with all."""
    first, side = container("2", "1Mi"), container("100m", "1Mi", restartPolicy="Always")
    many = [container("500m", "32Mi"), container("250m")]
    overhead = {"cpu": "10m"}
    assert asked_by([pod(*many)]).cpu_requests == pytest.approx(0.75)
    assert asked_by([pod(*many, initContainers=[first])]).cpu_requests == pytest.approx(2.0)
    assert asked_by([pod(*many, initContainers=[side])]).cpu_requests == pytest.approx(0.85)
    assert asked_by([pod(*many, initContainers=[side, first])]).cpu_requests == pytest.approx(2.1)
    assert asked_by([pod(*many, overhead=overhead)]).cpu_requests == pytest.approx(0.76)


def test_a_pod_that_ended_asks_for_nothing_and_one_without_a_limit_has_none() -> None:
    """The sum of some limits is no limit of all."""
    asked = asked_by([pod(container("1", "1Mi")), pod(container("1"), name="b", phase="Succeeded")])
    assert (asked.pods, asked.cpu_requests, asked.cpu_limits) == (1, 1.0, 1.0)
    free = asked_by([pod(container("1", "1Mi")), pod(container("1", "1Mi", limits=False), name="b")])
    assert (free.pods, free.cpu_requests, free.cpu_limits, free.memory_limits) == (2, 2.0, None, None)


def test_usage_is_of_the_cells_own_pods_and_as_old_as_its_oldest_part() -> None:
    """What the server says of other pods is not counted."""
    old = measured("b", "1", "1Ki", at="2025-12-31T23:59:00Z")
    used = used_by([measured(), old, measured("foreign", "64", "1Ti")], {"a", "b"})
    assert used is not None
    assert (used.cpu, used.memory) == (1.25, 64 * 2**20 + 1024)
    assert used.measured == pytest.approx(1767225540)
    assert used_by([measured("foreign")], {"a"}) is None


class World:
    """A reader over a cluster in memory, which stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.kube, self.clock, self.metrics = FakeKube(), ManualClock(), AgentMetrics()
        self.cells = {KEY: PLACE}
        self.reader = UsageReader(
            self.kube, lambda: self.cells, lambda namespace: f"account-of-{namespace}", self.metrics, self.clock, 60.0
        )

    def value(self, name: str, labels: dict[str, str] = LABELS) -> float | None:
        return self.metrics.registry.get_sample_value(f"cellward_agent_cell_{name}", labels)

    async def put(self, obj: dict[str, Any]) -> None:
        ref = ObjectRef(obj["apiVersion"], obj["kind"], PLACE, obj["metadata"]["name"])
        self.kube._objects[ref] = obj

    def reads(self) -> int:
        return sum(verb == "list" and ref.kind == "Pod" for verb, ref, _ in self.kube.requests)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.clock.advance(10)
                for _ in range(5):
                    await asyncio.sleep(0)

    async def another_round(self) -> None:
        seen = self.reads()
        await self.until(lambda: self.reads() >= seen + 2)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    """A world whose cell has a namespace and a reader that works."""
    world = World()
    await world.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}}, manager="t")
    await world.put(pod(container("1", "128Mi")))
    task = asyncio.create_task(world.reader.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_v12_a_cell_is_read_by_its_own_account_in_its_namespace() -> None:
    """No request without the cell's account, or beyond its namespace."""
    async with running() as world:
        await world.put(measured())
        await world.until(lambda: world.value("cpu_usage_cores") is not None)
        assert {(ref.namespace, user) for verb, ref, user in world.kube.requests if verb == "list"} == {
            (PLACE, f"account-of-{PLACE}")
        }
        assert [world.value(name) for name in ("pods", "cpu_usage_cores", "memory_usage_bytes")] == [1, 0.25, 2.0**26]
        assert [world.value(name) for name in ("cpu_requests_cores", "memory_limits_bytes")] == [1, 2.0**27]


@pytest.mark.parametrize("error", [KUBE_UNAVAILABLE, KUBE_FORBIDDEN])
async def test_without_a_metrics_server_usage_is_unknown_and_requests_are_there(error: Any) -> None:
    """What was used before is not said again, not even as nothing."""
    async with running() as world:
        await world.put(measured())
        await world.until(lambda: world.value("cpu_usage_cores") is not None)

        def refuse(_: str, ref: ObjectRef, __: str | None) -> None:
            if ref.kind == "PodMetrics":
                raise error("none")

        world.kube.on_request = refuse
        await world.until(lambda: world.value("cpu_usage_cores") is None)
        assert (world.value("cpu_requests_cores"), world.value("usage_timestamp_seconds")) == (1, None)


@pytest.mark.parametrize(
    "answer", [{"containers": None}, {"timestamp": "yesterday"}, {"containers": [{"usage": {"cpu": "NaN"}}]}]
)
async def test_v16_an_answer_that_makes_no_sense_costs_only_itself(answer: dict[str, Any]) -> None:
    """The server is not Kubernetes itself; the reader goes on, and the next answer counts."""
    async with running() as world:
        await world.put({**measured(), **answer})
        await world.another_round()
        assert (world.value("cpu_requests_cores"), world.value("cpu_usage_cores")) == (1, None)
        await world.put(measured())
        await world.until(lambda: world.value("cpu_usage_cores") == 0.25)


async def test_a_cell_that_went_and_what_is_old_leave_no_series() -> None:
    """While the API server is away the last reading counts for some rounds, and then no more."""
    async with running() as world:
        await world.put(measured())
        await world.until(lambda: world.value("cpu_usage_cores") is not None)
        world.kube.go_down()
        await world.another_round()
        assert world.value("pods") == 1
        await world.until(lambda: world.value("pods") is None)
        world.kube.come_back()
        await world.until(lambda: world.value("pods") == 1)
        world.cells = {}
        await world.until(lambda: world.value("pods") is None)
        assert world.value("cpu_usage_cores") is None
