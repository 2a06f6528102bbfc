"""Metrics of the cells' own programs: what the signed release names of its own pods, and no cell at another's cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.kube.interfaces import ref_of
from agent.metrics.registry import AgentMetrics
from agent.metrics.scrape import scraper as room
from agent.metrics.scrape.aims import Aim, Aimed, KeptAims, Place
from agent.metrics.scrape.fetch import UNREADABLE, is_pod_address
from agent.metrics.scrape.scraper import Scraper, targets
from cellward.documents.names import CellKey
from cellward.telemetry import series
from tests.fakes.cell_world import World, cell_yaml, chart_guards, fenced, service_yaml
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube

_AIM = Aim(8080, "/metrics", frozenset({"up_x"}))
_WEB, _SLOW = CellKey("shop", "web", "dev"), CellKey("shop", "slow", "dev")


def _pod(key: CellKey, name: str, address: str = "10.0.0.1", **more: Any) -> dict[str, Any]:
    """A pod that is ready, of component ``web``."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "--".join(key),
            "labels": {"cellward.dev/component": "web", "app.kubernetes.io/name": "web"},
        },
        "spec": {"containers": [{"name": "c", "image": "x"}], **more},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


class _Pages:
    """Answers by address; what is asked is noted."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[], Awaitable[str]]] = {}
        self.asked: list[tuple[str, int, str]] = []

    async def get(self, address: str, port: int, path: str) -> str:
        self.asked.append((address, port, path))
        return await self.answers[address]()

    async def close(self) -> None:
        """Nothing is open."""

    def says(self, address: str, page: str) -> None:
        async def answer() -> str:
            return page

        self.answers[address] = answer


class _Aims(KeptAims):
    """Aims as the test has them."""

    def __init__(self, *keys: CellKey) -> None:
        self.keys = keys

    async def now(self) -> dict[CellKey, Aimed]:
        return {key: Aimed("--".join(key), {"web": _AIM}) for key in self.keys}


@pytest.fixture
def kube() -> FakeKube:
    """A cluster without anything."""
    return FakeKube()


@pytest.fixture
def pages() -> _Pages:
    """Pods that answer as the test says."""
    return _Pages()


def _scraper(kube: FakeKube, pages: _Pages, *keys: CellKey) -> tuple[Scraper, AgentMetrics]:
    metrics = AgentMetrics()
    return Scraper(kube, _Aims(*keys), pages, lambda place: f"cell:{place}", metrics, ManualClock(), 60.0), metrics


async def _made(kube: FakeKube, pod: dict[str, Any]) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pod["metadata"]["namespace"]}}
    await kube.apply(namespace, manager="test")
    status = pod.pop("status")
    kube.set_status(ref_of(await kube.apply(pod, manager="test")), status)


def _value(metrics: AgentMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"project": "shop", "cell": "web", "environment": "dev", **labels})


async def test_v12_what_pods_say_is_read_by_the_cells_own_account(kube: FakeKube, pages: _Pages) -> None:
    """Port, path and names are those of the aim; whose it is says the agent."""
    await _made(kube, _pod(_WEB, "web-1"))
    pages.says("10.0.0.1", 'up_x{a="b"} 1\nother 2\n')
    scraper, metrics = _scraper(kube, pages, _WEB)
    await scraper.once()
    (found,) = scraper.found()
    assert (found.project, found.cell, found.environment, found.component, found.pod) == (*_WEB, "web", "web-1")
    assert [(one.name, one.labels, one.value) for one in found.series] == [("up_x", {"a": "b"}, 1.0)]
    assert pages.asked == [("10.0.0.1", 8080, "/metrics")]
    assert {user for _, _, user in kube.requests if user is not None} == {"cell:shop--web--dev"}
    assert _value(metrics, "cellward_agent_scrape_pods", component="web", result="read") == 1
    assert _value(metrics, "cellward_agent_scrape_series") == 1


async def test_v16_a_pod_that_fails_leaves_nothing_and_costs_nobody(kube: FakeKube, pages: _Pages) -> None:
    """What it said before is gone, as it is with Prometheus; the pod beside it is read."""
    for number in (1, 2):
        await _made(kube, _pod(_WEB, f"web-{number}", f"10.0.0.{number}"))
        pages.says(f"10.0.0.{number}", "up_x 1\n")
    scraper, metrics = _scraper(kube, pages, _WEB)
    await scraper.once()
    assert [one.pod for one in scraper.found()] == ["web-1", "web-2"]

    async def fails() -> str:
        raise UNREADABLE("no")

    pages.answers["10.0.0.1"] = fails
    await scraper.once()
    assert [one.pod for one in scraper.found()] == ["web-2"]
    assert _value(metrics, "cellward_agent_scrape_pods", component="web", result="failed") == 1


async def test_v16_a_cell_that_hangs_costs_the_others_nothing(
    kube: FakeKube, pages: _Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time ends, and what its other pods said counts."""
    monkeypatch.setattr(room, "CELL_SECONDS", 0.05)

    async def hangs() -> str:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    for number in range(12):
        await _made(kube, _pod(_SLOW, f"slow-{number}", f"10.0.1.{number + 1}"))
        pages.answers[f"10.0.1.{number + 1}"] = hangs
    await _made(kube, _pod(_WEB, "web-1"))
    pages.says("10.0.0.1", "up_x 1\n")
    scraper, _ = _scraper(kube, pages, _SLOW, _WEB)
    async with asyncio.timeout(20):
        await scraper.once()
    assert [one.pod for one in scraper.found()] == ["web-1"]


async def test_v16_each_cell_has_its_share_of_series(
    kube: FakeKube, pages: _Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is above is counted; one cell that says much takes nothing from another."""
    monkeypatch.setattr(room, "CLUSTER_SERIES", 20)
    many = "\n".join(f'up_x{{n="{number}"}} 1' for number in range(50))
    for key, name, address in ((_WEB, "web-1", "10.0.0.1"), (_SLOW, "slow-1", "10.0.0.2")):
        await _made(kube, _pod(key, name, address))
        pages.says(address, many)
    scraper, metrics = _scraper(kube, pages, _WEB, _SLOW)
    await scraper.once()
    assert [len(one.series) for one in scraper.found()] == [10, 10]
    assert _value(metrics, "cellward_agent_scrape_cut_series") == 40


def test_only_ready_pods_with_an_address_of_their_own_are_asked() -> None:
    """One in the node's network would have the agent ask the node; nobody else's address is a pod's."""
    away = _pod(_WEB, "away")
    away["status"]["conditions"] = []
    stranger = _pod(_WEB, "stranger")
    stranger["metadata"]["labels"]["cellward.dev/component"] = "other"
    pods = [away, stranger, _pod(_WEB, "host", hostNetwork=True), _pod(_WEB, "b"), _pod(_WEB, "a")]
    pods += [_pod(_WEB, f"at-{address}", address) for address in ("127.0.0.1", "169.254.169.254", "::1", "x", "")]
    assert [one.name for one in targets(pods, {"web": _AIM})] == ["a", "b"]
    assert is_pod_address("fd00::1")


async def test_v16_pods_beyond_the_bound_are_counted(kube: FakeKube, pages: _Pages, monkeypatch: Any) -> None:
    """They are not asked."""
    monkeypatch.setattr(room, "MOST_PODS", 1)
    for number in (1, 2, 3):
        await _made(kube, _pod(_WEB, f"web-{number}", f"10.0.0.{number}"))
        pages.says(f"10.0.0.{number}", "up_x 1\n")
    scraper, metrics = _scraper(kube, pages, _WEB)
    await scraper.once()
    assert len(pages.asked) == 1
    assert _value(metrics, "cellward_agent_scrape_pods", component="web", result="left out") == 2


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An engine."""
    made = World(tmp_path / "state", await fenced(), chart_guards())
    async with made.running():
        yield made


async def test_v2_where_and_what_comes_from_the_signed_release(world: World) -> None:
    """Of the release that runs; a component that names nothing is not read, and in quarantine nothing is."""
    extra = "      scrape: {port: http, path: /m, metrics: [up_x]}\n"
    mute = service_yaml("mute", extra="      scrape: {port: http}\n")
    assert (await world.deploy(cell_yaml("web", components=service_yaml(extra=extra) + mute), "web")).accepted

    def running() -> dict[CellKey, Place]:
        return {key: Place(*where) for key, where in world.engine.running().items()}

    aims = KeptAims(running, world.state.blobs.get)
    assert await aims.now() == {_WEB: Aimed("shop--web--dev", {"web": Aim(8080, "/m", frozenset({"up_x"}))})}
    placed = world.deployment("web", world.release(cell_yaml("web", "2.0.0")))
    await world.engine.submit(world.item("web", placed, hub_state="quarantine"))
    await world.phase("web", "held")
    assert await aims.now() == {}


def test_bounds_fit_into_one_another() -> None:
    """A pod's into a cell's, a cell's into a cluster's."""
    assert series.POD_SERIES <= series.CELL_SERIES <= series.CLUSTER_SERIES
