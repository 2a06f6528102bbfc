"""A peer that vanished without an end of its connection: it shows within 30 seconds, whatever the agent's settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from agent.link.channels import link_options
from agent.link.session import SILENCE
from agent.settings import IntervalSettings
from cellward.runtime.clock import SystemClock
from cellward.runtime.keepalive import keepalive_options
from cellward.wire.v1 import content_pb2, content_pb2_grpc, link_pb2
from hub.front.limits import ENROLMENT, LINK
from hub.front.through import LINGER, Through
from hub.leases import BEAT, LIFE
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import stream, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.proxy import proxy
from tests.integration.link.streams import LIMITS, joined, opened, welcomed

#: A half-open link shows within so many seconds.
SHOWS = 30.0
NOWHERE = "sha256:" + "0" * 64


def test_the_limits_in_force_show_a_half_open_link_in_time() -> None:
    """A connection, on both sides, and the streams of a hub that was killed; and nobody is cut who answers in time."""
    limits = SyncLimits()
    for options in (limits.link_options(), limits.enrolment_options(), link_options()):
        named = dict(options)
        assert named["grpc.keepalive_time_ms"] + named["grpc.http2.ping_timeout_ms"] <= SHOWS * 1000  # type: ignore[operator]
        assert named["grpc.http2.max_pings_without_data"] == 0
    # Of a connection without a stream its place is free once its last bytes had their time.
    assert limits.keepalive + limits.keepalive_timeout + LINGER <= SHOWS
    assert limits.write <= SHOWS
    assert LIFE.total_seconds() <= SHOWS
    assert LIFE.total_seconds() > 2 * BEAT
    # An agent that beats is not asked; one that is asked has some seconds left to answer.
    assert IntervalSettings().heartbeat < limits.quiet
    assert limits.quiet + limits.heartbeat + 5 <= limits.silence
    assert limits.heartbeat * 2 <= SILENCE


_PINGED = replace(LIMITS, heartbeat=600.0, quiet=600.0, silence=600.0, keepalive=1.0, keepalive_timeout=1.0)


async def test_v13_a_peer_that_vanished_is_not_shown_as_connected() -> None:
    """The network swallows everything, and neither side hears of it: the stream ends, and its row with it."""
    async with FakeLinkHub(SystemClock(), _PINGED).running() as here, proxy(here.link.address) as network:
        agent = await joined(here)
        async with agent.channel(here, address=network.address) as channel, stream(channel) as link:
            await welcomed(link, agent)
            assert here.links.streams["eu-1"].stream == "s-1"
            network.swallow()
            await until(lambda: "eu-1" not in here.links.streams, "the row is gone", SHOWS)
            assert here.link.link.connected() == frozenset()


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the end of a connection that is left a moment to take what the other one had sent."""
    monkeypatch.setattr(Through.__init__, "__defaults__", (0.2,))


async def test_a_connection_without_a_stream_that_vanished_is_let_go(quick_end: None) -> None:
    """What is proven of it keeps it from no bound: it is pinged as one with a stream is."""
    async with FakeLinkHub(SystemClock(), _PINGED).running() as here, proxy(here.link.address) as network:
        agent = await joined(here)
        async with agent.channel(here, address=network.address) as channel:
            await content_pb2_grpc.ContentStub(channel).Fetch(content_pb2.FetchRequest(digest=NOWHERE)).read()
            assert here.link.front.lobby.counts()["known"] == 1
            network.swallow()
            await until(lambda: here.link.front.lobby.counts()["known"] == 0, "the connection is gone", SHOWS)


async def test_a_hub_that_vanished_shows_to_its_agent() -> None:
    """The other way round: the hub sends no ping here, and the agent's own find it out."""
    async with FakeLinkHub(SystemClock(), LIMITS).running() as here, proxy(here.link.address) as network:
        agent, pings = await joined(here), keepalive_options(1.0, 1.0)
        async with agent.channel(here, *pings, address=network.address) as channel, stream(channel) as link:
            await welcomed(link, agent)
            network.swallow()
            assert (await link.ended(SHOWS))[0] is grpc.StatusCode.UNAVAILABLE


async def test_an_agent_that_answers_pings_stays_however_long_it_says_nothing() -> None:
    """Many pings without any data between them: none of them counts as a fault, and none is left out."""
    async with FakeLinkHub(SystemClock(), _PINGED).running() as here, proxy(here.link.address) as network:
        agent = await joined(here)
        async with agent.channel(here, address=network.address) as channel, stream(channel) as link:
            await welcomed(link, agent)
            passed = network.passed
            await until(lambda: network.passed > passed + 8, "pings and their answers pass", SHOWS)
            assert here.link.link.connected() == {"eu-1"}


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


async def test_v16_a_connection_that_opened_nothing_and_vanished_is_let_go(quick_end: None) -> None:
    """V16: TLS is done with the enrolment, no call was made, packets are dropped: it is pinged, proven or not."""
    limits = replace(_PINGED, enrolment_idle=600.0, enrolment_age=600.0)
    async with FakeLinkHub(SystemClock(), limits).running() as here, proxy(here.enrolment.address) as network:
        lobby, credentials = here.enrolment.front.lobby, grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
        async with grpc.aio.secure_channel(network.address, credentials) as channel:
            await channel.channel_ready()
            assert lobby.counts()["opening"] == 1
            network.swallow()
            await until(lambda: lobby.counts()["opening"] == 0, "the connection is gone", SHOWS)
    # By a ping, not for having been a stranger too long.
    assert lobby.dropped == {}


@pytest.mark.parametrize("listener", ["link", "enrolment"])
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "half a handshake"])
async def test_v16_a_connection_that_vanished_before_its_handshake_is_let_go(listener: str, said: bytes) -> None:
    """V16: whoever has not spoken, or not to the end, has the time of a stranger, and no ping is needed for it."""
    link, enrolment = (replace(front, silence=0.5, opening=1.0) for front in (LINK, ENROLMENT))
    async with FakeLinkHub(SystemClock()).running(link_front=link, enrolment_front=enrolment) as here:
        server = here.link if listener == "link" else here.enrolment
        async with proxy(server.address) as network:
            _, writer = await asyncio.open_connection("127.0.0.1", network.port)
            writer.write(said)
            await until(lambda: server.front.lobby.counts()["opening" if said else "silent"] == 1, "it is there", SHOWS)
            network.swallow()
            await until(lambda: sum(server.front.lobby.counts().values()) == 0, "the connection is gone", SHOWS)
            writer.close()
    assert max(front.silence for front in (LINK, ENROLMENT)) < SHOWS
