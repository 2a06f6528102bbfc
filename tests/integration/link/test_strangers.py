"""Strangers at the listeners: a thousand that say nothing, half handshakes, and TLS older than 1.3."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cellward.identity import keys
from cellward.identity.names import HUB_DNS_NAME
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import content_pb2, enrolment_pb2, identity_pb2, link_pb2, telemetry_pb2
from hub.front.limits import LINK
from hub.sync.limits import SyncLimits
from hub.sync.servers import _methods
from tests.fakes.bare_agent import BareAgent, until
from tests.fakes.clock import a_second
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.test_listeners import HTTP2, fetch, joined

LINK_METHODS = [
    method
    for file in (link_pb2.DESCRIPTOR, content_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR, identity_pb2.DESCRIPTOR)
    for method in _methods(file)
]


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback, with the limits it has by default."""
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1)).running() as hub:
        yield hub


async def test_a_thousand_silent_connections_keep_no_agent_out(here: FakeLinkHub) -> None:
    """With the default limits, from the agent's own address: a join and a call on the link within a second each."""
    async with AsyncExitStack() as stack:
        for address in (here.enrolment.address, here.link.address):
            host, _, port = address.rpartition(":")
            for number in range(1000):
                _, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
                if number % 2:
                    # Half a handshake: the length of a ClientHello that never comes.
                    writer.write(b"\x16\x03\x01\x02\x00\x01")
        agent, token = BareAgent("eu-1"), await here.invite("eu-1")
        async with asyncio.timeout(a_second()):
            await agent.join(here, token)
        async with agent.channel(here) as channel, asyncio.timeout(a_second()):
            assert (await fetch(channel))[0].absent
        assert here.link.front.lobby.counts()["known"] == 1


async def test_an_agent_that_was_let_in_is_never_displaced() -> None:
    """However many strangers come from its own address, a peer that is known stays, and strangers are bounded."""
    front = replace(LINK, strangers=64, strangers_per_address=32, silence=60.0)
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1)).running(link_front=front) as here:
        agent = await joined(here)
        async with agent.channel(here) as channel, AsyncExitStack() as stack:
            await fetch(channel)
            host, _, port = here.link.address.rpartition(":")
            for _ in range(100):
                _, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
            assert (await fetch(channel))[0].absent
            # A connection is open for its peer before the front has taken it.
            lobby = here.link.front.lobby
            await until(lambda: lobby.dropped["silent-displaced"] == 68, "all but those with a place were displaced")
            assert lobby.counts() == {"silent": 32, "opening": 0, "known": 1}
            assert (await fetch(channel))[0].absent


def _headers(method: str) -> bytes:
    """A HEADERS frame that begins a call, as literals; the stream stays open and brings no message."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"https"), (b":path", method.encode()), (b":authority", b"hub"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )  # fmt: skip
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + block


async def _answer(address: str, context: ssl.SSLContext, method: str) -> bytes:
    """Begin a call by hand, send no message, and return what comes until the code does."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=HUB_DNS_NAME)
    writer.write(HTTP2 + _headers(method))
    heard = b""
    try:
        async with asyncio.timeout(30):
            while b"link/" not in heard:
                piece = await reader.read(65536)
                if not piece:
                    break
                heard += piece
    finally:
        writer.close()
    return heard


def _context(here: FakeLinkHub, agent: BareAgent | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=here.hub.authority.hub_ca_pem.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if agent is not None:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(agent.chain_pem + keys.private_to_pem(agent.key, None))
            context.load_cert_chain(file.name)
    return context


@pytest.mark.parametrize("method", LINK_METHODS)
async def test_v4_a_call_over_tls_1_2_is_refused_before_its_message(here: FakeLinkHub, method: str) -> None:
    """V4: with OpenSSL as client and a good certificate, each call of the link ends before anything of it is read."""
    agent = await joined(here)
    heard = await _answer(here.link.address, _context(here, agent), method)
    assert b"link/weak-transport" in heard


@pytest.mark.parametrize("method", _methods(enrolment_pb2.DESCRIPTOR))
async def test_v6_a_join_over_tls_1_2_is_refused_before_its_token(here: FakeLinkHub, method: str) -> None:
    """V6: what could be read on the way is not taken: the call is refused before its token is sent."""
    heard = await _answer(here.enrolment.address, _context(here, None), method)
    assert b"link/weak-transport" in heard
