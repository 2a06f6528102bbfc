"""The Sync stream: order, resume, refusals with untouched state, commands, take-over, drain (V2, V13, V14, V16)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from cellward.errors import CellwardError
from cellward.identity.x509 import make_csr
from cellward.runtime.clock import SystemClock
from cellward.wire import status
from cellward.wire.codec import DesiredItem, item_from_wire, items_digest
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import (
    content_pb2,
    content_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    link_pb2,
    types_pb2,
)
from hub.store.errors import FULL
from hub.sync.limits import SyncLimits
from tests.fakes.bare_agent import BareAgent, BareStream, stream, until
from tests.fakes.ports import FakeLinkHub

LIMITS = SyncLimits(recheck=0.1, heartbeat=5.0, linger=0.3)


def item(cell: str, digit: str = "1", **more: Any) -> DesiredItem:
    """An item of the shop."""
    return DesiredItem(0, "shop", cell, "dev", "sha256:" + digit * 64, ("sha256:" + "e" * 64,), **more)


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback."""
    async with FakeLinkHub(SystemClock(), LIMITS).running() as hub:
        yield hub


async def joined(here: FakeLinkHub, name: str = "eu-1") -> BareAgent:
    """An agent that joined."""
    agent = BareAgent(name)
    await agent.join(here, await here.invite(name))
    return agent


@asynccontextmanager
async def opened(here: FakeLinkHub, agent: BareAgent, stream_id: str = "s-1") -> AsyncIterator[BareStream]:
    """A fresh stream on a channel of its own, before Hello."""
    async with agent.channel(here) as channel, stream(channel, stream_id) as link:
        yield link


async def welcomed(
    link: BareStream, agent: BareAgent, **hello: Any
) -> tuple[link_pb2.Welcome, list[DesiredItem], link_pb2.RevisionMark]:
    """Say Hello; returns the Welcome, the items that followed, and the mark."""
    await link.send(hello=agent.hello(**hello))
    welcome = (await link.receive("welcome")).welcome
    items: list[DesiredItem] = []
    while True:
        frame = await link.receive()
        if frame.WhichOneof("body") == "revision_mark":
            return welcome, items, frame.revision_mark
        items.append(item_from_wire(frame.desired_item))


async def test_a_fresh_agent_gets_everything_in_order_of_revision(here: FakeLinkHub) -> None:
    """No state on the agent: all items, then the mark with the digest over them."""
    agent = await joined(here)
    for cell in ("cart", "checkout"):
        here.fleet.put("eu-1", item(cell))
    here.fleet.put("us-1", item("secret"))
    here.policy.version = 4
    async with opened(here, agent) as link:
        welcome, items, mark = await welcomed(link, agent)
    assert (welcome.revision, welcome.hub_epoch, welcome.timestamp_version) == (2, "hub-epoch-1", 4)
    assert [(each.cell, each.revision) for each in items] == [("cart", 1), ("checkout", 2)]
    assert (mark.revision, mark.items_digest) == (2, items_digest(items))


async def test_resume_sends_only_what_is_newer(here: FakeLinkHub) -> None:
    """Resume by revision; equal revision and digest: nothing but the mark."""
    agent = await joined(here)
    here.fleet.put("eu-1", item("cart"))
    async with opened(here, agent) as link:
        _, items, mark = await welcomed(link, agent)
    held = {"revision": mark.revision, "hub_epoch": "hub-epoch-1", "items_digest": items_digest(items)}
    async with opened(here, agent) as link:
        assert (await welcomed(link, agent, **held))[1] == []
    here.fleet.put("eu-1", item("checkout"))
    async with opened(here, agent) as link:
        assert [each.cell for each in (await welcomed(link, agent, **held))[1]] == ["checkout"]


@pytest.mark.parametrize(
    "change", [{"hub_epoch": "before-the-restore"}, {"items_digest": "sha256:" + "0" * 64}, {"revision": 99}]
)
async def test_resume_sends_everything_when_in_doubt(here: FakeLinkHub, change: dict[str, Any]) -> None:
    """Another hub epoch, another digest, or a revision from the future: all items again."""
    agent = await joined(here)
    here.fleet.put("eu-1", item("cart"))
    async with opened(here, agent) as link:
        _, items, mark = await welcomed(link, agent)
    held = {"revision": mark.revision, "hub_epoch": "hub-epoch-1", "items_digest": items_digest(items)}
    async with opened(here, agent) as link:
        assert (await welcomed(link, agent, **{**held, **change}))[1] == items


async def test_v14_no_items_means_no_change(here: FakeLinkHub) -> None:
    """V14: an agent that holds items and a hub that has none: nothing is sent that could delete anything."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        welcome, items, mark = await welcomed(
            link, agent, revision=7, hub_epoch="old", items_digest="sha256:" + "1" * 64
        )
    assert (welcome.revision, items, mark.revision) == (0, [], 0)


async def test_changes_arrive_on_the_live_stream(here: FakeLinkHub) -> None:
    """A new item, a hold, and a newer policy reach the agent without a poll."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        here.fleet.put("eu-1", item("cart", hub_state="hold"))
        frame = await link.receive("desired_item")
        assert frame.desired_item.hub_state == link_pb2.HUB_STATE_HOLD
        assert (await link.receive("revision_mark")).revision_mark.revision == 1
        here.policy.version = 9
        here.changes.notify("policy")
        assert (await link.receive("policy_notice")).policy_notice.timestamp_version == 9


async def test_receipts_and_states_are_filed_and_acknowledged(here: FakeLinkHub) -> None:
    """What an agent reports reaches the fleet under its certificate's name, and is acknowledged once it did."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(receipt=link_pb2.Receipt(revision=1, project="shop", accepted=True))
        await link.send(cell_status=link_pb2.CellStatus(project="shop", cell="cart"))
        await link.send(agent_status=link_pb2.AgentStatus(spool_depth=3))
        await until(lambda: bool(here.fleet.agent_statuses), "the state of the agent arrives")
        here.fleet.put("eu-1", item("cart"))
        assert (await link.receive("desired_item")).ack == 4
    assert here.fleet.receipts[0][0] == here.fleet.cell_statuses[0][0] == "eu-1"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"seq": 3, "receipt": link_pb2.Receipt()}, "link/out-of-order"),
        ({"seq": 1, "receipt": link_pb2.Receipt()}, "link/out-of-order"),
        ({"seq": 0, "receipt": link_pb2.Receipt()}, "link/out-of-order"),
        ({"stream_id": "another", "receipt": link_pb2.Receipt()}, "link/out-of-order"),
        ({"ack": 1000, "receipt": link_pb2.Receipt()}, "link/out-of-order"),
        ({}, "link/unexpected-frame"),
        ({"hello": link_pb2.Hello()}, "link/hello-expected"),
    ],
    ids=["gap", "again", "zero", "other-stream", "ack-from-the-future", "no-body", "second-hello"],
)
async def test_v13_v16_a_frame_out_of_order_closes_the_stream_with_state_untouched(
    here: FakeLinkHub, frame: dict[str, Any], code: str
) -> None:
    """V13, V16: a refusal with its code, then the end; nothing of the frame was taken; the agent may come again."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(**frame)
        refusal = (await link.receive("refusal")).refusal
        assert refusal.code == code
        assert refusal.reason
        assert refusal.next
        status = await link.ended()
        assert (status[0] is grpc.StatusCode.INVALID_ARGUMENT, status[1]) == (True, code)
    assert here.fleet.receipts == []
    await until(lambda: here.fleet.open["eu-1"] == [], "the stream is closed on the hub")
    async with opened(here, agent) as link:
        await welcomed(link, agent)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"realm": "sha256:" + "0" * 64}, "link/hello-refused"),
        ({"facts": types_pb2.ClusterFacts(uid="7f9619ff-8b86-4011-b42d-00c04fc964ff")}, "link/hello-refused"),
        ({"statement_keyid": "0" * 64}, "link/hello-refused"),
        ({"protocol_min": 2, "protocol_max": 3}, "wire/no-common-version"),
        ({"protocol_min": 0, "protocol_max": 0}, "wire/no-common-version"),
        ({"boot_id": ""}, "wire/bad-message"),
        ({"agent_version": "x" * 5000}, "wire/bad-message"),
        ({"schemas": ["s"] * 1000}, "wire/bad-message"),
    ],
)
async def test_v3_a_hello_that_does_not_fit_is_refused(here: FakeLinkHub, change: dict[str, Any], code: str) -> None:
    """V3, V16: realm, uid and statement key must be those bound to the certificate's name."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello(**change))
        assert (await link.receive()).refusal.code == code
        assert (await link.ended())[1] == code
    assert here.fleet.hellos == []
    assert here.link.link.connected() == frozenset()


async def test_v15_refusals_at_the_link_are_on_record_within_bounds(here: FakeLinkHub) -> None:
    """V15: a foreign uid and a lock are findings with cluster, code and address; coming again does not fill the log."""
    agent = await joined(here)
    stranger = types_pb2.ClusterFacts(uid="7f9619ff-8b86-4011-b42d-00c04fc964ff")
    for _ in range(6):
        async with opened(here, agent) as link:
            await link.send(hello=agent.hello(facts=stranger))
            assert (await link.ended())[1] == "link/hello-refused"
    here.hub.clusters.lock("eu-1")
    async with opened(here, agent) as link:
        assert (await link.ended())[1] == "authority/locked"
    findings = [each for each in here.hub.audit.entries if each.action == "link.refuse"]
    assert [each.code for each in findings] == ["link/hello-refused"] * 3 + ["authority/locked"]
    assert {(each.decision, each.object, each.actor) for each in findings} == {
        ("finding", "Cluster//eu-1", "address:127.0.0.1")
    }
    assert findings[-1].details == {"cluster": "eu-1", "suppressed": "3"}


async def test_v16_a_first_frame_that_is_no_hello_is_refused(here: FakeLinkHub) -> None:
    """V16: nothing before Hello."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await link.send(receipt=link_pb2.Receipt())
        assert (await link.receive()).refusal.code == "link/hello-expected"
    assert here.fleet.receipts == []


async def test_v16_a_frame_that_is_too_large_ends_the_stream_and_nothing_else(here: FakeLinkHub) -> None:
    """V16: gRPC refuses it before it is parsed; the hub lives and the agent may come again."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(receipt=link_pb2.Receipt(statement=b"x" * (LIMITS.link_message + 1)))
        assert (await link.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with opened(here, agent) as link:
        await welcomed(link, agent)


async def test_v16_a_port_that_refuses_closes_the_stream_with_its_code(here: FakeLinkHub) -> None:
    """V16: a receipt the fleet refuses is not acknowledged; its code reaches the agent."""
    agent = await joined(here)
    here.fleet.refuse_with = BAD_MESSAGE("the receipt makes no sense")
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(receipt=link_pb2.Receipt())
        frame = await link.receive("refusal")
        assert (frame.refusal.code, frame.ack) == ("wire/bad-message", 1)


async def test_v16_a_mistake_of_the_hub_tells_a_stranger_nothing(here: FakeLinkHub) -> None:
    """V16: an unforeseen exception ends the call with a code and without its text, and not the process."""

    async def broken(cluster: str, status: link_pb2.AgentStatus) -> None:
        raise RuntimeError("secret in an exception")

    agent = await joined(here)
    here.fleet.agent_status = broken  # type: ignore[method-assign]
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(agent_status=link_pb2.AgentStatus())
        assert await link.ended() == (grpc.StatusCode.INTERNAL, "link/unexpected")
        assert "secret" not in str(await link.call.details())
    async with opened(here, agent) as link:
        await welcomed(link, agent)


async def test_v2_commands_are_a_closed_list_for_one_boot_with_an_end(here: FakeLinkHub) -> None:
    """V2: id, boot id and expiry on every command; the result comes back; nobody connected is an error."""
    agent = await joined(here)
    with pytest.raises(CellwardError) as refusal:
        here.link.link.send_command("eu-1", "resync")
    assert refusal.value.code == "link/not-connected"
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        sent = here.link.link.send_command("eu-1", "probe", "shop/cart/dev")
        command = (await link.receive("command")).command
        assert (command.id, command.kind, command.boot_id) == (sent, link_pb2.COMMAND_KIND_PROBE, "boot-of-eu-1")
        assert 0 < command.expires_unix - here.clock.now().timestamp() <= 120
        await link.send(command_result=link_pb2.CommandResult(id=sent, ok=True))
        await until(lambda: bool(here.fleet.results), "the result arrives")
    assert here.fleet.results[0][1].id == sent


async def test_commands_that_nobody_takes_are_bounded(here: FakeLinkHub) -> None:
    """A queue of commands has an end."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        for _ in range(LIMITS.commands):
            here.link.link.send_command("eu-1", "resync")
        with pytest.raises(CellwardError) as refusal:
            here.link.link.send_command("eu-1", "resync")
        assert refusal.value.code == "link/not-connected"


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
        assert (await first.ended(2))[1] == "authority/locked"
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{agent.uid}"]
    async with opened(here, agent) as again:
        assert (await again.ended())[1] == "authority/locked"
    finding = next(each for each in here.hub.audit.entries if each.action == "identity.copy")
    assert (finding.object, finding.code) == ("Cluster//eu-1", "link/two-live-streams")
    assert {finding.details["found"], finding.details["expected"]} == {"a-copy", "boot-of-eu-1"}


async def test_v7_copies_are_locked_also_when_that_cannot_be_recorded(here: FakeLinkHub) -> None:
    """V7, V16: a full log keeps no thief in, and leaves no zombie under the cluster's name."""

    async def full(*_: object, **__: object) -> None:
        raise FULL("the log has no room left")

    agent = await joined(here)
    async with opened(here, agent) as first:
        await welcomed(first, agent)
        here.hub.audit.record = full  # type: ignore[method-assign]
        answers = asyncio.create_task(answering(first))
        async with opened(here, agent, "s-2") as second:
            await second.send(hello=agent.hello(boot_id="a-copy"))
            assert (await second.ended())[1] == "store/full"
        await answers
    assert [str(lock) for lock in here.hub.clusters.locks] == [f"agent/{agent.uid}"]
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
        assert (await live.ended(2))[1] == "authority/locked"
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
        assert (await live.ended(2))[1] == "authority/locked"
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


async def test_a_topic_is_looked_at_once_per_change(here: FakeLinkHub) -> None:
    """A change of policy does not read a cluster's items again because those changed some time before."""
    asked: list[str] = []
    items = here.fleet.items

    async def counted(cluster: str, since: int) -> Any:
        asked.append(cluster)
        return await items(cluster, since)

    here.fleet.items = counted  # type: ignore[method-assign]
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        here.fleet.put("eu-1", item("cart"))
        await link.receive("desired_item")
        await link.receive("revision_mark")
        before = len(asked)
        for version in (1, 2, 3):
            here.policy.version = version
            here.changes.notify("policy")
            await link.receive("policy_notice")
        assert len(asked) == before


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


async def test_v13_a_receipt_is_acknowledged_without_waiting_for_a_heartbeat(here: FakeLinkHub) -> None:
    """V13: what the agent keeps until it is acknowledged, is acknowledged at once."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        await link.send(receipt=link_pb2.Receipt(accepted=True))
        assert (await link.receive(seconds=3)).ack == 2


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
