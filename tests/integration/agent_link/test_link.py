"""The real link of an agent against the hub's real listeners: join, resume, hand over, commands, content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry, RefusalText
from agent.link.interfaces import CellReport, CommandKind, ReceiptFacts
from agent.link.listed import Bounds
from agent.policy.interfaces import FetchedSet
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import content_pb2
from hub.authority.errors import LOCKED
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.merkle_audit import MerkleAudit
from tests.fakes.ports import FakeLinkHub

D1, D2, D3 = ("sha256:" + digit * 64 for digit in "123")


def a_hub(**limits: float) -> FakeLinkHub:
    """A hub whose audit log proves what it says; nobody waits long after it went away."""
    given = {"recheck": 0.1, "heartbeat": 0.2, "drain_min_ms": 10, "drain_max_ms": 50, **limits}
    hub = FakeLinkHub(SystemClock(), SyncLimits(**given))  # type: ignore[arg-type]
    hub.ports = replace(hub.ports, audit=MerkleAudit(REALM))
    return hub


async def an_agent(hub: FakeLinkHub, directory: Path, name: str = "eu-1") -> LinkedAgent:
    """An invited agent that has not started yet."""
    token = await hub.invite(name)
    return LinkedAgent(directory, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)


@pytest.fixture
async def hub() -> AsyncIterator[FakeLinkHub]:
    """A running hub."""
    async with a_hub().running() as running:
        yield running


def item(cell: str, digest: str = D1) -> DesiredItem:
    """A desired item of a test."""
    return DesiredItem(0, "shop", cell, "dev", digest, (D2,))


def receipt(cell: str, *, accepted: bool = True) -> ReceiptFacts:
    """A receipt of a test."""
    refusals = () if accepted else (RefusalText("policy/denied", "no", rule="r", object="Cell//x", next="fix it"),)
    return ReceiptFacts(1, "shop", cell, "dev", D1, accepted, refusals, b"statement")


async def test_v6_join_and_v1_restart_without_token(hub: FakeLinkHub, tmp_path: Path) -> None:
    """An agent joins with its token, and a restart uses the stored identity: the token is not needed again."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        assert agent.parts.cluster_name() == "eu-1"
    agent.token = ""
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up again")
    assert len({hello.facts.uid for _, hello in hub.fleet.hellos}) == 1
    assert hub.hub.clusters.rows["eu-1"].generation == 1
    state = tmp_path / "state"
    assert all((state / name).stat().st_mode & 0o777 == 0o600 for name in ("identity.json", "statement-key.pem"))


async def test_v6_a_refused_join_is_a_condition_and_is_tried_again(hub: FakeLinkHub, tmp_path: Path) -> None:
    """A bad token does not end the agent; a good one given later is taken without a restart."""
    agent = await an_agent(hub, tmp_path)
    good, agent.token = agent.token, "cwj_" + "0" * 64
    async with agent.boot():
        await until(agent.has_code("certificate", "authority/bad-token"), "the refusal is visible")
        (tmp_path / "token").write_text(good)
        await until(agent.is_ok("hub-link"), "the link is up")


async def test_items_reach_the_engine_durably_and_in_order(hub: FakeLinkHub, tmp_path: Path) -> None:
    """What the hub wants is on disk before it is handed on, and the revision follows."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        for cell in ("a", "b", "c"):
            hub.fleet.put("eu-1", item(cell))
        await until(lambda: len(agent.ports.items) == 3, "three items came")
        assert [i.cell for i in agent.ports.items] == ["a", "b", "c"]
        assert [i.cell for i in await agent.db.items.list()] == ["a", "b", "c"]


async def test_hub_killed_and_back_resumes_without_a_relist(tmp_path: Path) -> None:
    """V1: the hub goes and comes; the agent sees only what is new, and what it sent meanwhile arrives."""
    hub = a_hub()
    async with hub.running():
        ports = int(hub.link.address.rpartition(":")[2]), int(hub.enrolment.address.rpartition(":")[2])
        agent = await an_agent(hub, tmp_path)
        boot = agent.boot()
        await boot.__aenter__()
        hub.fleet.put("eu-1", item("a"))
        await until(lambda: len(agent.ports.items) == 1, "the first item came")
        await until(lambda: agent.parts.client.sessions_welcomed == 1, "one session")
        await _revision(agent, 1)
    try:
        await until(lambda: not agent.is_ok("hub-link")(), "the loss is visible")
        await agent.parts.client.send_receipt(receipt("a"))
        await agent.parts.client.send_report(CellReport("shop", "a", "dev", "ready"))
        hub.fleet.put("eu-1", item("b"))
        async with hub.running(link_port=ports[0], enrolment_port=ports[1]):
            await until(lambda: [i.cell for i in agent.ports.items] == ["a", "b"], "only the new item came")
            await until(lambda: [r.cell for _, r in hub.fleet.receipts] == ["a"], "the receipt arrived")
            await _revision(agent, 2)
            assert [i.cell for i in agent.ports.items] == ["a", "b"]
    finally:
        await boot.__aexit__(None, None, None)


async def test_v1_a_hub_that_was_away_for_long_is_found_at_once(tmp_path: Path) -> None:
    """V1: while nobody listens the link's back-off does not grow, so the way back is as short after a day."""
    hub = a_hub()
    async with hub.running():
        ports = int(hub.link.address.rpartition(":")[2]), int(hub.enrolment.address.rpartition(":")[2])
        agent = await an_agent(hub, tmp_path)
        boot = agent.boot()
        await boot.__aenter__()
        await until(lambda: agent.parts.client.sessions_welcomed == 1, "one session")
    try:
        client = agent.parts.client
        failed = client.sessions_failed
        await until(lambda: "cannot be reached" in str(agent.condition("hub-link")), "dialling leads nowhere")
        assert client.sessions_failed <= failed + 1
        async with hub.running(link_port=ports[0], enrolment_port=ports[1]):
            await until(lambda: client.sessions_welcomed == 2, "it is back")
            await until(agent.is_ok("hub-link"), "and says so")
    finally:
        await boot.__aexit__(None, None, None)


async def _revision(agent: LinkedAgent, revision: int) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while await agent.db.meta.get("link.revision") != str(revision):
        assert loop.time() < deadline, f"revision {revision} was never reached"
        await asyncio.sleep(0.01)


async def test_v14_a_hub_that_forgot_its_items_deletes_nothing(tmp_path: Path) -> None:
    """V14: after a restore the hub names fewer items; the agent keeps them and says that they differ."""
    hub = a_hub()
    async with hub.running():
        ports = int(hub.link.address.rpartition(":")[2]), int(hub.enrolment.address.rpartition(":")[2])
        agent = await an_agent(hub, tmp_path)
        boot = agent.boot()
        await boot.__aenter__()
        hub.fleet.put("eu-1", item("a"))
        await _revision(agent, 1)
    try:
        hub.fleet.rows.clear()
        hub.hub_epoch = "hub-epoch-2"
        async with hub.running(link_port=ports[0], enrolment_port=ports[1]):
            await until(agent.has_code("desired-items", "link/items-differ"), "the difference is visible")
            assert [i.cell for i in await agent.db.items.list()] == ["a"]
            await until(agent.is_ok("hub-link"), "the link stays up")
    finally:
        await boot.__aexit__(None, None, None)


async def test_v13_a_receipt_is_repeated_until_the_hub_made_it_durable(hub: FakeLinkHub, tmp_path: Path) -> None:
    """The hub fails while it handles a receipt: the stream dies, the receipt does not; once acknowledged it is gone."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        hub.fleet.refuse_with = LOCKED("try later")
        await agent.parts.client.send_receipt(receipt("a", accepted=False))
        await until(lambda: len(hub.fleet.receipts) == 1, "the receipt arrived the second time")
        assert agent.parts.client.sessions_welcomed == 2
        _, arrived = hub.fleet.receipts[0]
        assert (arrived.refusals[0].rule, arrived.statement) == ("r", b"statement")
        while await agent.db.outbox.pending():
            await asyncio.sleep(0.01)
        assert len(hub.fleet.receipts) == 1


async def test_v5_renewal_loses_no_frame_in_either_direction(hub: FakeLinkHub, tmp_path: Path) -> None:
    """V5: certificates are renewed again and again while items and receipts flow; each of them arrives."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        for number in range(6):
            await agent.parts.keeper.renew()
            for part in ("x", "y", "z"):
                hub.fleet.put("eu-1", item(f"c{number}{part}"))
                await agent.parts.client.send_receipt(receipt(f"c{number}{part}"))
                await agent.parts.client.send_report(CellReport("shop", f"c{number}{part}", "dev", "ready"))
            # Each renewal is a handover of its own, with all of this under way; one that the next renewals
            # overtake is shown in test_succession, and what many renewals at once cost in test_old_channel.
            moved = number + 2
            await until(lambda: agent.parts.client.sessions_welcomed == moved, "the session moved over")  # noqa: B023
        names = {f"c{number}{part}" for number in range(6) for part in "xyz"}
        await until(lambda: {i.cell for i in agent.ports.items} == names, "all items came")
        await until(lambda: {r.cell for _, r in hub.fleet.receipts} == names, "all receipts arrived")
        await until(lambda: {s.cell for _, s in hub.fleet.cell_statuses} == names, "all states arrived")
        await _revision(agent, 18)
        assert hub.hub.clusters.rows["eu-1"].generation == 7
        assert agent.parts.client.sessions_failed == 0
        assert agent.is_ok("certificate")()


async def test_v2_commands_run_once_for_this_boot(hub: FakeLinkHub, tmp_path: Path) -> None:
    """V2: diagnose runs and answers, renew is carried out by the link itself, an unknown subject is refused."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(lambda: "eu-1" in hub.links.streams, "the link is up")
        good = (await hub.link.link.send_command("eu-1", "diagnose", "link")).id
        bad = (await hub.link.link.send_command("eu-1", "diagnose", "../../etc/passwd")).id
        renew = (await hub.link.link.send_command("eu-1", "renew")).id
        rows = hub.links.rows
        outcomes = {"done", "refused"}
        await until(lambda: all(rows[one].state in outcomes for one in (good, bad, renew)), "all were answered")
        assert (rows[good].state, rows[good].result["facts"]) == ("done", {"seen": "diagnose"})
        assert (rows[bad].state, rows[bad].result["code"]) == ("refused", "link/command-refused")
        assert rows[renew].state == "done"
        assert [command.kind for command in agent.ports.commands] == [CommandKind.DIAGNOSE]
        assert hub.hub.clusters.rows["eu-1"].generation == 2


async def test_resync_asks_for_everything_again(hub: FakeLinkHub, tmp_path: Path) -> None:
    """After a resync command the hub sends every item anew."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        hub.fleet.put("eu-1", item("a"))
        await _revision(agent, 1)
        sent = await hub.link.link.send_command("eu-1", "resync")
        await until(lambda: [i.cell for i in agent.ports.items] == ["a", "a"], "the item came again")
        await until(lambda: hub.links.rows[sent.id].state == "done", "the result arrived on the next stream")


async def test_policy_notices_reach_the_policy_room(hub: FakeLinkHub, tmp_path: Path) -> None:
    """A new timestamp is announced on a live link, and at once after a connect."""
    hub.policy.version = 3
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(lambda: agent.ports.notices == [3], "the first version came with the welcome")
        hub.policy.version = 4
        hub.changes.notify("policy")
        await until(lambda: agent.ports.notices == [3, 4], "the next one came as a notice")


async def test_a_fleet_that_comes_back_does_not_fetch_what_it_has(hub: FakeLinkHub, tmp_path: Path) -> None:
    """The timestamp that the agent's policy set is of is no news at a connect; another one is, also a lower one."""
    hub.policy.version = 2
    agent = await an_agent(hub, tmp_path)
    assert agent.ports.policy().timestamp == 2
    async with agent.boot():
        await until(lambda: agent.parts.client.sessions_welcomed == 1, "welcomed")
        hub.policy.version = 1
        await hub.link.link.send_command("eu-1", "reconnect")
        await until(lambda: agent.ports.notices == [1], "only the other one was news")


async def test_content_is_fetched_in_full_absent_is_none_and_limits_hold(hub: FakeLinkHub, tmp_path: Path) -> None:
    """Several chunks make one piece; nothing larger than the limit is kept."""
    data = bytes(range(256)) * 1024
    digest = hub.content.put(data)
    empty = hub.content.put(b"")
    hub.content.metadata["timestamp", 1] = b"old"
    hub.content.metadata["timestamp", 2] = b"new"
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        content = agent.parts.content
        assert await content.fetch_digest(digest, len(data)) == data
        assert await content.fetch_digest(empty, 10) == b""
        assert await content.fetch_digest(D3, 10) is None
        assert await content.fetch_tuf("timestamp", None, 10) == b"new"
        assert await content.fetch_tuf("timestamp", 1, 10) == b"old"
        assert await content.fetch_tuf("root", 9, 10) is None
        with pytest.raises(CellwardError) as caught:
            await content.fetch_digest(digest, len(data) - 1)
        assert caught.value.code == "link/content-too-large"


async def test_documents_that_travel_with_their_item_are_not_fetched(hub: FakeLinkHub, tmp_path: Path) -> None:
    """What came with an item is there once, without a call; afterwards the hub is asked again."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        digest = hub.content.put(b"an envelope")
        hub.fleet.put("eu-1", item("cart", digest))
        await until(lambda: bool(agent.ports.items), "the item came")
        hub.content.blobs.clear()
        content = agent.parts.content
        assert await content.fetch_digest(digest, 100) == b"an envelope"
        assert await content.fetch_digest(digest, 100) is None


async def test_a_policy_set_comes_in_one_piece_or_singly(hub: FakeLinkHub, tmp_path: Path) -> None:
    """V16: a hub that has none, sends nonsense or does not know the question is asked singly; too much is not kept."""
    agent = await an_agent(hub, tmp_path)
    files = content_pb2.PolicyFiles(targets=[b"small"])
    files.metadata.add(name=content_pb2.TufMetadata(role="root", version=2), data=b"two")
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        content = agent.parts.content
        assert await content.fetch_set(1, 0, 1000) is None
        hub.content.blobs["set"] = files.SerializeToString()
        assert await content.fetch_set(1, 0, 1000) == FetchedSet({("root", 2): b"two"}, (b"small",))
        assert await content.fetch_set(1, 0, 10) is None
        hub.content.blobs["set"] = b"\xff" * 20
        assert await content.fetch_set(1, 0, 1000) is None

        async def unknown(root_version: int, snapshot_version: int) -> bytes | None:
            raise BAD_MESSAGE("the request names no content")

        hub.content.policy_set = unknown  # type: ignore[method-assign]
        assert await content.fetch_set(1, 0, 1000) is None


async def test_content_without_a_hub_is_unavailable(tmp_path: Path) -> None:
    """V1: with the hub away the caller gets a plain answer, not a hang."""
    hub = a_hub()
    async with hub.running():
        agent = await an_agent(hub, tmp_path)
        boot = agent.boot()
        await boot.__aenter__()
        await until(agent.is_ok("hub-link"), "the link is up")
    try:
        with pytest.raises(CellwardError) as caught:
            await agent.parts.content.fetch_digest(D1, 10)
        assert caught.value.code == "link/hub-unavailable"
    finally:
        await boot.__aexit__(None, None, None)


async def test_metrics_and_status_arrive(hub: FakeLinkHub, tmp_path: Path) -> None:
    """Snapshots of the registry and the agent's conditions reach the hub."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(lambda: "eu-1" in hub.metrics.snapshots, "a snapshot arrived")

        def named() -> set[str]:
            statuses = hub.fleet.agent_statuses
            return {condition.name for condition in statuses[-1][1].conditions} if statuses else set()

        await until(lambda: named() >= {"hub-link", "certificate"}, "a status with both conditions arrived")
        _, status = hub.fleet.agent_statuses[-1]
        assert (status.policy.targets, status.authority) == (4, "authors")
        assert status.certificate_expires_unix > hub.clock.now().timestamp()


async def test_v4_a_locked_agent_stays_out_and_stays_alive(hub: FakeLinkHub, tmp_path: Path) -> None:
    """A lock cuts the link and is visible; the agent goes on without a hub."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        hub.hub.clusters.lock("eu-1")
        await until(agent.has_code("hub-link", "authority/locked"), "the lock is visible")
        assert await agent.recorder.record(Entry("cell.apply", "Cell//x", "done")) >= 1


async def test_items_that_differ_although_revisions_went_on_are_asked_for_again(
    hub: FakeLinkHub, tmp_path: Path
) -> None:
    """An item lost on this side comes back with the next change: digests are compared, not only numbers."""
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        hub.fleet.put("eu-1", item("a"))
        await _revision(agent, 1)
        await agent.db.items.remove("shop", "a", "dev")
        hub.fleet.put("eu-1", item("b"))
        await _revision(agent, 2)
        assert [i.cell for i in await agent.db.items.list()] == ["a", "b"]
        await until(agent.is_ok("desired-items"), "both sides agree")


async def test_v14_an_item_that_was_never_accepted_may_be_withdrawn(tmp_path: Path) -> None:
    """V14 the other way: what nothing came of is forgotten once a full listing no longer names it."""
    hub = a_hub()
    async with hub.running():
        ports = int(hub.link.address.rpartition(":")[2]), int(hub.enrolment.address.rpartition(":")[2])
        agent = await an_agent(hub, tmp_path)
        agent.ports.accepted = False
        boot = agent.boot()
        await boot.__aenter__()
        hub.fleet.put("eu-1", item("a"))
        hub.fleet.put("eu-1", item("b"))
        await _revision(agent, 2)
    try:
        del hub.fleet.rows["eu-1"]["shop", "a", "dev"]
        hub.hub_epoch = "hub-epoch-2"
        async with hub.running(link_port=ports[0], enrolment_port=ports[1]):
            await until(lambda: bool(agent.ports.withdrawn), "the engine is asked")
            await until(agent.is_ok("desired-items"), "both sides agree")
            assert [i.cell for i in agent.ports.withdrawn] == ["a"]
            assert [i.cell for i in await agent.db.items.list()] == ["b"]
    finally:
        await boot.__aexit__(None, None, None)


async def test_v16_a_flood_of_items_has_an_end(
    hub: FakeLinkHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub must not fill disk and memory with cells nobody signed; those known before go on."""
    monkeypatch.setattr("agent.link.desired.BOUNDS", Bounds(items=2))
    agent = await an_agent(hub, tmp_path)
    async with agent.boot():
        await until(agent.is_ok("hub-link"), "the link is up")
        for cell in ("a", "b", "c", "d"):
            hub.fleet.put("eu-1", item(cell))
        await until(agent.has_code("desired-items", "link/items-differ"), "the rest is left out")
        hub.fleet.put("eu-1", item("a", D3))
        await until(lambda: (agent.ports.items[-1].cell, agent.ports.items[-1].deployment_digest) == ("a", D3), "known")
        assert {one.cell for one in await agent.db.items.list()} == {"a", "b"}


async def test_v16_an_item_nobody_can_use_does_not_take_the_link_down(hub: FakeLinkHub, tmp_path: Path) -> None:
    """One document under names no agent takes: the link stays, others are served, and a restart is no loop either."""
    agent = await an_agent(hub, tmp_path)
    for boot in (1, 2):
        async with agent.boot():
            hub.fleet.put("eu-1", item("a-cell-name-of-more-than-twenty-four"))
            revision = hub.fleet.put("eu-1", item(f"b{boot}"))
            await _revision(agent, revision)
            assert agent.ports.items[-1].cell == f"b{boot}"
            await until(agent.has_code("desired-items", "link/item-unusable"), "somebody hears of it")
            assert agent.is_ok("hub-link")()
            assert (agent.parts.client.sessions_welcomed, agent.parts.client.sessions_failed) == (1, 0)


async def test_v7_an_agent_that_is_asked_for_a_sign_of_life_gives_it_at_once(tmp_path: Path) -> None:
    """V7: long before its next heartbeat; otherwise a copy could take the place of an agent that is only quiet."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(heartbeat=30.0))
    async with hub.running():
        agent = LinkedAgent(
            tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, await hub.invite("eu-1")
        )
        agent.heartbeat = 30.0
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await until(lambda: "eu-1" in hub.link.link.connected(), "the hub knows the stream")
            await asyncio.sleep(0.5)
            assert await hub.link.link._sessions["eu-1"].answers(3.0)
