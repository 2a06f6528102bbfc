"""The Sync stream: order, resume, refusals with untouched state, commands (V2, V13, V14, V16)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest

from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.version import VERSION, release_of
from cellward.wire.codec import MAX_CARRIED_SET, item_from_wire, items_digest
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import content_pb2, link_pb2, types_pb2
from tests.fakes.bare_agent import BareStream, until
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.streams import LIMITS, item, joined, opened, welcomed


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


async def test_documents_travel_with_a_change_to_agents_that_know_it(here: FakeLinkHub) -> None:
    """Only to those: an older agent is sent what it was always sent; and nobody on resume, who mostly holds them."""
    agent = await joined(here)
    digest = here.content.put(b"an envelope")
    async with opened(here, agent) as link:
        await welcomed(link, agent, features=["carried-documents"])
        here.fleet.put("eu-1", replace(item("cart"), deployment_digest=digest))
        carried = (await link.receive("desired_item")).desired_item.documents
        assert [(each.digest, each.envelope) for each in carried] == [(digest, b"an envelope")]
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello(features=["carried-documents"]))
        await link.receive("welcome")
        assert not (await link.receive("desired_item")).desired_item.documents
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        here.fleet.put("eu-1", replace(item("checkout"), deployment_digest=digest))
        assert not (await link.receive("desired_item")).desired_item.documents


async def test_the_mark_travels_with_the_last_item_to_agents_that_know_it(here: FakeLinkHub) -> None:
    """One frame less for each change, on resume too; without an item the mark is a frame of its own."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent, features=["carried-mark"])
        here.fleet.put("eu-1", item("cart"))
        alone = await link.receive("desired_item")
        assert alone.desired_item.mark.revision == 1
        here.fleet.put("eu-1", item("checkout"))
        following = await link.receive("desired_item")
        assert (following.seq, following.desired_item.mark.revision) == (alone.seq + 1, 2)
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello(features=["carried-mark"]))
        await link.receive("welcome")
        first, last = await link.receive("desired_item"), await link.receive("desired_item")
        assert [each.desired_item.HasField("mark") for each in (first, last)] == [False, True]
        items = [item_from_wire(each.desired_item) for each in (first, last)]
        assert last.desired_item.mark.items_digest == items_digest(items)


async def test_policy_travels_with_its_notice_to_agents_that_know_it(here: FakeLinkHub) -> None:
    """What is sent is what the agent said last that it lacks; one too large to send along is fetched."""
    agent, asked = await joined(here), []
    files = content_pb2.PolicyFiles()
    files.metadata.add(name=content_pb2.TufMetadata(role="root", version=2), data=b"two")

    async def policy_set(root_version: int, snapshot_version: int) -> bytes:
        asked.append((root_version, snapshot_version))
        return files.SerializeToString()

    here.content.policy_set = policy_set  # type: ignore[method-assign]

    async def noticed(link: BareStream, version: int) -> link_pb2.PolicyNotice:
        here.policy.version = version
        here.changes.notify("policy")
        return (await link.receive("policy_notice")).policy_notice

    async with opened(here, agent) as link:
        await welcomed(link, agent, features=["carried-policy"], policy=link_pb2.PolicyVersions(root=1, snapshot=4))
        found = await noticed(link, 9)
        assert (found.timestamp_version, found.files, found.held.root_version) == (9, files, 1)
        await link.send(agent_status=link_pb2.AgentStatus(policy=link_pb2.PolicyVersions(root=2, snapshot=7)))
        await until(lambda: bool(here.fleet.agent_statuses), "the state of the agent arrives")
        assert (await noticed(link, 10)).held.snapshot_version == 7
        files.targets.append(bytes(MAX_CARRIED_SET))
        assert not (await noticed(link, 11)).HasField("files")
    assert asked[:2] == [(1, 4), (2, 7)]
    files.ClearField("targets")
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        assert not (await noticed(link, 12)).HasField("files")


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


async def test_a_call_cancelled_while_its_end_is_written_ends_whole(
    here: FakeLinkHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that stops closes its half and is gone a moment later: no stream of it stays open on the hub."""
    entered, gate, closed = asyncio.Event(), asyncio.Event(), here.links.closed

    async def slowly(streams: Sequence[tuple[str, str]]) -> None:
        entered.set()
        await gate.wait()
        await closed(streams)

    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        monkeypatch.setattr(here.links, "closed", slowly)
        # Only what is noted from now on: nothing was waiting.
        entered.clear()
        await link.call.done_writing()
        async with asyncio.timeout(30):
            await entered.wait()
    # The channel is closed: the hub hears of the cancellation before it hears anything of the next call.
    async with opened(here, await joined(here, "us-1")) as link:
        await link.send(seq=7)
        await link.ended()
    gate.set()
    await until(lambda: here.fleet.open["eu-1"] == [], "the stream is closed on the hub")
    assert "eu-1" not in here.links.streams


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


async def test_v1_an_agent_too_far_from_the_hubs_version_is_refused_and_known(here: FakeLinkHub) -> None:
    """V1, V15: the link is refused with a code and a next step; people see the version, and a near one is welcomed."""
    own = release_of(VERSION)
    assert own is not None
    agent = await joined(here)
    far = f"{own.major}.{own.minor + 2}.0"
    async with opened(here, agent) as link:
        await link.send(hello=agent.hello(agent_version=far))
        refusal = (await link.receive()).refusal
        assert refusal.code == "wire/version-skew"
        assert "cellward clusters upgrade" in refusal.next
        assert (await link.ended())[1] == "wire/version-skew"
    assert [hello.agent_version for _, hello in here.fleet.hellos] == [far]
    assert here.link.link.connected() == frozenset()
    for near in (f"{own.major}.{own.minor + 1}.7", VERSION, ""):
        async with opened(here, agent) as link:
            await link.send(hello=agent.hello(agent_version=near))
            assert (await link.receive()).WhichOneof("body") == "welcome"


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
        await here.link.link.send_command("eu-1", "resync")
    assert refusal.value.code == "link/not-connected"
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        sent = (await here.link.link.send_command("eu-1", "probe", "shop/cart/dev")).id
        command = (await link.receive("command")).command
        assert (command.id, command.kind, command.boot_id) == (sent, link_pb2.COMMAND_KIND_PROBE, "boot-of-eu-1")
        assert 0 < command.expires_unix - here.clock.now().timestamp() <= 120
        assert here.links.rows[sent].state == "sent"
        facts = {"seen": "x" * 1000}
        await link.send(command_result=link_pb2.CommandResult(id=sent, ok=True, facts=facts))
        await until(lambda: here.links.rows[sent].state == "done", "the result is kept")
        await link.send(command_result=link_pb2.CommandResult(id=sent, refusal=types_pb2.Refusal(code="link/late")))
        await link.send(command_result=link_pb2.CommandResult(id="another's\0", ok=True))
        await link.send(cell_status=link_pb2.CellStatus())
        await until(lambda: bool(here.fleet.cell_statuses), "what came after was handled")
    row = here.links.rows[sent]
    assert (row.state, row.result) == ("done", {"facts": {"seen": "x" * 500}}), "the first outcome stays, within bounds"


async def test_commands_that_nobody_takes_are_bounded(here: FakeLinkHub) -> None:
    """A queue of commands has an end."""
    agent = await joined(here)
    async with opened(here, agent) as link:
        await welcomed(link, agent)
        # Nobody is woken, so nobody takes one.
        here.links.notify = lambda _: None
        for _ in range(LIMITS.commands):
            await here.link.link.send_command("eu-1", "resync")
        with pytest.raises(CellwardError) as refusal:
            await here.link.link.send_command("eu-1", "resync")
        assert refusal.value.code == "link/not-connected"


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


async def test_v13_a_receipt_is_acknowledged_without_waiting_for_a_heartbeat() -> None:
    """V13: what the agent keeps until it is acknowledged, is acknowledged at once."""
    async with FakeLinkHub(SystemClock(), replace(LIMITS, heartbeat=600.0)).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            await welcomed(link, agent)
            await link.send(receipt=link_pb2.Receipt(accepted=True))
            assert (await link.receive()).ack == 2


async def test_v13_a_receipt_and_the_state_of_its_cell_are_acknowledged_together_and_at_once() -> None:
    """V13: one frame for both, and nothing is waited for once both were handled."""
    async with FakeLinkHub(SystemClock(), replace(LIMITS, heartbeat=600.0, gather=600.0)).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            await welcomed(link, agent)
            await link.send(receipt=link_pb2.Receipt(revision=1, project="shop", accepted=True))
            await link.send(cell_status=link_pb2.CellStatus(project="shop", cell="cart"))
            assert (await link.receive("heartbeat")).ack == 3


async def test_a_report_that_comes_alone_is_acknowledged_with_what_follows() -> None:
    """Nobody waits for it; who asks is told of all."""
    async with FakeLinkHub(SystemClock(), replace(LIMITS, heartbeat=600.0, gather=0.5)).running() as here:
        agent = await joined(here)
        async with opened(here, agent) as link:
            await welcomed(link, agent)
            for depth in (1, 2, 3):
                await link.send(agent_status=link_pb2.AgentStatus(spool_depth=depth))
            assert (await link.receive("heartbeat")).ack == 4
