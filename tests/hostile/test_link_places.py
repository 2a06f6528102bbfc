"""An agent that joined takes places of the link: how many it gets, how long without a call, and none when it is out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from cellward.identity import keys
from cellward.identity.x509 import load_certificates, make_csr
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import identity_pb2, identity_pb2_grpc
from hub.front.limits import LINK
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import BareAgent, stream, until
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.test_listeners import fetch, joined

#: Few places, and times that play no part.
FRONT = replace(LINK, connections=24, per_address=24, strangers=12, strangers_per_address=12, per_owner=4, kept=4)
SLOW = replace(FRONT, opening=3600.0)


async def idle(here: FakeLinkHub, agent: BareAgent, stack: AsyncExitStack, count: int) -> list[grpc.aio.Channel]:
    """So many connections of an agent, each with one call that has ended."""
    channels = []
    for _ in range(count):
        channels.append(await stack.enter_async_context(agent.channel(here)))
        assert (await fetch(channels[-1]))[0].absent
    return channels


async def test_v16_one_identity_has_few_places_and_keeps_nobody_out() -> None:
    """V16: its newest connections displace its own oldest; whoever has a stream keeps it, another one comes in."""
    async with FakeLinkHub(SystemClock(), SyncLimits()).running(link_front=FRONT) as here, AsyncExitStack() as stack:
        evil, old, new = [await joined(here, name) for name in ("evil", "old", "new")]
        channel = await stack.enter_async_context(old.channel(here))
        link = await stack.enter_async_context(stream(channel))
        await link.send(hello=old.hello())
        await link.receive("welcome")
        await idle(here, evil, stack, 30)
        lobby = here.link.front.lobby
        assert lobby.count_owned("evil") == FRONT.per_owner
        await idle(here, new, stack, 1)
        assert (lobby.count_owned("old"), lobby.count_owned("new")) == (1, 1)
        assert here.link.link.connected() == {"old"}


async def test_v16_a_connection_without_a_call_ends() -> None:
    """V16: a place is for who uses it; the connection of an open stream stays."""
    limits = SyncLimits(link_idle=0.5)
    async with FakeLinkHub(SystemClock(), limits).running(link_front=FRONT) as here, AsyncExitStack() as stack:
        evil, good = await joined(here, "evil"), await joined(here, "good")
        channel = await stack.enter_async_context(good.channel(here))
        link = await stack.enter_async_context(stream(channel))
        await link.send(hello=good.hello())
        await link.receive("welcome")
        await idle(here, evil, stack, 3)
        lobby = here.link.front.lobby
        await until(lambda: lobby.count_owned("evil") == 0, "what nobody uses is given back")
        assert lobby.count_owned("good") == 1
        assert here.link.link.connected() == {"good"}


def _serial(agent: BareAgent) -> str:
    return f"{load_certificates(agent.chain_pem)[0].serial_number:x}"


#: What makes an agent's identity count for nothing.
ENDS: dict[str, Callable[[FakeLinkHub, BareAgent], None]] = {
    "cluster": lambda here, agent: here.hub.clusters.lock_by(f"cluster/{agent.name}"),
    "agent": lambda here, agent: here.hub.clusters.lock_by(f"agent/{agent.uid}"),
    "key": lambda here, agent: here.hub.clusters.lock_by(f"key/{keys.spki_digest(keys.spki_of(agent.key))}"),
    "serial": lambda here, agent: here.hub.clusters.lock_by(f"serial/{_serial(agent)}"),
    "removal": lambda here, agent: _changed(here, agent, removed_at=here.clock.now()),
    "floor": lambda here, agent: _changed(here, agent, generation_floor=9),
}


def _changed(here: FakeLinkHub, agent: BareAgent, **fields: Any) -> None:
    rows = here.hub.clusters.rows
    rows[agent.name] = replace(rows[agent.name], **fields)
    here.changes.notify("clusters")


@pytest.mark.parametrize("end", ENDS)
async def test_v4_who_may_not_speak_keeps_no_place_either(end: str) -> None:
    """V4: connections without a call end with the calls; those of another cluster stay."""
    limits = SyncLimits(recheck=0.1, settle=0.01)
    async with FakeLinkHub(SystemClock(), limits).running(link_front=SLOW) as here, AsyncExitStack() as stack:
        evil, good = await joined(here, "evil"), await joined(here, "good")
        channels = await idle(here, evil, stack, 3)
        await idle(here, good, stack, 1)
        link = await stack.enter_async_context(stream(channels[0]))
        await link.send(hello=evil.hello())
        await link.receive("welcome")
        ENDS[end](here, evil)
        lobby = here.link.front.lobby
        await until(lambda: lobby.count_owned("evil") == 0, "its connections go")
        assert (await link.ended())[1].startswith("authority/")
        await until(lambda: lobby.counts() == {"silent": 0, "opening": 0, "known": 1}, "nothing of them is left")
        assert lobby.count_owned("good") == 1


async def test_v4_a_floor_ends_the_connections_of_what_was_replaced_and_of_nothing_else() -> None:
    """V4, V5: the certificate that follows stays connected; the older one's connection is a stranger's again."""
    limits = SyncLimits(recheck=0.1, settle=0.01)
    async with FakeLinkHub(SystemClock(), limits).running(link_front=SLOW) as here, AsyncExitStack() as stack:
        agent = await joined(here, "eu-1")
        (channel,) = await idle(here, agent, stack, 1)
        newer = BareAgent("eu-1", uid=agent.uid)
        newer.statement_key = agent.statement_key
        request = identity_pb2.RenewRequest(csr_der=make_csr(newer.key))
        answer = await identity_pb2_grpc.IdentityStub(channel).Renew(request)
        newer.chain_pem = answer.certificate_chain_pem.encode()
        await idle(here, newer, stack, 1)
        lobby = here.link.front.lobby
        assert lobby.count_owned("eu-1") == 2
        _changed(here, agent, generation_floor=answer.generation)
        await until(lambda: lobby.count_owned("eu-1") == 1, "the older one's goes")
        assert lobby.counts()["opening"] == 1
