"""When a rollout is judged, and by which time; and how long the cluster counts as seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agent.cells.cell import Cell, kept_of
from agent.cells.machine.events import Sight
from agent.cells.machine.rollout import LOOK_AGAIN, Verdict, timed, verdict
from agent.cells.machine.state import Hold
from agent.kube.interfaces import WatchEvent
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.watcher import KINDS, ClusterWatch, Watched
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube

PLACE = "shop--front--dev"


def _manifest(name: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": PLACE}, "spec": {}}


def _live(name: str, version: str, ready: int) -> dict[str, Any]:
    live = _manifest(name)
    live["metadata"] |= {"uid": f"u-{name}", "generation": 1, "resourceVersion": version}
    live["spec"] = {"replicas": 1}
    live["status"] = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": ready}
    return live


class _Court:
    """A cell, the clock of its rollout, and whether the cluster is in view."""

    def __init__(self) -> None:
        objects = tuple(OwnedObject(_manifest(name), Role.OBJECT, f"u-{name}") for name in ("a", "b"))
        self.cell = Cell(
            CellRecord(
                "shop", "front", "dev", PLACE, "sha256:d", "sha256:r", "1.0.0", settled=True, objects=objects,
                rollout_started="2026-01-01T00:00:00Z", deadline_seconds=100,
            )
        )  # fmt: skip
        self.now = 1.0
        self.view: float | None = 0.0
        self.look()

    def passes(self, seconds: float, *, seen: bool = True) -> None:
        self.now += seconds
        if seen and self.view is not None:
            self.view += seconds

    def look(self) -> Verdict | None:
        """Set the clock by what is seen now, and judge."""
        seen = Sight(self.now, 0.5, "token", kept_of(self.cell.record), self.view)
        self.cell.life = timed(replace(self.cell.life, kept=seen.kept), seen)
        return verdict(self.cell.life, self.cell.outlook())


def test_ready_ends_it_and_unready_only_after_its_time() -> None:
    """The reason names what is not ready."""
    court = _Court()
    court.cell.observe(_live("a", "1", 1))
    court.cell.observe(_live("b", "2", 0))
    court.passes(99)
    assert court.look() is None
    court.passes(2)
    verdict = court.look()
    assert verdict is not None
    assert not verdict.ready
    assert "Deployment/shop--front--dev/b" in verdict.reason
    court.cell.observe(_live("b", "3", 1))
    verdict = court.look()
    assert verdict is not None
    assert verdict.ready


def test_time_out_of_view_does_not_count() -> None:
    """Neither does what was true before: nothing is judged until everything is in view again."""
    court = _Court()
    court.cell.observe(_live("a", "1", 1))
    court.cell.observe(_live("b", "2", 0))
    court.passes(50)
    seen, court.view = court.view, None
    court.passes(1000)
    assert (court.look(), court.cell.life.timed.over_at) == (None, None)
    court.view = seen
    court.passes(40)
    assert court.look() is None
    court.passes(20)
    assert court.look() is not None


def test_what_nobody_saw_is_not_unhealthy_and_what_is_gone_is() -> None:
    """The first is looked at again, not at once; the second was seen to be away."""
    court = _Court()
    court.cell.observe(_live("a", "1", 1))
    court.passes(101)
    assert court.look() == Verdict(later=LOOK_AGAIN)
    court.cell.forget(court.cell.record.objects[1].ref)
    court.passes(2)
    verdict = court.look()
    assert verdict is not None
    assert "it is gone" in verdict.reason


@pytest.mark.parametrize("how", ["quarantine", "hold"])
def test_what_is_withheld_is_not_late(how: str) -> None:
    """Its time begins anew when it is let go."""
    court = _Court()
    record = replace(court.cell.record, settled=how != "hold", quarantined=how == "quarantine")
    court.cell.record = record
    hold = Hold.QUARANTINE if how == "quarantine" else Hold.HOLD
    court.cell.life = replace(court.cell.life, hold=hold)
    court.passes(500)
    assert court.look() is None
    court.cell.record = replace(record, quarantined=False)
    court.cell.life = replace(court.cell.life, hold=Hold.RUN)
    court.passes(500)
    assert court.look() is None
    court.passes(99)
    assert court.look() is None


def test_half_a_release_fails_by_time_alone_and_a_whole_one_has_its_time() -> None:
    """Health says nothing while half of it is another release's."""
    court = _Court()
    court.cell.observe(_live("a", "1", 1))
    court.cell.observe(_live("b", "2", 1))
    court.cell.record = replace(court.cell.record, settled=False)
    court.passes(1)
    assert court.look() is None
    court.passes(90)
    assert court.look() is None
    court.passes(11)
    verdict = court.look()
    assert verdict is not None
    assert verdict.reason.startswith("not applied in time")
    court.cell.record = replace(court.cell.record, settled=True)
    court.cell.observe(_live("b", "3", 0))
    assert court.look() is None
    court.passes(99)
    assert court.look() is None


async def test_cluster_is_in_view_while_every_kind_is() -> None:
    """One watch that is lost is enough not to know."""
    kube, clock, synced = FakeKube(), ManualClock(), asyncio.Event()

    async def ignore(watched: Watched, event: WatchEvent) -> None:
        del watched, event

    watch = ClusterWatch(kube, HealthRegistry(), clock, ignore, synced.set)
    assert watch.in_view() is None
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(synced.wait(), 30)
        clock.advance(30)
        assert watch.in_view() == 30
        kube.go_down()
        while watch.in_view() is not None:
            await asyncio.sleep(0)
        clock.advance(1000)
        synced.clear()
        kube.come_back()
        await asyncio.wait_for(synced.wait(), 30)
        clock.advance(5)
        assert watch.in_view() == 35
        assert len(KINDS) > 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
