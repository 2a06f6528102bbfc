"""Two listeners, certificate-only identity: who is let in, and as whom (V3, V4, V6)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc.experimental import session_cache

from cellward.identity import contexts, keys
from cellward.identity.names import HUB_DNS_NAME, SpiffeId
from cellward.identity.x509 import issue_leaf, make_ca, make_csr, to_pem
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import (
    content_pb2,
    content_pb2_grpc,
    enrolment_pb2,
    enrolment_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    link_pb2,
    telemetry_pb2,
    telemetry_pb2_grpc,
)
from hub.authority.tokens import Grant
from hub.front.limits import FrontLimits
from hub.store.sql.store import open_store
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.bare_agent import BareAgent, failure, stream, until
from tests.fakes.clock import a_second
from tests.fakes.ports import FakeLinkHub

#: How HTTP/2 begins.
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback."""
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1)).running() as hub:
        yield hub


async def joined(here: FakeLinkHub, name: str = "eu-1") -> BareAgent:
    """An agent that joined."""
    agent = BareAgent(name)
    await agent.join(here, await here.invite(name))
    return agent


async def fetch(channel: grpc.aio.Channel) -> list[content_pb2.Chunk]:
    """A small call that anybody admitted may make."""
    call = content_pb2_grpc.ContentStub(channel).Fetch(content_pb2.FetchRequest(digest="sha256:" + "0" * 64))
    return [chunk async for chunk in call]


def raw_call(channel: Any, method: str, data: bytes) -> Any:
    """Bytes to a method by its name, past every stub."""
    return channel.unary_unary(method)(data)


async def test_a_joined_agent_is_let_in(here: FakeLinkHub) -> None:
    """The control: a good certificate passes."""
    agent = await joined(here)
    async with agent.channel(here) as channel:
        assert (await fetch(channel))[0].absent


async def test_v3_no_certificate_no_link(here: FakeLinkHub) -> None:
    """V3: the link port does not even finish a handshake without a client certificate."""
    credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
    options = [("grpc.ssl_target_name_override", "hub.cellward.internal")]
    async with grpc.aio.secure_channel(here.link.address, credentials, options) as channel:
        assert (await failure(fetch(channel)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_v3_a_certificate_of_another_authority_is_refused(here: FakeLinkHub) -> None:
    """V3: right name, right shape, foreign authority."""
    agent, now = await joined(here), here.clock.now()
    foreign = make_ca("Cellward agent CA", keys.new_tls_key(), now)
    uri = SpiffeId(here.hub.authority.trust_domain(), "agent", "eu-1")
    leaf = issue_leaf(foreign, agent.key.public_key(), kind="agent", uri=uri, now=now)
    agent.chain_pem = to_pem(leaf) + foreign.pem
    async with agent.channel(here) as channel:
        assert (await failure(fetch(channel)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_v3_the_hubs_own_leaf_is_not_an_agent(here: FakeLinkHub) -> None:
    """V3: the two authorities are separate; a hub's certificate opens no link."""
    hub = here.hub.authority.issue_hub()
    credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem, hub.key_pem, hub.chain_pem)
    options = [("grpc.ssl_target_name_override", "hub.cellward.internal")]
    async with grpc.aio.secure_channel(here.link.address, credentials, options) as channel:
        assert (await failure(fetch(channel)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_v3_a_certificate_of_another_trust_domain_is_refused(here: FakeLinkHub) -> None:
    """V3: the right authority for another realm (a hub that was set up anew with its old keys) is not enough."""
    agent, now = await joined(here), here.clock.now()
    uri = SpiffeId("cd" * 16 + ".cellward", "agent", "eu-1")
    leaf = issue_leaf(here.hub.keys.agent_ca, agent.key.public_key(), kind="agent", uri=uri, now=now)
    agent.chain_pem = to_pem(leaf)
    async with agent.channel(here) as channel:
        refused = (grpc.StatusCode.UNAUTHENTICATED, "identity/wrong-identity")
        assert await failure(fetch(channel)) == refused


async def test_v3_eu_1_cannot_speak_for_us_1(here: FakeLinkHub) -> None:
    """V3: eu-1's certificate with us-1's uid, key id and metadata is refused, and us-1's state is untouched."""
    eu, us = await joined(here, "eu-1"), await joined(here, "us-1")
    async with eu.channel(here) as channel, stream(channel) as link:
        await link.send(hello=us.hello())
        assert (await link.receive()).refusal.code == "link/hello-refused"
        assert await link.ended() == (grpc.StatusCode.FAILED_PRECONDITION, "link/hello-refused")
    assert here.fleet.hellos == []


async def test_v3_names_in_messages_and_metadata_are_ignored(here: FakeLinkHub) -> None:
    """V3: what arrives is filed under the name in the certificate, whatever headers say."""
    eu, _ = await joined(here, "eu-1"), await joined(here, "us-1")
    async with eu.channel(here) as channel, stream(channel) as link:
        await link.send(hello=eu.hello())
        assert (await link.receive("welcome")).welcome.cluster_name == "eu-1"
        renew = identity_pb2_grpc.IdentityStub(channel).Renew
        request = identity_pb2.RenewRequest(csr_der=make_csr(keys.new_tls_key()))
        await renew(request, metadata=(("x-cluster", "us-1"), ("cluster", "us-1")))
    assert here.hub.clusters.rows["eu-1"].generation == 2
    assert here.hub.clusters.rows["us-1"].generation == 1


async def test_v4_a_certificate_that_expires_on_a_live_stream_cuts_it(here: FakeLinkHub) -> None:
    """V4: gRPC itself would let the stream go on for ever; the timer ends it, and new calls on the channel too."""
    agent, now = await joined(here), here.clock.now()
    uri = SpiffeId(here.hub.authority.trust_domain(), "agent", "eu-1")
    leaf = issue_leaf(
        here.hub.keys.agent_ca, agent.key.public_key(), kind="agent", uri=uri, now=now, lifetime=timedelta(seconds=2)
    )
    agent.chain_pem = to_pem(leaf)
    async with agent.channel(here) as channel, stream(channel) as link:
        await link.send(hello=agent.hello())
        await link.receive("welcome")
        await link.receive("revision_mark")
        assert here.clock.now() < leaf.not_valid_after_utc
        assert await link.ended() == (grpc.StatusCode.UNAUTHENTICATED, "identity/expired")
        late = (here.clock.now() - leaf.not_valid_after_utc).total_seconds()
        assert 0 <= late < 2 * a_second()
        assert await failure(fetch(channel)) == (grpc.StatusCode.UNAUTHENTICATED, "identity/expired")
    await until(lambda: here.fleet.open["eu-1"] == [], "the stream is closed on the hub")


async def test_v4_a_lock_cuts_a_live_stream_and_keeps_it_out(here: FakeLinkHub) -> None:
    """V4: locking bites on what is open, and on every new call."""
    agent = await joined(here)
    async with agent.channel(here) as channel, stream(channel) as link:
        await link.send(hello=agent.hello())
        await link.receive("welcome")
        here.hub.clusters.lock("eu-1")
        await link.receive("revision_mark")
        assert await link.ended() == (grpc.StatusCode.PERMISSION_DENIED, "authority/locked")
        assert await failure(fetch(channel)) == (grpc.StatusCode.PERMISSION_DENIED, "authority/locked")


async def test_v7_a_replaced_installation_is_cut_and_can_neither_speak_nor_renew(here: FakeLinkHub) -> None:
    """V7: a replacing join ends what the old installation has open; knowing the new uid helps it nothing."""
    old = await joined(here)
    async with old.channel(here) as channel, stream(channel) as link:
        await link.send(hello=old.hello())
        await link.receive("welcome")
        await link.receive("revision_mark")
        new = BareAgent("eu-1")
        await new.join(here, await here.invite("eu-1", replace_installation=True))
        refused = (grpc.StatusCode.PERMISSION_DENIED, "authority/replaced")
        assert await link.ended() == refused
    # On a connection of its own: the one that was open is being closed, whatever is on its way there.
    async with old.channel(here) as channel:
        renewal = identity_pb2.RenewRequest(csr_der=make_csr(keys.new_tls_key()))
        assert await failure(identity_pb2_grpc.IdentityStub(channel).Renew(renewal)) == refused
    old.uid, old.statement_key = new.uid, new.statement_key
    async with old.channel(here) as channel, stream(channel) as link:
        # It may be turned away before it could say so.
        with suppress(grpc.aio.AioRpcError):
            await link.send(hello=old.hello())
        assert await link.ended() == refused
    async with new.channel(here) as channel, stream(channel) as link:
        await link.send(hello=new.hello())
        await link.receive("welcome")


async def test_v7_a_renewed_certificate_is_committed_by_its_first_hello(here: FakeLinkHub) -> None:
    """V7: until then the old one may ask again; what is open on the old one goes on, but it renews no more."""
    agent = await joined(here)
    fresh = keys.new_tls_key()
    renewal = identity_pb2.RenewRequest(csr_der=make_csr(fresh))
    async with agent.channel(here) as channel, stream(channel) as link:
        await link.send(hello=agent.hello())
        await link.receive("welcome")
        renew = identity_pb2_grpc.IdentityStub(channel).Renew
        assert [(await renew(renewal)).generation for _ in range(2)] == [2, 2]
        chain = (await renew(renewal)).certificate_chain_pem.encode()
        new = BareAgent("eu-1", uid=agent.uid, chain_pem=chain)
        new.key, new.statement_key = fresh, agent.statement_key
        async with new.channel(here) as second, stream(second, "s-2") as other:
            await other.send(hello=new.hello())
            await other.receive("welcome")
            assert (await fetch(channel))[0].absent
            assert (await identity_pb2_grpc.IdentityStub(second).Renew(renewal)).generation == 2
            other_key = identity_pb2.RenewRequest(csr_der=make_csr(keys.new_tls_key()))
            assert (await failure(renew(other_key)))[1] == "authority/stale-key"
            assert (await other.ended())[1] == "authority/locked"


async def test_v4_a_resumed_tls_session_is_refused(here: FakeLinkHub) -> None:
    """V4: a resumed session proves a certificate of the past; only a full handshake counts."""
    agent = await joined(here)
    cache = ("grpc.ssl_session_cache", session_cache.ssl_session_cache_lru(4))  # type: ignore[no-untyped-call]
    codes = []
    for _ in range(3):
        async with agent.channel(here, cache) as channel:
            try:
                await fetch(channel)
                codes.append("")
            except grpc.aio.AioRpcError as error:
                codes.append(str(dict(error.trailing_metadata()).get("cellward-code")))
    assert codes[0] == ""
    assert "link/resumed-session" in codes[1:]


async def test_v2_an_unknown_method_is_denied(here: FakeLinkHub) -> None:
    """V2: default deny, for methods nobody offers and for those of the other port; also without a leading slash."""
    agent = await joined(here)
    async with agent.channel(here) as channel:
        for method in ("/cellward.wire.v1.Link/Exec", "/cellward.wire.v1.Enrolment/Join", "/x/y", "/"):
            call = raw_call(channel, method, b"")
            assert await failure(call) == (grpc.StatusCode.PERMISSION_DENIED, "link/unknown-method"), method
    credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
    options = [("grpc.ssl_target_name_override", "hub.cellward.internal")]
    async with grpc.aio.secure_channel(here.enrolment.address, credentials, options) as channel:
        call = raw_call(channel, "/cellward.wire.v1.Identity/Renew", b"")
        assert await failure(call) == (grpc.StatusCode.PERMISSION_DENIED, "link/unknown-method")


async def test_v6_of_parallel_joins_with_one_token_exactly_one_wins(here: FakeLinkHub, tmp_path: Path) -> None:
    """V6: twelve keys race over the real listener for a token of the real store; the others get a clear code."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    here.hub.join_tokens._tokens, here.hub.identity._store = store.tokens, store
    await store.clusters.create("eu-1", "test")
    token = await here.invite("eu-1")
    agents = [BareAgent("eu-1") for _ in range(12)]
    results = await asyncio.gather(*(agent.join(here, token) for agent in agents), return_exceptions=True)
    won = [each for each in results if isinstance(each, enrolment_pb2.JoinResponse)]
    codes = {
        str(dict(each.trailing_metadata()).get("cellward-code"))
        for each in results
        if isinstance(each, grpc.aio.AioRpcError)
    }
    assert len(won) == 1
    assert "store/token-spent" in codes
    assert codes <= {"store/token-spent", "authority/too-many-attempts"}
    row = await store.clusters.get("eu-1")
    assert row is not None
    assert row.generation == 1
    await store.close()


async def test_v16_oversized_and_malformed_joins_are_refused_and_the_port_lives(here: FakeLinkHub) -> None:
    """V16: what is too large never reaches a handler; what does not parse changes nothing."""
    agent, token = BareAgent("eu-1"), await here.invite("eu-1")
    big = agent.join(here, token, csr_der=b"x" * 100_000)
    assert (await failure(big))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
    options = [("grpc.ssl_target_name_override", "hub.cellward.internal")]
    async with grpc.aio.secure_channel(here.enrolment.address, credentials, options) as channel:
        raw = raw_call(channel, "/cellward.wire.v1.Enrolment/Join", b"\xff\xff\xff")
        assert await failure(raw) == (grpc.StatusCode.INVALID_ARGUMENT, "wire/bad-message")
        recover = enrolment_pb2_grpc.EnrolmentStub(channel).Recover(enrolment_pb2.RecoverRequest())
        assert (await failure(recover))[1] == "authority/bad-recovery"
    assert (await agent.join(here, token)).cluster_name == "eu-1"


async def persistent(here: FakeLinkHub, agent: BareAgent, token: str, seconds: float = 30.0) -> None:
    """Join as an agent does that is turned away: again and again, until the deadline."""
    async with asyncio.timeout(seconds):
        while not agent.chain_pem:
            with suppress(grpc.aio.AioRpcError):
                await agent.join(here, token)
            await asyncio.sleep(0.05)


async def test_v16_calls_that_begin_and_say_nothing_do_not_keep_others_from_joining() -> None:
    """V16: silent joins take every place there is, and lose it again after the bound on the first message."""
    limits = SyncLimits(recheck=0.1, first_message=0.5, enrolment_calls=16, enrolment_streams=16)
    async with FakeLinkHub(SystemClock(), limits).running() as here, AsyncExitStack() as stack:
        credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
        options = [("grpc.ssl_target_name_override", HUB_DNS_NAME), ("grpc.use_local_subchannel_pool", 1)]
        silent: list[Any] = []
        for _ in range(2):
            channel = grpc.aio.secure_channel(here.enrolment.address, credentials, options)
            await stack.enter_async_context(channel)
            for _ in range(8):
                silent.append(channel.stream_unary("/cellward.wire.v1.Enrolment/Join")())
                await silent[-1].wait_for_connection()
        agent, token = BareAgent("eu-1"), await here.invite("eu-1")
        await persistent(here, agent, token)
        codes = [(await failure(call))[1] for call in silent]
        assert codes == ["link/silent"] * 16


async def test_v16_silent_calls_of_one_address_are_bounded() -> None:
    """V16: one address cannot fill the places of all; what it has too much is refused before it said anything."""
    limits = SyncLimits(recheck=0.1, first_message=30.0, silent_per_address=2)
    async with FakeLinkHub(SystemClock(), limits).running() as here:
        credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
        options = [("grpc.ssl_target_name_override", HUB_DNS_NAME)]
        async with grpc.aio.secure_channel(here.enrolment.address, credentials, options) as channel:
            silent: list[Any] = [channel.stream_unary("/cellward.wire.v1.Enrolment/Join")() for _ in range(3)]
            ends = {asyncio.ensure_future(failure(call)) for call in silent}
            done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result()[1] for task in done] == ["authority/too-many-attempts"]
            silent.append(channel.stream_unary("/cellward.wire.v1.Enrolment/Join")())
            assert (await failure(silent[-1]))[1] == "authority/too-many-attempts"
            assert len(waiting) == 2
            assert not any(task.done() for task in waiting), "those that came first keep their places"
            for call in silent:
                call.cancel()
            await persistent(here, BareAgent("eu-1"), await here.invite("eu-1"))


async def test_v16_connections_that_say_nothing_keep_nobody_out() -> None:
    """V16: neither silent nor with half a handshake nor idle after it does anybody keep a place at enrolment."""
    front = FrontLimits(4, 4, 4, 4, silence=30.0, opening=30.0)
    async with (
        FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1)).running(enrolment_front=front) as here,
        AsyncExitStack() as stack,
    ):
        host, _, port = here.enrolment.address.rpartition(":")
        context = contexts.client_context(here.hub.authority.hub_ca_pem)
        context.set_alpn_protocols(["h2"])
        for secure, said in ((None, b""), (None, b"\x16\x03\x01\x02\x00"), (context, b""), (context, HTTP2)):
            names = {"ssl": secure, "server_hostname": HUB_DNS_NAME} if secure else {}
            _, writer = await asyncio.open_connection(host, int(port), **names)
            stack.callback(writer.close)
            writer.write(said)
        agent, token = BareAgent("eu-1"), await here.invite("eu-1")
        async with asyncio.timeout(a_second()):
            assert (await agent.join(here, token)).cluster_name == "eu-1"
        assert here.enrolment.front.lobby.dropped["silent-displaced"] == 1


async def test_a_join_under_way_is_finished_by_a_hub_that_goes_away() -> None:
    """A token is spent and a certificate made: the answer is not cut off, though it can be asked for again."""
    here = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1))
    running = here.running()
    await running.__aenter__()
    started, go, spend = asyncio.Event(), asyncio.Event(), here.hub.tokens.spend

    async def slow(token_hash: str, spki_sha256: str, now: datetime) -> Grant:
        started.set()
        await go.wait()
        return await spend(token_hash, spki_sha256, now)

    here.hub.tokens.spend = slow  # type: ignore[method-assign]
    joining = asyncio.create_task(BareAgent("eu-1").join(here, await here.invite("eu-1")))
    await started.wait()
    leaving = asyncio.create_task(running.__aexit__(None, None, None))
    await until(lambda: here.link._closing is not None and here.link._closing.done(), "the link is closed")
    # Now it is the enrolment's turn to go, and nothing it needs may be taken away before it has.
    assert not (await asyncio.wait({leaving}, timeout=0.3))[0]
    go.set()
    assert (await joining).cluster_name == "eu-1"
    await leaving


async def test_join_answers_what_the_agent_needs(here: FakeLinkHub) -> None:
    """Address of the link, authority of the hub, trust domain of the realm."""
    answer = await BareAgent("eu-1").join(here, await here.invite("eu-1"))
    assert answer.link_address == here.link.address
    assert answer.hub_ca_pem.encode() == here.hub.authority.hub_ca_pem
    assert answer.trust_domain == REALM.removeprefix("sha256:")[:32] + ".cellward"
    assert answer.certificate_chain_pem.count("BEGIN CERTIFICATE") == 2


async def test_v4_open_calls_of_one_cluster_are_bounded() -> None:
    """One identity cannot hold every handler of the hub."""
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, calls_per_cluster=2)).running() as here:
        agent, other = await joined(here), await joined(here, "us-1")
        async with agent.channel(here) as channel:
            stub = telemetry_pb2_grpc.TelemetryStub(channel)
            pushes: list[Any] = [stub.PushMetrics(), stub.PushAudit()]
            batches = (
                telemetry_pb2.MetricsBatch(seq=1),
                telemetry_pb2.AuditBatch(epoch=1, first_seq=1, records=[b"r"]),
            )
            for push, batch in zip(pushes, batches, strict=True):
                await push.write(batch)
                assert (await push.read()).seq == 1
            assert await failure(fetch(channel)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "link/too-many-calls")
            async with other.channel(here) as second:
                assert (await fetch(second))[0].absent
            await pushes[0].done_writing()
            assert await pushes[0].code() is grpc.StatusCode.OK
            assert (await fetch(channel))[0].absent
            pushes[1].cancel()


def served(address: str, agent: BareAgent, authority: bytes) -> bytes:
    """Certificate a listener shows to a new connection, DER; blocking."""
    host, _, port = address.rpartition(":")
    context = contexts.client_context(authority)
    context.set_alpn_protocols(["h2"])
    contexts.load_leaf(context, agent.chain_pem, keys.private_to_pem(agent.key, None))
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=HUB_DNS_NAME) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def test_v5_the_hubs_leaf_rotates_under_open_connections() -> None:
    """V5: a stream opened under the old leaf goes on; new connections are shown the new one, on both ports."""
    here = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1))
    async with here.running():
        agent = await joined(here)
        async with agent.channel(here) as channel, stream(channel) as link:
            await link.send(hello=agent.hello())
            await link.receive("welcome")
            ports = (here.link.address, here.enrolment.address)
            authority = here.hub.authority.hub_ca_pem
            before = [await asyncio.to_thread(served, port, agent, authority) for port in ports]
            here.leaf.rotate_if_due(force=True)
            after = [await asyncio.to_thread(served, port, agent, authority) for port in ports]
            leaf = x509.load_pem_x509_certificates(here.leaf.leaf.chain_pem)[0].public_bytes(Encoding.DER)
            assert set(before) != {leaf}
            assert set(after) == {leaf}
            async with agent.channel(here) as second:
                assert (await fetch(second))[0].absent
            await link.receive("revision_mark")
            await link.send(heartbeat=link_pb2.Heartbeat())
            assert not link.call.done()
