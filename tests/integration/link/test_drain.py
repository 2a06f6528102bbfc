"""How a Sync stream ends: drained without loss, or let go for silence, slowness or saying no Hello (V13, V16)."""

from __future__ import annotations

import asyncio

import grpc

from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from cellward.wire.v1 import link_pb2
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import stream, until
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.streams import LIMITS, item, joined, opened, welcomed


async def test_v13_what_was_on_the_way_when_a_stream_is_drained_is_taken_and_acknowledged(here: FakeLinkHub) -> None:
    """V5, V13: a renewal opens a second stream; receipts still sent on the first one are not lost."""
    agent = await joined(here)
    async with opened(here, agent) as first:
        await welcomed(first, agent)
        async with opened(here, agent, "s-2") as second:
            await welcomed(second, agent)
            await first.receive("drain")
            for _ in range(5):
                await first.send(receipt=link_pb2.Receipt(accepted=True))
            await first.call.done_writing()
            acknowledged = 0
            while (frame := await first.call.read()) is not grpc.aio.EOF:
                acknowledged = frame.ack
            assert acknowledged == first.seq == 6
            assert await first.call.code() is grpc.StatusCode.OK
    assert len(here.fleet.receipts) == 5


async def test_shutdown_drains_the_streams() -> None:
    """A hub that goes away says so, with a range to draw the delay from."""
    here = FakeLinkHub(SystemClock(), LIMITS)
    async with here.running():
        agent = await joined(here)
        channel = agent.channel(here)
        context = stream(channel)
        link = await context.__aenter__()
        await welcomed(link, agent)
    drain = (await link.receive("drain")).drain
    assert 0 < drain.after_ms_min < drain.after_ms_max
    assert (await link.ended())[0] is grpc.StatusCode.OK
    await context.__aexit__(None, None, None)
    await channel.close()


async def test_v13_a_stream_that_is_drained_is_not_cut_off_by_who_waits_for_it() -> None:
    """V13: whoever asked for the end may go away; what agents had on the way is still taken."""
    here = FakeLinkHub(SystemClock(), LIMITS)
    async with here.running():
        agent = await joined(here)
        async with agent.channel(here) as channel, stream(channel) as link:
            await welcomed(link, agent)
            impatient = asyncio.create_task(here.link.close(2.0))
            await asyncio.sleep(0)
            impatient.cancel()
            await link.receive("drain")
            await link.send(receipt=link_pb2.Receipt(accepted=True))
            await link.call.done_writing()
            while (frame := await link.call.read()) is not grpc.aio.EOF:
                acknowledged = frame.ack
            assert acknowledged == link.seq
    assert len(here.fleet.receipts) == 1


async def test_a_hub_that_goes_away_takes_no_newcomers() -> None:
    """An agent that comes back while others still linger is turned away, or a fleet would keep a hub from ending."""
    here = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, linger=1.5))
    running = here.running()
    await running.__aenter__()
    agent, late = await joined(here), await joined(here, "eu-2")
    async with agent.channel(here) as channel, stream(channel) as link:
        await welcomed(link, agent)
        leaving = asyncio.create_task(running.__aexit__(None, None, None))
        await link.receive("drain")
        async with opened(here, late) as newcomer:
            assert (await newcomer.ended())[0] is grpc.StatusCode.UNAVAILABLE
        assert not leaving.done()
        assert (await link.ended())[0] is grpc.StatusCode.OK
        await leaving


async def test_the_hub_keeps_an_idle_stream_alive_and_ends_a_silent_one() -> None:
    """Heartbeats go out while nothing happens; an agent that says nothing for too long is let go."""
    limits = SyncLimits(recheck=0.1, heartbeat=0.05, silence=0.5)
    async with FakeLinkHub(SystemClock(), limits).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            await welcomed(link, agent)
            assert (await link.receive()).WhichOneof("body") == "heartbeat"
            assert await link.ended() == (grpc.StatusCode.UNAVAILABLE, "link/silent")


async def test_a_stream_without_hello_is_ended() -> None:
    """Nobody holds a stream open without saying who he is."""
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, hello=0.2)).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            assert await link.ended() == (grpc.StatusCode.INVALID_ARGUMENT, "link/hello-expected")


async def test_a_slow_reader_is_let_go_and_costs_a_bounded_amount() -> None:
    """An agent that does not read: the hub stops at the flow-control window, and ends the stream after its bound."""
    limits = SyncLimits(recheck=0.1, write=0.5)
    async with FakeLinkHub(SystemClock(), limits).running() as here:
        agent = await joined(here)
        for number in range(4000):
            row = item(f"c-{number}")
            here.fleet.rows.setdefault("eu-1", {})[row.key] = DesiredItem(
                number + 1, *row.key, row.deployment_digest, row.evidence * 20
            )
        async with opened(here, agent) as link:
            await link.send(hello=agent.hello())
            await until(lambda: here.fleet.open.get("eu-1") == ["s-1"], "the stream is open")
            await until(lambda: here.fleet.open["eu-1"] == [], "the stream is closed on the hub", 15)
            assert here.link.link.connected() == frozenset()
