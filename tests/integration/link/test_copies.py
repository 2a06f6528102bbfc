"""Two streams of one agent, and copies of it: the newest wins, and who is cloned is locked (V7)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from cellward.identity.x509 import make_csr
from cellward.runtime.clock import SystemClock
from cellward.wire import status
from cellward.wire.v1 import content_pb2, content_pb2_grpc, identity_pb2, identity_pb2_grpc, link_pb2
from hub.store.errors import FULL
from tests.fakes.bare_agent import BareAgent, BareStream, until
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.streams import LIMITS, item, joined, opened, welcomed


async def test_v7_the_newest_stream_of_one_boot_wins(here: FakeLinkHub) -> None:
    """The older stream is drained, whether it answers or not: a renewal, or a connection that was lost half-way."""
    agent = await joined(here)
    async with opened(here, agent) as first:
        await welcomed(first, agent)
        async with opened(here, agent, "s-2") as second:
            await welcomed(second, agent)
            assert (await first.receive("drain")).drain.after_ms_max > 0
            assert (await first.ended())[0] is grpc.StatusCode.OK
            here.fleet.put("eu-1", item("cart"))
            await second.receive("desired_item")
    assert here.hub.clusters.locks == []
    assert [each for each in here.hub.audit.entries if each.decision == "finding"] == []


async def test_v7_a_stream_nobody_answers_on_is_superseded_by_another_boot() -> None:
    """V7: an agent that was restarted meets its own half-open stream: it waits a moment, and nobody is locked."""
    async with FakeLinkHub(SystemClock(), replace(LIMITS, twin=0.3)).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as first:
            await welcomed(first, agent)
            async with opened(here, agent, "s-2") as second:
                await welcomed(second, agent, boot_id="after-the-restart")
                here.fleet.put("eu-1", item("cart"))
                await second.receive("desired_item")
        assert here.hub.clusters.locks == []
        assert [each for each in here.hub.audit.entries if each.decision == "finding"] == []


async def answering(link: BareStream) -> None:
    """Answer as an agent does that is asked whether it is there, until the stream ends."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while (frame := await link.call.read()) is not grpc.aio.EOF:
            link.received = frame.seq
            if frame.heartbeat.answer:
                await link.send(heartbeat=link_pb2.Heartbeat())


async def test_v7_two_boots_that_both_answer_are_locked_both(here: FakeLinkHub) -> None:
    """V7: a copy that is live beside the original: neither goes on, both come to nothing again, and it is a finding."""
    agent = await joined(here)
    async with opened(here, agent) as first:
        await welcomed(first, agent)
        answers = asyncio.create_task(answering(first))
        async with opened(here, agent, "s-2") as second:
            await second.send(hello=agent.hello(boot_id="a-copy"))
            assert (await second.ended())[1] == "link/two-live-streams"
        await answers
        assert (await first.ended())[1] == "authority/locked"
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{agent.uid}"]
    async with opened(here, agent) as again:
        assert (await again.ended())[1] == "authority/locked"
    finding = next(each for each in here.hub.audit.entries if each.action == "identity.copy")
    assert (finding.object, finding.code) == ("Cluster//eu-1", "link/two-live-streams")
    assert {finding.details["found"], finding.details["expected"]} == {"a-copy", "boot-of-eu-1"}


async def test_v7_a_copy_that_cannot_be_locked_is_turned_away(here: FakeLinkHub) -> None:
    """V7, V16: a full store keeps no lock and no record; nobody gets in, and no zombie is left under the name."""

    async def full(*_: object, **__: object) -> None:
        raise FULL("the log has no room left")

    agent = await joined(here)
    async with opened(here, agent) as first:
        await welcomed(first, agent)
        here.hub.audit.put_events = full  # type: ignore[method-assign]
        answers = asyncio.create_task(answering(first))
        async with opened(here, agent, "s-2") as second:
            await second.send(hello=agent.hello(boot_id="a-copy"))
            assert (await second.ended())[1] == "store/full"
        answers.cancel()
        assert here.link.link.connected() == {"eu-1"}
    assert here.hub.clusters.locks == []
    await until(lambda: here.link.link.connected() == frozenset(), "the stream is released")


async def renewed(here: FakeLinkHub, agent: BareAgent) -> BareAgent:
    """The same agent with its next certificate; the one given keeps the certificate before."""
    newer = BareAgent(agent.name, agent.uid)
    newer.statement_key = agent.statement_key
    async with agent.channel(here) as channel:
        request = identity_pb2.RenewRequest(csr_der=make_csr(newer.key))
        answer = await identity_pb2_grpc.IdentityStub(channel).Renew(request)
    newer.chain_pem, newer.hub_ca_pem = answer.certificate_chain_pem.encode(), agent.hub_ca_pem
    return newer


@pytest.mark.parametrize("boot_id", ["a-copy", "boot-of-eu-1"], ids=["another boot", "the boot it claims"])
async def test_v7_a_stale_generation_at_hello_is_refused_and_locks_both(here: FakeLinkHub, boot_id: str) -> None:
    """V7: the copy need not renew to be found; a boot id that it knows helps it no longer than a handover lasts."""
    copy = await joined(here)
    original = await renewed(here, copy)
    async with opened(here, original) as live:
        await welcomed(live, original)
        row = here.hub.clusters.rows["eu-1"]
        here.hub.clusters.rows["eu-1"] = replace(row, bound_at=here.clock.now() - timedelta(minutes=2))
        async with opened(here, copy, "s-2") as link:
            await link.send(hello=copy.hello(boot_id=boot_id))
            assert (await link.ended())[1] == "authority/stale-key"
        assert (await live.ended())[1] == "authority/locked"
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{copy.uid}"]


async def test_v7_an_agent_that_is_overtaken_by_its_own_renewal_is_not_locked(here: FakeLinkHub) -> None:
    """V7: its old channel opens one more stream after the new one was used: turned away, and no alarm."""
    agent = await joined(here)
    newer = await renewed(here, agent)
    async with newer.channel(here) as channel:
        assert (await content_pb2_grpc.ContentStub(channel).Fetch(_nothing()).read()).absent
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello())
        assert (await link.ended())[1] == "authority/overtaken"
    assert here.hub.clusters.locks == []
    assert [each for each in here.hub.audit.entries if each.decision == "finding"] == []


@pytest.mark.parametrize("how", ["further keys", "the same key"])
async def test_v7_a_copy_that_keeps_renewing_does_not_keep_the_alarm_away(here: FakeLinkHub, how: str) -> None:
    """V7: it never says Hello and stays the newest; the original, turned away, is noticed all the same."""
    original = await joined(here)
    async with opened(here, original) as link:
        await welcomed(link, original)
    copy = await renewed(here, original)
    async with copy.channel(here) as channel:
        assert (await content_pb2_grpc.ContentStub(channel).Fetch(_nothing()).read()).absent
    for code in ("authority/overtaken", "authority/stale-key"):
        async with opened(here, original) as link:
            await link.send(hello=original.hello())
            assert (await link.ended())[1] == code
        if code == "authority/overtaken":
            # A minute later: the copy has renewed meanwhile, so that its certificate is as new as ever.
            overtaken = here.link.link._twins._overtaken
            overtaken.update({key: first - 61 for key, first in overtaken.items()})
            if how == "further keys":
                copy = await renewed(here, copy)
            else:
                async with copy.channel(here) as channel:
                    request = identity_pb2.RenewRequest(csr_der=make_csr(copy.key))
                    await identity_pb2_grpc.IdentityStub(channel).Renew(request)
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{original.uid}"]


async def test_v7_a_copy_that_only_reads_is_found_once_the_original_has_renewed(here: FakeLinkHub) -> None:
    """V7: it never says Hello and never renews; what it reads is the configuration its original is given."""
    copy = await joined(here)
    original = await renewed(here, copy)
    async with opened(here, original) as live:
        await welcomed(live, original)
        async with copy.channel(here) as channel:
            # Just after the renewal it may be the original's own call, under way on its older channel.
            assert (await content_pb2_grpc.ContentStub(channel).Fetch(_nothing()).read()).absent
            row = here.hub.clusters.rows["eu-1"]
            here.hub.clusters.rows["eu-1"] = replace(row, bound_at=here.clock.now() - timedelta(minutes=2))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(aiter(content_pb2_grpc.ContentStub(channel).Fetch(_nothing())))
            assert status.error_of(refused.value).code == "authority/stale-key"
        assert (await live.ended())[1] == "authority/locked"
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{copy.uid}"]


def _nothing() -> content_pb2.FetchRequest:
    return content_pb2.FetchRequest(digest="sha256:" + "0" * 64)


async def test_v7_an_agent_that_speaks_from_another_cluster_is_locked(here: FakeLinkHub) -> None:
    """V7: the first contact says which cluster it is; a copy of the agent's state in another one is found at Hello."""
    agent = await joined(here)
    for _ in range(2):
        async with opened(here, agent) as link:
            await welcomed(link, agent, platform_uid="kube-1", platform_ca="a" * 64)
    async with opened(here, agent) as link:
        await welcomed(link, agent)  # It could not be read this time: no alarm, and nothing forgotten.
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello(platform_uid="kube-2", platform_ca="a" * 64))
        assert (await link.ended())[1] == "link/another-cluster"
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{agent.uid}"]


async def test_v7_a_new_authority_of_the_api_server_is_a_finding_once_and_no_lock(here: FakeLinkHub) -> None:
    """V7: clusters rotate it; it is told once and the agent goes on."""
    agent = await joined(here)
    for digit in "aabb":
        async with opened(here, agent) as link:
            await welcomed(link, agent, platform_uid="kube-1", platform_ca=digit * 64)
    assert here.hub.clusters.locks == []
    found = [each for each in here.hub.audit.entries if each.decision == "finding"]
    assert [each.code for each in found] == ["link/another-platform-ca"]
