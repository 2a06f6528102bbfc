"""An agent that joined pushes as much as it can on as many streams as it can: what everybody else still gets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import telemetry_pb2, telemetry_pb2_grpc
from hub.metrics.service import ALLOWED, FleetMetrics
from hub.store.interfaces import ClusterRow
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import failure, stream, until
from tests.fakes.clock import ManualClock
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.test_listeners import fetch, joined

GAUGE = next(metric.name for metric in ALLOWED.values() if metric.type == "gauge")


def snapshot(series: int, seq: int = 1) -> telemetry_pb2.MetricsBatch:
    """A snapshot of so many series that nobody has pushed before."""
    batch = telemetry_pb2.MetricsBatch(seq=seq)
    family = batch.families.add(name=GAUGE, type="gauge")
    for number in range(series):
        family.samples.add(name=GAUGE, labels={"a": f"{seq}x{number}"}, value=1.0)
    return batch


async def test_v4_v16_while_a_large_snapshot_is_checked_everybody_else_goes_on() -> None:
    """V4, V16: the loop that cuts streams and answers agents turns many times meanwhile."""
    metrics, batch = FleetMetrics(ManualClock()), snapshot(20_000)
    pushed, turns = asyncio.ensure_future(metrics.push("evil", batch)), 0
    while not pushed.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert pushed.result() == 0
    assert metrics.series_count() == 20_000
    # Checked on the loop it is one turn, however long that takes.
    assert turns > 3


@dataclass
class Samples:
    """Samples without end, of one family, that count how many of them were looked at."""

    name: str
    length: int
    looked: int = 0
    type: str = "gauge"
    help: str = ""
    samples: Any = field(init=False)

    def __post_init__(self) -> None:
        self.samples = self

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.length):
            self.looked += 1
            yield SimpleNamespace(name=self.name, value=1.0, labels={"n": str(number)})


@pytest.mark.parametrize(("name", "most"), [(GAUGE, 10), ("cellward_agent_nobody", 0)])
async def test_v16_what_cannot_be_kept_is_not_read(name: str, most: int) -> None:
    """Bounds come before the work: no names and labels of samples beyond them, nor of families nobody knows."""
    metrics, family = FleetMetrics(ManualClock(), series_limit=10), Samples(name, 1000)
    key = metrics._shape_of(cast("telemetry_pb2.MetricsBatch", SimpleNamespace(families=[family])))
    assert family.looked == most
    assert (len(key.positions), key.refused) == (most, 1000 - most)


@pytest.mark.parametrize("method", ["PushMetrics", "PushAudit"])
async def test_v16_an_agent_has_one_stream_of_a_kind_and_a_newer_one_ends_the_older(method: str) -> None:
    """Of six streams one is open; the agent's Sync and other agents notice nothing."""
    async with FakeLinkHub(SystemClock(), SyncLimits()).running() as here, AsyncExitStack() as stack:
        evil, good = await joined(here, "evil"), await joined(here, "good")
        mine = await stack.enter_async_context(good.channel(here))
        calls: list[Any] = []
        for number in range(6):
            channel = await stack.enter_async_context(evil.channel(here))
            call: Any = getattr(telemetry_pb2_grpc.TelemetryStub(channel), method)()
            await call.write(_first(method, number + 1))
            await call.read()
            calls.append(call)
        for call in calls[:-1]:
            async with asyncio.timeout(30):
                assert await call.code() is grpc.StatusCode.ABORTED
            assert dict(await call.trailing_metadata())["cellward-code"] == "link/superseded"
        await until(lambda: len(here.link._gate._live.get("evil", ())) == 1, "the older ones are gone")
        assert not calls[-1].done()
        # Another agent's stream of the kind is another agent's.
        theirs: Any = getattr(telemetry_pb2_grpc.TelemetryStub(mine), method)()
        await theirs.write(_first(method, 1))
        assert await theirs.read() is not grpc.aio.EOF
        assert not calls[-1].done()
        theirs.cancel()


def _first(method: str, number: int) -> telemetry_pb2.MetricsBatch | telemetry_pb2.AuditBatch:
    if method == "PushMetrics":
        return snapshot(1, number)
    return telemetry_pb2.AuditBatch(epoch=1, first_seq=number, records=[b"r"])


async def test_v16_metrics_beyond_the_rate_are_not_read_on_whatever_stream() -> None:
    """What was sent too much is paid for by its sender alone, a new stream begins with the same debt."""
    limits = SyncLimits(metrics_burst=2000, metrics_per_second=1, metrics_least=1000)
    async with FakeLinkHub(SystemClock(), limits).running() as here:
        evil, good = await joined(here, "evil"), await joined(here, "good")
        async with evil.channel(here) as channel, good.channel(here) as other:
            for number in range(4):
                call: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushMetrics()
                await call.write(snapshot(200, number + 1))
                if not number:
                    assert (await call.read()).seq == 1
                # A round trip of the same agent: the stream is open by then.
                assert (await fetch(channel))[0].absent
            push: Any = telemetry_pb2_grpc.TelemetryStub(other).PushMetrics()
            await push.write(snapshot(1, 7))
            assert (await push.read()).seq == 7
            async with stream(channel) as link:
                await link.send(hello=evil.hello())
                await link.receive("welcome")
            assert {name: batch.seq for name, batch in here.metrics.snapshots.items()} == {"evil": 1, "good": 7}
            call.cancel()
            push.cancel()


async def test_v16_calls_that_come_together_are_bounded_as_well() -> None:
    """The bound of open calls is one of calls that are open, also of those that were let in at one moment."""
    async with FakeLinkHub(SystemClock(), SyncLimits(calls_per_cluster=3)).running() as here, AsyncExitStack() as stack:
        agent, goes_on, inside = await joined(here), asyncio.Event(), 0
        most = 0

        async def by_digest(cluster: str, digest: str) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await goes_on.wait()
            inside -= 1

        here.content.by_digest = by_digest  # type: ignore[method-assign]
        binding = here.ports.directory.binding

        async def slowly(cluster: str) -> ClusterRow | None:
            # A store takes its time, and whoever is let in waits for it.
            await asyncio.sleep(0.05)
            return await binding(cluster)

        here.ports.directory.binding = slowly  # type: ignore[method-assign]
        channels = [await stack.enter_async_context(agent.channel(here)) for _ in range(4)]
        for channel in channels:
            await channel.channel_ready()
        calls = [asyncio.ensure_future(_outcome(channel)) for channel in channels for _ in range(4)]
        await until(lambda: sum(call.done() for call in calls) >= 13, "all but three were refused")
        goes_on.set()
        assert sorted(await asyncio.gather(*calls)) == [""] * 3 + ["link/too-many-calls"] * 13
        assert most == 3


async def _outcome(channel: grpc.aio.Channel) -> str:
    try:
        return (await failure(fetch(channel)))[1]
    except AssertionError:
        return ""
