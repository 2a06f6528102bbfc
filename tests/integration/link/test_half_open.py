"""A peer that vanished without an end of its connection: it shows within 30 seconds, whatever the agent's settings."""

from __future__ import annotations

from dataclasses import replace

from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2
from hub.leases import BEAT, LIFE
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import stream, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.proxy import proxy
from tests.integration.link.streams import LIMITS, joined, opened, welcomed

#: A half-open link shows within so many seconds.
SHOWS = 30.0


def test_the_limits_in_force_show_a_half_open_link_in_time() -> None:
    """A stream, and those of a hub that was killed; and nobody is cut who answers in time."""
    limits = SyncLimits()
    assert limits.silence <= SHOWS
    assert limits.write <= SHOWS
    assert LIFE.total_seconds() <= SHOWS
    assert LIFE.total_seconds() > 2 * BEAT
    # Whoever falls silent is asked within two heartbeats, and has some seconds left to answer.
    assert limits.quiet <= limits.heartbeat
    assert limits.quiet + limits.heartbeat + 5 <= limits.silence


async def test_v13_a_peer_that_vanished_is_not_shown_as_connected() -> None:
    """The network swallows everything, and neither side hears of it: the stream ends, and its row with it."""
    limits = replace(LIMITS, heartbeat=0.3, quiet=0.2, silence=1.5)
    async with FakeLinkHub(SystemClock(), limits).running() as here, proxy(here.link.address) as network:
        agent = await joined(here)
        async with agent.channel(here, address=network.address) as channel, stream(channel) as link:
            await welcomed(link, agent)
            assert here.links.streams["eu-1"].stream == "s-1"
            network.swallow()
            await until(lambda: "eu-1" not in here.links.streams, "the row is gone", SHOWS)
            assert here.link.link.connected() == frozenset()


async def test_an_agent_with_rare_heartbeats_is_asked_and_stays() -> None:
    """It answers what it is asked, so it is not cut, however long it says nothing by itself."""
    limits = replace(LIMITS, heartbeat=0.2, quiet=0.1, silence=1.5)
    async with FakeLinkHub(SystemClock(), limits).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            await welcomed(link, agent)
            asked = 0
            while asked < 12:
                frame = await link.receive("heartbeat")
                if frame.heartbeat.answer:
                    asked += 1
                    await link.send(heartbeat=link_pb2.Heartbeat())
            assert here.link.link.connected() == {"eu-1"}
            # Now it answers no more.
            assert (await link.ended())[1] == "link/silent"
        await until(lambda: "eu-1" not in here.links.streams, "the row is gone", SHOWS)
