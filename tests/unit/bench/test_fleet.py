"""Parts of the fleet benchmark that could flatter the numbers: events, observation points, who is missing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agent.link.desired import HUB_EPOCH, REVISION
from agent.spool.state import open_state
from bench.fleet.events import Event, event_of, line_of
from bench.fleet.scenario import since
from bench.fleet.stamped import StampedState
from bench.numbers import percentile
from bench.single.cell import OBJECTS, WORKLOADS, rendered
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2

KEY = CellKey("shop", "cart", "dev")


def test_events_survive_the_pipe() -> None:
    """What a worker writes is what the parent reads."""
    event = Event("acked", "sim-0001", 12.5, "sha256:" + "a" * 64)
    assert event_of(line_of(event)) == event


def test_whoever_is_missing_spoils_the_last() -> None:
    """One agent that never answered makes the slowest, and so the bar, a miss; all there, and it is the slowest."""
    assert max(since(10.0, [11.0, 12.0], 2)) == 2.0
    late = since(10.0, [11.0, 12.0], 3)
    assert math.isnan(max(late))
    assert math.isnan(percentile(late, 0.5)), "a missing agent must not count as a fast one"


@pytest.fixture
async def observed(tmp_path: Path) -> tuple[StampedState, list[object]]:
    """A real state and what was observed."""
    seen: list[object] = []
    opened = await open_state(tmp_path / "state", clock=SystemClock())
    state = StampedState(
        opened.db, acked=lambda digest, accepted: seen.append((digest, accepted)), synced=lambda: seen.append("synced")
    )
    return state, seen


async def test_acked_means_the_hub_acknowledged(observed: tuple[StampedState, list[object]]) -> None:
    """A receipt counts when it is dropped after the hub's acknowledgement, not when it is stored or sent; and once."""
    state, seen = observed
    receipt = link_pb2.Receipt(deployment_digest="sha256:" + "b" * 64, accepted=True)
    number = await state.outbox.put(KEY, receipt.SerializeToString())
    assert [entry[0] for entry in await state.outbox.pending()] == [number]
    assert seen == []
    await state.outbox.done(KEY, number)
    await state.outbox.done(KEY, number)
    assert seen == [("sha256:" + "b" * 64, True)]
    assert await state.outbox.pending() == ()
    await state.close()


async def test_synced_means_the_items_were_compared(observed: tuple[StampedState, list[object]]) -> None:
    """Only the mark after an equal items digest stores revision and epoch together; a resync that begins does not."""
    state, seen = observed
    await state.meta.set({REVISION: "0"})
    assert seen == []
    await state.meta.set({REVISION: "7", HUB_EPOCH: "e"})
    assert seen == ["synced"]
    assert await state.meta.get(REVISION) == "7"
    await state.close()


def test_the_cell_has_twenty_objects() -> None:
    """The cell that is called one of twenty objects is one."""
    facts = ClusterFacts(
        name="c", uid="u", environments=("dev",), production=False, labels={}, region="r", projects=("*",)
    )
    objects = rendered(facts, "dev")
    assert len(objects) == OBJECTS
    assert sum(item["kind"] == "Deployment" for item in objects) == len(WORKLOADS)
